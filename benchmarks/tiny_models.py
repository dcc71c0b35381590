"""Networks of the shapes of MLPerf Tiny, with random weights: for latency, not for answers.

Shapes after the reference models of https://github.com/mlcommons/tiny; batch normalisation is
folded into the weights, as it is in what people deploy. The same call gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

OPSET: Final = 17
_IR: Final = 9


class Net:
    """A network under construction: one chain of nodes, beginning at ``window``.

    Args:
        length: readings in a window.
        channels: values in a reading.
    """

    def __init__(self, length: int, channels: int) -> None:
        self._window = (length, channels)
        self._nodes: list[object] = []
        self._weights: list[TensorProto] = []
        self._chance = np.random.default_rng(0)
        self.last = "window"
        self.channels = channels

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        """One node on what came last, or on the inputs given."""
        name = f"t{len(self._nodes)}"
        inputs = inputs or (self.last,)
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        self.last = name
        return name

    def image(self, height: int, width: int, channels: int) -> None:
        """Rows of pixels, channels last, as channels of an image."""
        shape = self._constant(np.array([-1, height, width, channels]))
        self.add("Reshape", "window", shape)
        self.add("Transpose", perm=[0, 3, 1, 2])
        self.channels = channels

    def conv(
        self,
        out: int,
        kernel: tuple[int, int],
        *,
        stride: int = 1,
        source: str = "",
        relu: bool = True,
        depthwise: bool = False,
    ) -> str:
        """A convolution that keeps the size but for its stride; depthwise keeps the channels."""
        groups = self.channels if depthwise else 1
        weights = self._random(out, self.channels // groups, *kernel)
        self.add(
            "Conv",
            source or self.last,
            weights,
            self._random(out),
            auto_pad="SAME_UPPER",
            strides=[stride, stride],
            group=groups,
        )
        self.channels = out
        return self.add("Relu") if relu else self.last

    def dense(self, inputs: int, out: int, *, relu: bool = False) -> None:
        """A fully connected layer."""
        self.add("Gemm", self.last, self._random(inputs, out), self._random(out))
        if relu:
            self.add("Relu")

    def classify(self, classes: int) -> None:
        """The mean over the image, a dense layer, a softmax."""
        self.add("GlobalAveragePool")
        self.add("Flatten", axis=1)
        self.dense(self.channels, classes)
        self.add("Softmax", axis=1)

    def finish(self, name: str, width: int) -> ModelProto:
        """The network: ``window`` (N, length, channels) to ``scores`` (N, width)."""
        self.add("Identity")
        self._nodes[-1].output[0] = "scores"  # type: ignore[attr-defined]
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info("window", TensorProto.FLOAT, ["N", *self._window])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", width])],
            self._weights,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR)

    def _random(self, *shape: int) -> str:
        """Weights that keep the size of what passes through them; biases are small."""
        fan_in = math.prod(shape[1:]) if len(shape) == 4 else shape[0]
        values = self._chance.normal(size=shape) * math.sqrt(2 / fan_in)
        return self._constant(values.astype(np.float32))

    def _constant(self, values: np.ndarray) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name


def anomaly_mlp() -> ModelProto:
    """An autoencoder on five frames of 128 mel bands: 640, 4 x 128, 8, 4 x 128, 640."""
    net = Net(5, 128)
    net.add("Flatten", axis=1)
    sizes = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    for inputs, out in pairwise(sizes):
        net.dense(inputs, out, relu=True)
    net.dense(128, 640)
    return net.finish("anomaly_mlp", 640)


def keyword_ds_cnn() -> ModelProto:
    """Keywords from 49 frames of 10 coefficients: a convolution, four separable ones of 64."""
    net = Net(49, 10)
    net.image(49, 10, 1)
    net.conv(64, (10, 4), stride=2)
    for _ in range(4):
        _separable(net, 64)
    net.classify(12)
    return net.finish("keyword_ds_cnn", 12)


def resnet_8() -> ModelProto:
    """Images of 32 x 32 pixels: three residual blocks of 16, 32 and 64 channels."""
    net = Net(32 * 32, 3)
    net.image(32, 32, 3)
    net.conv(16, (3, 3))
    for out, stride in ((16, 1), (32, 2), (64, 2)):
        start, channels = net.last, net.channels
        net.conv(out, (3, 3), stride=stride)
        main = net.conv(out, (3, 3), relu=False)
        if stride > 1:
            net.channels = channels
            start = net.conv(out, (1, 1), stride=stride, source=start, relu=False)
        net.add("Add", main, start)
        net.add("Relu")
    net.classify(10)
    return net.finish("resnet_8", 10)


def mobilenet_v1() -> ModelProto:
    """A person in 96 x 96 pixels or not: MobileNetV1 at a quarter of its width."""
    net = Net(96 * 96, 3)
    net.image(96, 96, 3)
    net.conv(8, (3, 3), stride=2)
    blocks = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5]
    for out, stride in [*blocks, (256, 2), (256, 1)]:
        _separable(net, out, stride=stride)
    net.classify(2)
    return net.finish("mobilenet_v1_025", 2)


def _separable(net: Net, out: int, *, stride: int = 1) -> None:
    net.conv(net.channels, (3, 3), stride=stride, depthwise=True)
    net.conv(out, (1, 1))


def parameters(model: ModelProto) -> int:
    """How many weights a network has, those of whole numbers (shapes) not counted."""
    floats = (each for each in model.graph.initializer if each.data_type == TensorProto.FLOAT)
    return sum(math.prod(each.dims) for each in floats)


MODELS: Final[dict[str, Callable[[], ModelProto]]] = {
    "anomaly_mlp": anomaly_mlp,
    "keyword_ds_cnn": keyword_ds_cnn,
    "resnet_8": resnet_8,
    "mobilenet_v1_025": mobilenet_v1,
}
