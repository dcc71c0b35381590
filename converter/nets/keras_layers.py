"""Every layer of Keras that is understood, as nodes: one function a layer, one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from converter.nets import keras_norm, keras_space
from converter.nets.activations import elu, leaky_relu
from converter.nets.keras_model import Call
from converter.nets.keras_recurrent import bidirectional, recurrent
from converter.nets.keras_space import axes, channels_last, kernel_bias
from converter.nets.layers import Layers, Value
from edge_agent.contract.errors import ConfigError

Lowering = Callable[[Layers, Call, Sequence[Value]], Value]


def _dense(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    kernel, bias = kernel_bias(call)
    return layers.dense(given[0], kernel, bias)


def _prelu(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    x = layers.rows(given[0])
    name = layers.graph.add("PRelu", x.name, layers.graph.constant(call.weights[0]))
    return Value(name, x.shape)


def _flatten(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    x = channels_last(layers, call, given[0]) if len(given[0].shape) > 1 else given[0]
    return layers.reshape(x, [int(np.prod(x.shape))])


def _reshape(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    shape = [int(axis) for axis in call.config["target_shape"]]
    if shape.count(-1) == 1:
        known = -int(np.prod(shape))
        shape[shape.index(-1)] = int(np.prod(given[0].shape)) // max(known, 1)
    return layers.reshape(given[0], shape)


def _permute(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    return layers.permute(given[0], [axis - 1 for axis in call.config["dims"]])


def _repeat(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    x = layers.rows(given[0])
    times = int(call.config["n"])
    y = layers.reshape(x, (1, *x.shape))
    tiles = layers.graph.constant((1, times, 1), np.int64)
    return Value(layers.graph.add("Tile", y.name, tiles), (times, *x.shape))


def _rescale(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    x = given[0]
    scale, offset = (np.asarray(call.config.get(k, d)) for k, d in (("scale", 1), ("offset", 0)))
    return layers.affine(x, scale, offset)


def _merge(layers: Layers, _: Call, given: Sequence[Value], *, op: str) -> Value:
    return layers.merge(op, given)


def _average(layers: Layers, _: Call, given: Sequence[Value]) -> Value:
    return layers.scaled("Mul", layers.merge("Add", given), 1 / len(given))


def _concat(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    (axis,) = axes(call.config.get("axis", -1), len(given[0].shape))
    return layers.concat(given, axis)


def _relu(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    x, config = given[0], call.config
    top = config.get("max_value")
    slope = float(config.get("negative_slope") or 0)
    if config.get("threshold"):
        raise ConfigError("a threshold is not supported")
    if slope:
        y = leaky_relu(layers, x, slope)
        return y if top is None else layers.merge("Min", [y, _number(layers, y, top)])
    return layers.unary("Relu", x) if top is None else layers.clip(x, 0.0, float(top))


def _number(layers: Layers, like: Value, number: float) -> Value:
    return Value(layers.graph.constant(number), like.shape, like.moved, like.flat_of)


def _leaky(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    slope = call.config.get("negative_slope", call.config.get("alpha", 0.3))
    return leaky_relu(layers, given[0], float(slope))


def _elu(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    return elu(layers, given[0], float(call.config.get("alpha", 1.0)))


def _softmax(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    places = axes(call.config.get("axis", -1), len(given[0].shape))
    if places != [len(given[0].shape) - 1]:
        raise ConfigError("only axis=-1 is supported")
    return layers.softmax(given[0])


def _same(_: Layers, __: Call, given: Sequence[Value]) -> Value:
    return given[0]


LAYERS: Final[dict[str, Lowering]] = {
    "Activation": _same,  # its settings name the activation, as those of other layers do
    "ActivityRegularization": _same,
    "Add": partial(_merge, op="Add"),
    "AlphaDropout": _same,
    "Average": _average,
    "AveragePooling1D": partial(keras_space.pool, op="AveragePool"),
    "AveragePooling2D": partial(keras_space.pool, op="AveragePool"),
    "BatchNormalization": keras_norm.batch_norm,
    "Bidirectional": bidirectional,
    "Concatenate": _concat,
    "Conv1D": keras_space.conv,
    "Conv2D": keras_space.conv,
    "Cropping1D": partial(keras_space.pad, field="cropping", sign=-1),
    "Cropping2D": partial(keras_space.pad, field="cropping", sign=-1),
    "Dense": _dense,
    "DepthwiseConv1D": keras_space.depthwise,
    "DepthwiseConv2D": keras_space.depthwise,
    "Dropout": _same,
    "ELU": _elu,
    "Flatten": _flatten,
    "GRU": recurrent,
    "GaussianDropout": _same,
    "GaussianNoise": _same,
    "GlobalAveragePooling1D": partial(keras_space.pool_all, op="GlobalAveragePool"),
    "GlobalAveragePooling2D": partial(keras_space.pool_all, op="GlobalAveragePool"),
    "GlobalMaxPooling1D": partial(keras_space.pool_all, op="GlobalMaxPool"),
    "GlobalMaxPooling2D": partial(keras_space.pool_all, op="GlobalMaxPool"),
    "LSTM": recurrent,
    "LayerNormalization": keras_norm.layer_norm,
    "LeakyReLU": _leaky,
    "MaxPooling1D": partial(keras_space.pool, op="MaxPool"),
    "MaxPooling2D": partial(keras_space.pool, op="MaxPool"),
    "Maximum": partial(_merge, op="Max"),
    "Minimum": partial(_merge, op="Min"),
    "Multiply": partial(_merge, op="Mul"),
    "Normalization": keras_norm.normalization,
    "PReLU": _prelu,
    "Permute": _permute,
    "ReLU": _relu,
    "RepeatVector": _repeat,
    "Rescaling": _rescale,
    "Reshape": _reshape,
    "SeparableConv1D": keras_space.separable,
    "SeparableConv2D": keras_space.separable,
    "SimpleRNN": recurrent,
    "Softmax": _softmax,
    "SpatialDropout1D": _same,
    "SpatialDropout2D": _same,
    "Subtract": partial(_merge, op="Sub"),
    "TimeDistributed": _same,  # replaced by the layer inside, which sees only the last axis
    "UpSampling1D": keras_space.upsample,
    "UpSampling2D": keras_space.upsample,
    "ZeroPadding1D": partial(keras_space.pad, field="padding", sign=1),
    "ZeroPadding2D": partial(keras_space.pad, field="padding", sign=1),
}
