"""The model of the comparison: a 1-D CNN on windows of 128 readings of 6 channels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converter import build

LENGTH, CHANNELS, CLASSES = 128, 6, 4
NAMES = tuple(f"c{number}" for number in range(CHANNELS))
_FILTERS, _WIDTH = 16, 5


def write_bundle(folder: Path) -> Path:
    """Build the network with random weights and convert it: latency does not need sense.

    Returns:
        The bundle's file.
    """
    onnx.save(_network(), folder / "cnn.onnx")
    chance = np.random.default_rng(0)
    windows = chance.normal(size=(64, LENGTH, CHANNELS)).astype(np.float32)
    np.savez(folder / "validation.npz", windows=windows, label=np.arange(64) % CLASSES)
    recipe = {
        "name": "cnn",
        "version": "1.0.0",
        "model": "cnn.onnx",
        "labels": [f"class{number}" for number in range(CLASSES)],
        "data": {"path": "validation.npz", "label": "label"},
        "rate_hz": 100,
        "window": {"length": LENGTH, "hop": 1},
        "channels": [{"name": name} for name in NAMES],
        "quantize": {"int8": False},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return build(folder / "recipe.yaml").bundle


def _network() -> onnx.ModelProto:
    """Two convolutions with stride 2, the mean over time, a dense layer, softmax."""
    chance = np.random.default_rng(1)

    def weights(name: str, *shape: int) -> TensorProto:
        values = chance.normal(scale=0.3, size=shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    nodes = [
        helper.make_node("Transpose", ["window"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["turned", "w1", "b1"], ["c1"], pads=[2, 2], strides=[2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[2, 2], strides=[2]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    initializers = [
        weights("w1", _FILTERS, CHANNELS, _WIDTH),
        weights("b1", _FILTERS),
        weights("w2", _FILTERS, _FILTERS, _WIDTH),
        weights("b2", _FILTERS),
        weights("w3", _FILTERS, CLASSES),
        weights("b3", CLASSES),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, ["N", LENGTH, CHANNELS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
