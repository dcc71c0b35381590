"""Keras's layers that move a kernel over a space, and how Keras counts axes, as nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from converter.nets.keras_model import Call
from converter.nets.layers import Layers, Pads, Value, same_pads
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError


def conv(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    """A ``Conv1D`` or ``Conv2D``."""
    kernel, bias = kernel_bias(call)
    x = channels_last(layers, call, given[0])
    window = _window(call, x, kernel.shape[:-2])
    y = layers.conv(
        x,
        kernel,
        bias,
        strides=window.strides,
        dilations=window.dilations,
        pads=window.pads,
        groups=int(call.config.get("groups", 1)),
    )
    return _as_given(layers, call, y)


def depthwise(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    """A ``DepthwiseConv1D`` or ``DepthwiseConv2D``."""
    kernel, bias = kernel_bias(call)
    x = channels_last(layers, call, given[0])
    y = _each_channel(layers, call, x, kernel, bias)
    return _as_given(layers, call, y)


def separable(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    """A depthwise convolution, then one of single places."""
    depth, point, *rest = call.weights
    x = channels_last(layers, call, given[0])
    y = _each_channel(layers, call, x, depth, None)
    ones = (1,) * (point.ndim - 2)
    none = ((0, 0),) * len(ones)
    bias = rest[0] if rest else None
    y = layers.conv(y, point, bias, strides=ones, dilations=ones, pads=none)
    return _as_given(layers, call, y)


def pool(layers: Layers, call: Call, given: Sequence[Value], *, op: str) -> Value:
    """``MaxPool`` or ``AveragePool``."""
    x = channels_last(layers, call, given[0])
    size = _numbers(call.config["pool_size"], len(x.shape) - 1)
    strides = _numbers(call.config.get("strides") or size, len(x.shape) - 1)
    none = ((0, 0),) * len(size)
    same = call.config.get("padding", "valid") == "same"
    pads = same_pads(x.shape[:-1], size, strides, (1,) * len(size)) if same else none
    return _as_given(layers, call, layers.pool(op, x, size=size, strides=strides, pads=pads))


def pool_all(layers: Layers, call: Call, given: Sequence[Value], *, op: str) -> Value:
    """``GlobalMaxPool`` or ``GlobalAveragePool``."""
    x = channels_last(layers, call, given[0])
    keep = bool(call.config.get("keepdims", False))
    y = layers.pool_all(op, x, keep=keep)
    return _as_given(layers, call, y) if keep else y


def pad(layers: Layers, call: Call, given: Sequence[Value], *, field: str, sign: int) -> Value:
    """A border of zeros, or one that is cut off by a sign of -1."""
    x = channels_last(layers, call, given[0])
    space = len(x.shape) - 1
    amounts = call.config[field]
    amounts = [amounts] * space if isinstance(amounts, int) else list(amounts)
    if space == 1 and len(amounts) == 2:
        amounts = [amounts]
    pairs = [(a, a) if isinstance(a, int) else (a[0], a[1]) for a in amounts]
    pads = tuple((sign * before, sign * after) for before, after in pairs)
    return _as_given(layers, call, layers.pad(x, (*pads, (0, 0))))


def upsample(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    """Each place repeated."""
    if call.config.get("interpolation", "nearest") != "nearest":
        raise ConfigError("only interpolation='nearest' is supported")
    x = layers.moved(channels_last(layers, call, given[0]))
    size = _numbers(call.config["size"], len(x.shape) - 1)
    graph = layers.graph
    scales = graph.constant((1, 1, *size))
    name = graph.add(
        "Resize",
        x.name,
        "",
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    space = (length * times for length, times in zip(x.shape, size, strict=False))
    return _as_given(layers, call, Value(name, (*space, x.shape[-1]), moved=True))


def _each_channel(
    layers: Layers, call: Call, x: Value, kernel: F32, bias: NDArray[Any] | None
) -> Value:
    """Every channel by itself; kernel (space..., channels, filters of each)."""
    *space, channels, each = kernel.shape
    window = _window(call, x, space)
    flat = kernel.reshape(*space, 1, channels * each)
    return layers.conv(
        x,
        flat,
        bias,
        strides=window.strides,
        dilations=window.dilations,
        pads=window.pads,
        groups=channels,
    )


@dataclass(frozen=True)
class _Window:
    """How a kernel moves over the space."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads


def _window(call: Call, x: Value, size: Sequence[int]) -> _Window:
    rank = len(x.shape) - 1
    strides = _numbers(call.config.get("strides", 1), rank)
    dilations = _numbers(call.config.get("dilation_rate", 1), rank)
    padding = call.config.get("padding", "valid")
    if padding == "same":
        return _Window(strides, dilations, same_pads(x.shape[:-1], size, strides, dilations))
    if padding == "causal":
        return _Window(strides, dilations, (((size[0] - 1) * dilations[0], 0),))
    return _Window(strides, dilations, ((0, 0),) * rank)


def kernel_bias(call: Call) -> tuple[F32, F32 | None]:
    """The weights of a layer.

    Raises:
        ConfigError: they are not in the file.
    """
    wanted = 2 if call.config.get("use_bias", True) else 1
    if len(call.weights) != wanted:
        raise ConfigError(f"has {len(call.weights)} weights in the file instead of {wanted}")
    return call.weights[0], call.weights[1] if wanted == 2 else None


def channels_last(layers: Layers, call: Call, x: Value) -> Value:
    """``x`` with the channels last, whichever way the layer counts them."""
    if call.config.get("data_format") != "channels_first":
        return x
    # In the graph nothing moves: the last axis of the result already stands first there.
    rows = layers.rows(x)
    return Value(rows.name, (*rows.shape[1:], rows.shape[0]), moved=True)


def _as_given(layers: Layers, call: Call, y: Value) -> Value:
    """The result with the channels where the layer counts them."""
    if call.config.get("data_format") != "channels_first":
        return y
    moved = layers.moved(y)
    return Value(moved.name, (moved.shape[-1], *moved.shape[:-1]))


def _numbers(value: Any, count: int) -> tuple[int, ...]:
    return (int(value),) * count if isinstance(value, int) else tuple(int(part) for part in value)


def axes(axis: Any, rank: int) -> list[int]:
    """Axes without the batch, from how Keras counts them."""
    counted = [int(a) for a in (axis if isinstance(axis, (list, tuple)) else [axis])]
    if 0 in counted:
        raise ConfigError("works along the batch")
    return sorted(a - 1 if a > 0 else a + rank for a in counted)
