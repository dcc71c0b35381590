"""Keras's activation functions as plain float64 formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _sigmoid(x: F64) -> F64:
    with np.errstate(over="ignore"):  # exp of a large number is infinite, 1 / infinity the right 0
        result: F64 = 1 / (1 + np.exp(-x))
    return result


def elu(x: F64, alpha: float = 1.0) -> F64:
    """``x`` above 0, ``alpha * (exp(x) - 1)`` below."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _gelu(x: F64) -> F64:
    below: F64 = np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))
    return x * 0.5 * (1 + below)


def softmax(x: F64) -> F64:
    """Shares of the exponentials along the last axis."""
    powers: F64 = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: F64 = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _hard_sigmoid(x: F64) -> F64:
    return np.clip(x / 6 + 0.5, 0, 1)


def leaky(x: F64, slope: float = 0.2) -> F64:
    """``x`` above 0, ``slope * x`` below."""
    return np.where(x > 0, x, slope * x)


FUNCTIONS: Final[dict[str, Callable[[F64], F64]]] = {
    "elu": elu,
    "exponential": np.exp,
    "gelu": _gelu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": lambda x: x * _hard_sigmoid(x),
    "hard_swish": lambda x: x * _hard_sigmoid(x),
    "leaky_relu": leaky,
    "linear": lambda x: x,
    "log_softmax": lambda x: np.log(softmax(x)),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "selu": lambda x: _SELU_SCALE * elu(x, _SELU_ALPHA),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "softmax": softmax,
    "softplus": lambda x: np.logaddexp(x, 0),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "swish": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
}
