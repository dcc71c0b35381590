"""Every layer of Keras that is understood, as nodes: one function a layer, one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.activations import ACTIVATIONS, elu, hard_sigmoid, leaky_relu
from converter.keras_model import Call, KerasModel
from converter.keras_recurrent import bidirectional, recurrent
from converter.layers import Layers, Pads, Value, same_pads
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

Lowering = Callable[[Layers, Call, Sequence[Value]], Value]
F64 = NDArray[np.float64]

_LINEAR: Final = (None, "linear")


def lower_model(model: KerasModel, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model as ONNX, its batch open.

    Args:
        model: as read.
        shapes: of the inputs, without the batch.

    Raises:
        ConfigError: a layer has no ONNX form here, or does not fit; names the layer.
    """
    layers = Layers()
    values = {name: layers.input(name, shape) for name, shape in shapes.items()}
    for call in folded_norms(model):
        given = [values[name] for name in call.inputs]
        try:
            values[call.output] = _lower(layers, call, given, model.version)
        except ConfigError as exc:
            raise ConfigError(f"its layer {call.name!r} ({call.kind}): {exc}") from exc
        except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
            raise ConfigError(
                f"its layer {call.name!r} ({call.kind}) has settings or weights that do not fit: "
                f"{type(exc).__name__}: {exc}"
            ) from exc
    outputs = [(name, values[value]) for name, value in model.outputs.items()]
    return layers.finish(outputs, "keras")


def require_known(model: KerasModel) -> None:
    """Refuse layers that have no form here, all of them by name.

    Raises:
        ConfigError: there are some.
    """
    if unknown := sorted({call.kind for call in model.calls} - LAYERS.keys()):
        raise ConfigError(
            f"holds layers that have no ONNX form here: {', '.join(unknown)}; convert it to ONNX "
            "by Keras itself, model.export('model.onnx', format='onnx'), or replace them"
        )


def folded_norms(model: KerasModel) -> list[Call]:
    """The calls with each BatchNormalization folded into the layer whose output only it takes."""
    readers = Counter(name for call in model.calls for name in call.inputs)
    readers.update(model.outputs.values())
    makers: dict[str, int] = {}
    calls: list[Call] = []
    for call in model.calls:
        place = makers.get(call.inputs[0], -1) if call.inputs else -1
        if (
            call.kind == "BatchNormalization"
            and place >= 0
            and readers[call.inputs[0]] == 1
            and (folded := _with_norm(calls[place], call)) is not None
        ):
            calls[place] = folded
            makers[call.output] = place
            continue
        makers[call.output] = len(calls)
        calls.append(call)
    return calls


