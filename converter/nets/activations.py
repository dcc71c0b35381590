"""The activation functions of Keras and TFLite as nodes, by Keras's names."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final

from converter.nets.layers import Layers, Value

Activation = Callable[[Layers, Value], Value]


def leaky_relu(layers: Layers, x: Value, slope: float = 0.2) -> Value:
    """``x`` above 0, ``slope * x`` below."""
    return layers.unary("LeakyRelu", x, alpha=slope)


def elu(layers: Layers, x: Value, alpha: float = 1.0) -> Value:
    """``x`` above 0, ``alpha * (exp(x) - 1)`` below."""
    return layers.unary("Elu", x, alpha=alpha)


def hard_sigmoid(layers: Layers, x: Value, slope: float = 1 / 6) -> Value:
    """``slope * x + 0.5`` between 0 and 1; the slope was 0.2 before Keras 3."""
    return layers.unary("HardSigmoid", x, alpha=slope, beta=0.5)


def gelu(layers: Layers, x: Value) -> Value:
    """``x`` times the share of a normal distribution below it."""
    inner = layers.unary("Erf", layers.scaled("Mul", x, math.sqrt(0.5)))
    return layers.scaled("Mul", layers.merge("Mul", [x, layers.scaled("Add", inner, 1)]), 0.5)


def gelu_tanh(layers: Layers, x: Value) -> Value:
    """The usual approximation of :func:`gelu` (Hendrycks and Gimpel, 2016)."""
    cube = layers.merge("Mul", [x, x, x])
    inner = layers.merge("Add", [x, layers.scaled("Mul", cube, 0.044715)])
    inner = layers.unary("Tanh", layers.scaled("Mul", inner, math.sqrt(2 / math.pi)))
    return layers.scaled("Mul", layers.merge("Mul", [x, layers.scaled("Add", inner, 1)]), 0.5)


def relu_between(layers: Layers, x: Value, low: float, high: float) -> Value:
    """``x`` within a range."""
    return layers.clip(x, low, high)


def _gated(layers: Layers, x: Value, gate: str) -> Value:
    return layers.merge("Mul", [x, layers.unary(gate, x)])


def _mish(layers: Layers, x: Value) -> Value:
    return layers.merge("Mul", [x, layers.unary("Tanh", layers.unary("Softplus", x))])


def _unary(op: str) -> Activation:
    return lambda layers, x: layers.unary(op, x)


_swish = partial(_gated, gate="Sigmoid")

ACTIVATIONS: Final[dict[str, Activation]] = {
    "elu": elu,
    "exponential": _unary("Exp"),
    "gelu": gelu,
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": _unary("HardSwish"),
    "hard_swish": _unary("HardSwish"),
    "leaky_relu": leaky_relu,
    "linear": lambda _, x: x,
    "log_softmax": lambda layers, x: layers.softmax(x, "LogSoftmax"),
    "mish": _mish,
    "relu": _unary("Relu"),
    "relu6": partial(relu_between, low=0, high=6),
    "selu": _unary("Selu"),
    "sigmoid": _unary("Sigmoid"),
    "silu": _swish,
    "softmax": lambda layers, x: layers.softmax(x),
    "softplus": _unary("Softplus"),
    "softsign": _unary("Softsign"),
    "swish": _swish,
    "tanh": _unary("Tanh"),
}
