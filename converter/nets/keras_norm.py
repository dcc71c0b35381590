"""Keras's normalizing layers as nodes, and BatchNormalization in the weights before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.nets.keras_model import Call, KerasModel, naming
from converter.nets.keras_space import axes
from converter.nets.layers import Layers, Value
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]
_LINEAR: Final = (None, "linear")
_SPATIAL: Final = frozenset({
    "Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D",
})  # fmt: skip


def folded_norms(model: KerasModel) -> list[Call]:
    """The calls with each BatchNormalization folded into the layer whose output only it takes."""
    readers = Counter(name for call in model.calls for name in call.inputs)
    readers.update(model.outputs.values())
    makers: dict[str, int] = {}
    calls: list[Call] = []
    for call in model.calls:
        place = makers.get(call.inputs[0], -1) if call.inputs else -1
        if call.kind == "BatchNormalization" and place >= 0 and readers[call.inputs[0]] == 1:
            with naming(call):
                folded = _with_norm(calls[place], call)
            if folded is not None:
                calls[place] = folded
                makers[call.output] = place
                continue
        makers[call.output] = len(calls)
        calls.append(call)
    return calls


def batch_norm(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    """Scale and offset on one axis."""
    scale, offset = norm_factors(call)
    return _on_axis(layers, given[0], call.config.get("axis", -1), scale, offset)


def layer_norm(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    """Mean 0 and variance 1 over the last axis, of every place by itself."""
    x = layers.rows(given[0])
    if axes(call.config.get("axis", -1), len(x.shape)) != [len(x.shape) - 1]:
        raise ConfigError("only axis=-1 is supported")
    parts = iter(call.weights)
    gamma = next(parts) if call.config.get("scale", True) else np.ones(x.shape[-1])
    beta = next(parts) if call.config.get("center", True) else np.zeros(x.shape[-1])
    names = [layers.graph.constant(gamma), layers.graph.constant(beta)]
    epsilon = float(call.config.get("epsilon", 1e-3))
    name = layers.graph.add("LayerNormalization", x.name, *names, axis=-1, epsilon=epsilon)
    return Value(name, x.shape)


def normalization(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    """(x - mean) / deviation, by numbers that were computed from data or given."""
    mean, variance = (call.config.get(key) for key in ("mean", "variance"))
    if mean is None:
        mean, variance = call.weights[:2]
    if call.config.get("invert"):
        raise ConfigError("invert=True is not supported")
    deviation = np.maximum(np.sqrt(np.asarray(variance, np.float64)), 1e-7)
    shift = -np.asarray(mean, np.float64) / deviation
    axis = call.config.get("axis", -1)
    scale = 1 / deviation
    return _on_axis(layers, given[0], -1 if axis is None else axis, scale.ravel(), shift.ravel())


def _on_axis(layers: Layers, x: Value, axis: Any, scale: F64, offset: F64) -> Value:
    places = axes(axis, len(x.shape))
    if len(places) != 1:
        raise ConfigError("only one axis is supported")
    last = len(x.shape) - 1
    if scale.size > 1 and scale.size != x.shape[places[0]]:
        raise ConfigError(f"{scale.size} numbers for {list(x.shape)}")
    if places == [last] or scale.size == 1:
        return layers.affine(x, scale, offset)
    order = [axis for axis in range(last + 1) if axis != places[0]] + places
    y = layers.affine(layers.permute(x, order), scale, offset)
    return layers.permute(y, [order.index(axis) for axis in range(last + 1)])


def _with_norm(call: Call, norm: Call) -> Call | None:
    """A layer with a BatchNormalization behind it in its weights; None when it cannot be."""
    config = call.config
    plain = config.get("activation") in _LINEAR and call.weights
    axis = norm.config.get("axis", -1)
    last = -1 if call.kind == "Dense" else int(call.kind[-2]) + 1 if call.kind in _SPATIAL else None
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if not plain or last is None or axis not in {-1, last}:
        return None
    if config.get("data_format", "channels_last") == "channels_first":
        return None
    scale, offset = norm_factors(norm)
    weights = list(call.weights)
    bias: F64 = np.zeros(len(scale))
    if config.get("use_bias", True):
        bias = weights.pop().astype(np.float64)
    kernel = weights.pop().astype(np.float64)
    shape = (*kernel.shape[:-2], -1) if call.kind.startswith("Depthwise") else kernel.shape
    flat = kernel.reshape(shape)
    if flat.shape[-1] != len(scale) or len(bias) != len(scale):
        return None
    folded = (flat * scale).reshape(kernel.shape)
    # Kept in float64 until the graph is written, so that the product is rounded once.
    parts: tuple[Any, ...] = (*weights, folded, bias * scale + offset)
    settings = {**config, "use_bias": True}
    return Call(call.kind, call.name, settings, parts, call.inputs, norm.output)


def norm_factors(call: Call) -> tuple[F64, F64]:
    """Scale and offset that a BatchNormalization comes down to."""
    parts = [part.astype(np.float64) for part in call.weights]
    mean, variance = parts[-2:]
    scale = 1 / np.sqrt(variance + float(call.config.get("epsilon", 1e-3)))
    scale = scale * parts[0] if call.config.get("scale", True) else scale
    beta = parts[-3] if call.config.get("center", True) else np.zeros(len(mean))
    return scale, beta - mean * scale