@dataclass(frozen=True)
class _Window:
    """How a kernel moves over the space."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads


def _lower(layers: Layers, call: Call, given: Sequence[Value], version: str) -> Value:
    if not given:
        raise ConfigError("takes nothing")
    call = inside(call)
    value = LAYERS[call.kind](layers, call, given)
    if call.kind in _RECURRENT:
        return value  # its activation is inside
    return activated(layers, value, call.config.get("activation"), version)


def inside(call: Call) -> Call:
    """The layer in a TimeDistributed, which does at all times at once what it does at each.

    Raises:
        ConfigError: it looks at more than the last axis.
    """
    if call.kind != "TimeDistributed":
        return call
    inner = call.config["layer"]
    if inner["class_name"] not in {"Activation", "Dense", "Dropout"}:
        raise ConfigError(f"holds a {inner['class_name']}; only Dense is supported")
    return replace(call, kind=str(inner["class_name"]), config=inner["config"])


def activated(layers: Layers, x: Value, activation: Any, version: str) -> Value:
    """The activation that a layer's settings name.

    Args:
        layers: receives the nodes.
        x: before it.
        activation: a name, or how Keras describes a function or a layer.
        version: of Keras; hard_sigmoid became steeper with 3.

    Raises:
        ConfigError: it is unknown, or code.
    """
    if activation is None:
        return x
    if isinstance(activation, dict):
        inner = activation.get("config")
        if activation.get("class_name") in LAYERS and isinstance(inner, dict):
            call = Call(activation["class_name"], "activation", inner, (), (x.name,), "")
            return _lower(layers, call, [x], version)
        activation = inner if isinstance(inner, str) else activation.get("class_name")
    if activation == "hard_sigmoid" and version.startswith(("1.", "2.")):
        return hard_sigmoid(layers, x, 0.2)
    if activation not in ACTIVATIONS:
        raise ConfigError(f"the activation {activation!r} is not one of Keras that is known here")
    return ACTIVATIONS[activation](layers, x)


# --- layers with weights --------------------------------------------------------------------------


def _dense(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    kernel, bias = _kernel_bias(call)
    return layers.dense(given[0], kernel, bias)


def _conv(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    kernel, bias = _kernel_bias(call)
    x = _channels_last(layers, call, given[0])
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


def _depthwise(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    kernel, bias = _kernel_bias(call)
    x = _channels_last(layers, call, given[0])
    y = _each_channel(layers, call, x, kernel, bias)
    return _as_given(layers, call, y)


def _separable(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    depth, point, *rest = call.weights
    x = _channels_last(layers, call, given[0])
    y = _each_channel(layers, call, x, depth, None)
    ones = (1,) * (point.ndim - 2)
    none = ((0, 0),) * len(ones)
    bias = rest[0] if rest else None
    y = layers.conv(y, point, bias, strides=ones, dilations=ones, pads=none)
    return _as_given(layers, call, y)


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


def _batch_norm(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    scale, offset = norm_factors(call)
    return _on_axis(layers, given[0], call.config.get("axis", -1), scale, offset)


def _layer_norm(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    """Mean 0 and variance 1 over the last axis, of every place by itself."""
    x = layers.rows(given[0])
    if _axes(call.config.get("axis", -1), len(x.shape)) != [len(x.shape) - 1]:
        raise ConfigError("only axis=-1 is supported")
    parts = iter(call.weights)
    gamma = next(parts) if call.config.get("scale", True) else np.ones(x.shape[-1])
    beta = next(parts) if call.config.get("center", True) else np.zeros(x.shape[-1])
    names = [layers.graph.constant(gamma), layers.graph.constant(beta)]
    epsilon = float(call.config.get("epsilon", 1e-3))
    name = layers.graph.add("LayerNormalization", x.name, *names, axis=-1, epsilon=epsilon)
    return Value(name, x.shape)


def _normalization(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
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


def _prelu(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    x = layers.rows(given[0])
    name = layers.graph.add("PRelu", x.name, layers.graph.constant(call.weights[0]))
    return Value(name, x.shape)


def _on_axis(layers: Layers, x: Value, axis: Any, scale: F64, offset: F64) -> Value:
    axes = _axes(axis, len(x.shape))
    if len(axes) != 1:
        raise ConfigError("only one axis is supported")
    last = len(x.shape) - 1
    if scale.size > 1 and scale.size != x.shape[axes[0]]:
        raise ConfigError(f"{scale.size} numbers for {list(x.shape)}")
    if axes == [last] or scale.size == 1:
        return layers.affine(x, scale, offset)
    order = [axis for axis in range(last + 1) if axis != axes[0]] + axes
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


def _kernel_bias(call: Call) -> tuple[F32, F32 | None]:
    """The weights of a layer.

    Raises:
        ConfigError: they are not in the file.
    """
    wanted = 2 if call.config.get("use_bias", True) else 1
    if len(call.weights) != wanted:
        raise ConfigError(f"has {len(call.weights)} weights in the file instead of {wanted}")
    return call.weights[0], call.weights[1] if wanted == 2 else None


# --- layers without -------------------------------------------------------------------------------


def _pool(layers: Layers, call: Call, given: Sequence[Value], *, op: str) -> Value:
    x = _channels_last(layers, call, given[0])
    size = _numbers(call.config["pool_size"], len(x.shape) - 1)
    strides = _numbers(call.config.get("strides") or size, len(x.shape) - 1)
    none = ((0, 0),) * len(size)
    same = call.config.get("padding", "valid") == "same"
    pads = same_pads(x.shape[:-1], size, strides, (1,) * len(size)) if same else none
    return _as_given(layers, call, layers.pool(op, x, size=size, strides=strides, pads=pads))


def _pool_all(layers: Layers, call: Call, given: Sequence[Value], *, op: str) -> Value:
    x = _channels_last(layers, call, given[0])
    keep = bool(call.config.get("keepdims", False))
    y = layers.pool_all(op, x, keep=keep)
    return _as_given(layers, call, y) if keep else y


def _flatten(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    x = _channels_last(layers, call, given[0]) if len(given[0].shape) > 1 else given[0]
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


def _pad(layers: Layers, call: Call, given: Sequence[Value], *, field: str, sign: int) -> Value:
    x = _channels_last(layers, call, given[0])
    space = len(x.shape) - 1
    amounts = call.config[field]
    amounts = [amounts] * space if isinstance(amounts, int) else list(amounts)
    if space == 1 and len(amounts) == 2:
        amounts = [amounts]
    pairs = [(a, a) if isinstance(a, int) else (a[0], a[1]) for a in amounts]
    pads = tuple((sign * before, sign * after) for before, after in pairs)
    return _as_given(layers, call, layers.pad(x, (*pads, (0, 0))))


def _upsample(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    if call.config.get("interpolation", "nearest") != "nearest":
        raise ConfigError("only interpolation='nearest' is supported")
    x = layers.moved(_channels_last(layers, call, given[0]))
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


def _rescale(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    x = given[0]
    scale, offset = (np.asarray(call.config.get(k, d)) for k, d in (("scale", 1), ("offset", 0)))
    return layers.affine(x, scale, offset)


def _merge(layers: Layers, _: Call, given: Sequence[Value], *, op: str) -> Value:
    return layers.merge(op, given)


def _average(layers: Layers, _: Call, given: Sequence[Value]) -> Value:
    return layers.scaled("Mul", layers.merge("Add", given), 1 / len(given))


def _concat(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    (axis,) = _axes(call.config.get("axis", -1), len(given[0].shape))
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
    axes = _axes(call.config.get("axis", -1), len(given[0].shape))
    if axes != [len(given[0].shape) - 1]:
        raise ConfigError("only axis=-1 is supported")
    return layers.softmax(given[0])


def _same(_: Layers, __: Call, given: Sequence[Value]) -> Value:
    return given[0]


# --- what layers have in common -------------------------------------------------------------------


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


def _channels_last(layers: Layers, call: Call, x: Value) -> Value:
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


def _axes(axis: Any, rank: int) -> list[int]:
    """Axes without the batch, from how Keras counts them."""
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    if any(int(a) == 0 for a in axes):
        raise ConfigError("works along the batch")
    return sorted(int(a) - 1 if int(a) > 0 else int(a) + rank for a in axes)


_SPATIAL: Final = frozenset({
    "Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D",
})  # fmt: skip
_RECURRENT: Final = frozenset({"Bidirectional", "GRU", "LSTM", "SimpleRNN"})

LAYERS: Final[dict[str, Lowering]] = {
    "Activation": _same,  # its settings name the activation, as those of other layers do
    "ActivityRegularization": _same,
    "Add": partial(_merge, op="Add"),
    "AlphaDropout": _same,
    "Average": _average,
    "AveragePooling1D": partial(_pool, op="AveragePool"),
    "AveragePooling2D": partial(_pool, op="AveragePool"),
    "BatchNormalization": _batch_norm,
    "Bidirectional": bidirectional,
    "Concatenate": _concat,
    "Conv1D": _conv,
    "Conv2D": _conv,
    "Cropping1D": partial(_pad, field="cropping", sign=-1),
    "Cropping2D": partial(_pad, field="cropping", sign=-1),
    "Dense": _dense,
    "DepthwiseConv1D": _depthwise,
    "DepthwiseConv2D": _depthwise,
    "Dropout": _same,
    "ELU": _elu,
    "Flatten": _flatten,
    "GRU": recurrent,
    "GaussianDropout": _same,
    "GaussianNoise": _same,
    "GlobalAveragePooling1D": partial(_pool_all, op="GlobalAveragePool"),
    "GlobalAveragePooling2D": partial(_pool_all, op="GlobalAveragePool"),
    "GlobalMaxPooling1D": partial(_pool_all, op="GlobalMaxPool"),
    "GlobalMaxPooling2D": partial(_pool_all, op="GlobalMaxPool"),
    "LSTM": recurrent,
    "LayerNormalization": _layer_norm,
    "LeakyReLU": _leaky,
    "MaxPooling1D": partial(_pool, op="MaxPool"),
    "MaxPooling2D": partial(_pool, op="MaxPool"),
    "Maximum": partial(_merge, op="Max"),
    "Minimum": partial(_merge, op="Min"),
    "Multiply": partial(_merge, op="Mul"),
    "Normalization": _normalization,
    "PReLU": _prelu,
    "Permute": _permute,
    "ReLU": _relu,
    "RepeatVector": _repeat,
    "Rescaling": _rescale,
    "Reshape": _reshape,
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
    "SimpleRNN": recurrent,
    "Softmax": _softmax,
    "SpatialDropout1D": _same,
    "SpatialDropout2D": _same,
    "Subtract": partial(_merge, op="Sub"),
    "TimeDistributed": _same,  # replaced by the layer inside, which sees only the last axis
    "UpSampling1D": _upsample,
    "UpSampling2D": _upsample,
    "ZeroPadding1D": partial(_pad, field="padding", sign=1),
    "ZeroPadding2D": partial(_pad, field="padding", sign=1),
}
