"""Keras's layers as plain float64 formulas: the original where Keras itself is not installed.

Written from Keras's definitions, channels last and one window at a time, and sharing nothing with
the way to ONNX, so that a mistake in either shows as a difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from converter.nets.keras_cells import CELLS, bidirectional, recurrent
from converter.nets.keras_functions import F64, FUNCTIONS, elu, leaky, softmax
from converter.nets.keras_model import Call, KerasModel

Formula = Callable[[Mapping[str, Any], Sequence[F64], Sequence[F64]], F64]

_RECURRENT: Final = frozenset({*CELLS, "Bidirectional"})


def evaluate(model: KerasModel, feeds: Mapping[str, NDArray[Any]]) -> dict[str, F64]:
    """The outputs of a model for one window.

    Args:
        model: all of its layers are in :data:`FORMULAS`.
        feeds: by the name of an input, its value, the batch as 1.
    """
    values = {name: np.asarray(value, np.float64)[0] for name, value in feeds.items()}
    old = model.version.startswith(("1.", "2."))
    for call in model.calls:
        values[call.output] = _call(call, [values[name] for name in call.inputs], old=old)
    return {name: values[value][None] for name, value in model.outputs.items()}


def _call(call: Call, given: Sequence[F64], *, old: bool) -> F64:
    kind, config = call.kind, call.config
    if kind == "TimeDistributed":
        kind, config = config["layer"]["class_name"], config["layer"]["config"]
    weights = [part.astype(np.float64) for part in call.weights]
    first = config.get("data_format") == "channels_first"
    if first:
        given = [np.moveaxis(value, 0, -1) for value in given]
    result = FORMULAS[kind](config, weights, given)
    if first and result.ndim > 1:
        result = np.moveaxis(result, -1, 0)
    activation = config.get("activation") if kind not in _RECURRENT else None
    return result if activation is None else _activate(activation, result, old=old)


def _activate(activation: Any, x: F64, *, old: bool) -> F64:
    if isinstance(activation, dict):
        inner = activation.get("config")
        if isinstance(inner, dict) and activation["class_name"] in FORMULAS:
            return FORMULAS[activation["class_name"]](inner, (), (x,))
        activation = inner if isinstance(inner, str) else activation["class_name"]
    if activation == "hard_sigmoid" and old:
        return np.clip(0.2 * x + 0.5, 0, 1)
    return FUNCTIONS[activation](x)


def _dense(config: Mapping[str, Any], weights: Sequence[F64], given: Sequence[F64]) -> F64:
    return given[0] @ weights[0] + _bias(config, weights)


def _conv(config: Mapping[str, Any], weights: Sequence[F64], given: Sequence[F64]) -> F64:
    groups = int(config.get("groups", 1))
    patches = _patches(config, given[0], weights[0].shape[:-2])
    parts = [
        np.tensordot(taken, kernel, axes=kernel.ndim - 1)
        for taken, kernel in zip(
            np.split(patches, groups, axis=-1), np.split(weights[0], groups, axis=-1), strict=True
        )
    ]
    return np.concatenate(parts, axis=-1) + _bias(config, weights)


def _depthwise(config: Mapping[str, Any], weights: Sequence[F64], given: Sequence[F64]) -> F64:
    return _each_channel(config, weights[0], given[0]) + _bias(config, weights)


def _separable(config: Mapping[str, Any], weights: Sequence[F64], given: Sequence[F64]) -> F64:
    depth, point, *_ = weights
    result = _each_channel(config, depth, given[0])
    return result @ point.reshape(point.shape[-2:]) + _bias(config, weights)


def _each_channel(config: Mapping[str, Any], kernel: F64, x: F64) -> F64:
    space = kernel.ndim - 2
    products = _patches(config, x, kernel.shape[:-2])[..., None] * kernel
    summed: F64 = products.sum(axis=tuple(range(space, 2 * space)))
    return summed.reshape(*summed.shape[:space], -1)


def _bias(config: Mapping[str, Any], weights: Sequence[F64]) -> F64 | float:
    return weights[-1] if config.get("use_bias", True) else 0.0


def _patches(
    config: Mapping[str, Any], x: F64, size: Sequence[int], fill: float = 0.0
) -> NDArray[np.float64]:
    """What the kernel sees at each of its places: (places..., size..., channels)."""
    space = len(size)
    stride = _each(config.get("strides") or config.get("pool_size", 1), space)
    step = _each(config.get("dilation_rate", 1), space)
    span = [(k - 1) * d + 1 for k, d in zip(size, step, strict=True)]
    padding = config.get("padding", "valid")
    widths = []
    for length, reach, jump in zip(x.shape, span, stride, strict=False):
        total = max(0, (-(-length // jump) - 1) * jump + reach - length)
        before = {"same": (total // 2, total - total // 2), "causal": (reach - 1, 0)}
        widths.append(before.get(padding, (0, 0)))
    padded = np.pad(x, [*widths, (0, 0)], constant_values=fill)
    seen = sliding_window_view(padded, span, axis=tuple(range(space)))
    seen = np.moveaxis(seen, space, -1)  # the channels behind the kernel
    places = tuple(slice(None, None, jump) for jump in stride)
    return seen[(*places, *(slice(None, None, d) for d in step))]


def _batch_norm(config: Mapping[str, Any], weights: Sequence[F64], given: Sequence[F64]) -> F64:
    *affine, mean, variance = weights
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) else axis
    x = np.moveaxis(given[0], _place(axis), -1)
    y = (x - mean) / np.sqrt(variance + config.get("epsilon", 1e-3))
    if config.get("scale", True):
        y = y * affine.pop(0)
    if config.get("center", True):
        y = y + affine.pop(0)
    return np.moveaxis(y, -1, _place(axis))


def _layer_norm(config: Mapping[str, Any], weights: Sequence[F64], given: Sequence[F64]) -> F64:
    (x,), parts = given, list(weights)
    deviation = np.sqrt(x.var(-1, keepdims=True) + config.get("epsilon", 1e-3))
    y: F64 = (x - x.mean(-1, keepdims=True)) / deviation
    y = y * parts.pop(0) if config.get("scale", True) else y
    return y + parts.pop(0) if config.get("center", True) else y


def _normalization(config: Mapping[str, Any], weights: Sequence[F64], given: Sequence[F64]) -> F64:
    stated = [config.get("mean"), config.get("variance")]
    mean, variance = weights[:2] if stated[0] is None else np.asarray(stated, np.float64)
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) else axis
    place = -1 if axis is None else _place(axis)
    deviation = np.maximum(np.sqrt(np.ravel(variance)), 1e-7)
    y = (np.moveaxis(given[0], place, -1) - np.ravel(mean)) / deviation
    return np.moveaxis(y, -1, place)


def _prelu(_: Mapping[str, Any], weights: Sequence[F64], given: Sequence[F64]) -> F64:
    return np.where(given[0] > 0, given[0], weights[0] * given[0])


def _pool(config: Mapping[str, Any], _: Sequence[F64], given: Sequence[F64], *, mean: bool) -> F64:
    space = given[0].ndim - 1
    size = _each(config["pool_size"], space)
    seen = _patches(config, given[0], size, math.nan)
    axes = tuple(range(space, 2 * space))
    result: F64 = np.nanmean(seen, axis=axes) if mean else np.nanmax(seen, axis=axes)
    return result


def _pool_all(
    config: Mapping[str, Any], _: Sequence[F64], given: Sequence[F64], *, mean: bool
) -> F64:
    axes = tuple(range(given[0].ndim - 1))
    pick = np.mean if mean else np.max
    result: F64 = pick(given[0], axis=axes, keepdims=bool(config.get("keepdims")))
    return result


def _pad(config: Mapping[str, Any], _: Sequence[F64], given: Sequence[F64]) -> F64:
    return np.pad(given[0], [*_pairs(config["padding"], given[0].ndim - 1), (0, 0)])


def _crop(config: Mapping[str, Any], _: Sequence[F64], given: Sequence[F64]) -> F64:
    pairs = _pairs(config["cropping"], given[0].ndim - 1)
    return given[0][tuple(slice(a, -b or None) for a, b in pairs)]


def _pairs(amounts: Any, space: int) -> list[tuple[int, int]]:
    if isinstance(amounts, int):
        return [(amounts, amounts)] * space
    if space == 1 and isinstance(amounts[0], int):
        return [(amounts[0], amounts[-1])]
    return [(a, a) if isinstance(a, int) else (a[0], a[1]) for a in amounts]


def _upsample(config: Mapping[str, Any], _: Sequence[F64], given: Sequence[F64]) -> F64:
    x = given[0]
    for axis, times in enumerate(_each(config["size"], x.ndim - 1)):
        x = np.repeat(x, times, axis=axis)
    return x


def _relu(config: Mapping[str, Any], _: Sequence[F64], given: Sequence[F64]) -> F64:
    y = leaky(given[0], config.get("negative_slope") or 0.0)
    top = config.get("max_value")
    return y if top is None else np.minimum(y, top)


def _merge(_: Mapping[str, Any], __: Sequence[F64], given: Sequence[F64], *, join: np.ufunc) -> F64:
    result = given[0]
    for other in given[1:]:
        result = join(result, other)
    return result


def _each(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


def _place(axis: int) -> int:
    """An axis of Keras, which counts the batch, in a window."""
    return axis - 1 if axis > 0 else axis


def _same(_: Mapping[str, Any], __: Sequence[F64], given: Sequence[F64]) -> F64:
    return given[0]


FORMULAS: Final[dict[str, Formula]] = {
    **dict.fromkeys(
        (
            "Activation",
            "ActivityRegularization",
            "AlphaDropout",
            "Dropout",
            "GaussianDropout",
            "GaussianNoise",
            "SpatialDropout1D",
            "SpatialDropout2D",
        ),
        _same,
    ),
    **dict.fromkeys(("Conv1D", "Conv2D"), _conv),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    **dict.fromkeys(("AveragePooling1D", "AveragePooling2D"), partial(_pool, mean=True)),
    **dict.fromkeys(("MaxPooling1D", "MaxPooling2D"), partial(_pool, mean=False)),
    **dict.fromkeys(
        ("GlobalAveragePooling1D", "GlobalAveragePooling2D"), partial(_pool_all, mean=True)
    ),
    **dict.fromkeys(("GlobalMaxPooling1D", "GlobalMaxPooling2D"), partial(_pool_all, mean=False)),
    **dict.fromkeys(("ZeroPadding1D", "ZeroPadding2D"), _pad),
    **dict.fromkeys(("Cropping1D", "Cropping2D"), _crop),
    **dict.fromkeys(("UpSampling1D", "UpSampling2D"), _upsample),
    **{kind: partial(recurrent, kind) for kind in CELLS},
    "Add": partial(_merge, join=np.add),
    "Average": lambda _, __, given: np.mean(given, axis=0),
    "BatchNormalization": _batch_norm,
    "Bidirectional": bidirectional,
    "Concatenate": lambda config, _, given: np.concatenate(
        given, axis=_place(config.get("axis", -1))
    ),
    "Dense": _dense,
    "ELU": lambda config, _, given: elu(given[0], config.get("alpha", 1.0)),
    "Flatten": lambda _, __, given: given[0].ravel(),
    "LayerNormalization": _layer_norm,
    "LeakyReLU": lambda config, _, given: leaky(
        given[0], config.get("negative_slope", config.get("alpha", 0.3))
    ),
    "Maximum": partial(_merge, join=np.maximum),
    "Minimum": partial(_merge, join=np.minimum),
    "Multiply": partial(_merge, join=np.multiply),
    "Normalization": _normalization,
    "PReLU": _prelu,
    "Permute": lambda config, _, given: given[0].transpose([d - 1 for d in config["dims"]]),
    "ReLU": _relu,
    "RepeatVector": lambda config, _, given: np.tile(given[0], (config["n"], 1)),
    "Rescaling": lambda config, _, given: (
        given[0] * np.asarray(config.get("scale", 1)) + np.asarray(config.get("offset", 0))
    ),
    "Reshape": lambda config, _, given: given[0].reshape(config["target_shape"]),
    "Softmax": lambda _, __, given: softmax(given[0]),
    "Subtract": partial(_merge, join=np.subtract),
}
