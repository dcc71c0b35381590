"""The formulas of window features, written once for numpy and for ONNX.

A formula only uses the operations of :class:`Ops`; :class:`NumpyOps` computes them and
:class:`GraphOps` writes the nodes that compute them, so the two forms cannot drift apart. All
values are float64 of the shape (n, channels, …), reduced along the last axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from converter.graph import Graph

F64 = NDArray[np.float64]
T = TypeVar("T")


class Ops(Protocol[T]):
    """Elementwise operations, and reductions along the last axis that keep it with length 1."""

    def constant(self, value: ArrayLike) -> T: ...
    def add(self, a: T, b: T) -> T: ...
    def sub(self, a: T, b: T) -> T: ...
    def mul(self, a: T, b: T) -> T: ...
    def div(self, a: T, b: T) -> T: ...
    def matmul(self, a: T, b: T) -> T: ...
    def abs(self, a: T) -> T: ...
    def sqrt(self, a: T) -> T: ...
    def above(self, a: T, b: T) -> T:
        """1 where a > b, else 0."""
        ...

    def steps(self, a: T) -> T:
        """Differences of neighbours along the last axis."""
        ...

    def sum(self, a: T) -> T: ...
    def min(self, a: T) -> T: ...
    def max(self, a: T) -> T: ...


class Series(Generic[T]):
    """One window's series (n, channels, length) with the values that several formulas share."""

    def __init__(self, ops: Ops[T], x: T, length: int) -> None:
        self.ops = ops
        self.x = x
        self.length = ops.constant(float(length))
        self.zero = ops.constant(0.0)
        self.mean = self.average(x)
        self.centred = ops.sub(x, self.mean)
        self.squared = ops.mul(self.centred, self.centred)
        self.variance = self.average(self.squared)
        self.varies = ops.above(self.variance, self.zero)

    def average(self, values: T) -> T:
        """Mean along the last axis."""
        return self.ops.div(self.ops.sum(values), self.length)

    def crossings(self, level: T) -> T:
        """How often neighbours lie on different sides of ``level``."""
        ops = self.ops
        return ops.sum(ops.abs(ops.steps(ops.above(self.x, level))))

    def over_variance(self, values: T) -> T:
        """``values`` / variance, and ``values`` where the variance is 0."""
        ops = self.ops
        idle = ops.sub(ops.constant(1.0), self.varies)
        return ops.div(values, ops.add(self.variance, idle))


def _skew(s: Series[T]) -> T:
    ops = s.ops
    third = s.average(ops.mul(s.squared, s.centred))
    deviation = ops.sqrt(ops.add(s.variance, ops.sub(ops.constant(1.0), s.varies)))
    return ops.div(s.over_variance(third), deviation)


def _kurtosis(s: Series[T]) -> T:
    ops = s.ops
    fourth = s.average(ops.mul(s.squared, s.squared))
    ratio = s.over_variance(s.over_variance(fourth))
    return ops.mul(s.varies, ops.sub(ratio, ops.constant(3.0)))


FORMULAS: Final[dict[str, Callable[[Series[Any]], Any]]] = {
    "mean": lambda s: s.mean,
    "std": lambda s: s.ops.sqrt(s.variance),
    "rms": lambda s: s.ops.sqrt(s.average(s.ops.mul(s.x, s.x))),
    "min": lambda s: s.ops.min(s.x),
    "max": lambda s: s.ops.max(s.x),
    "ptp": lambda s: s.ops.sub(s.ops.max(s.x), s.ops.min(s.x)),
    "mean_abs": lambda s: s.average(s.ops.abs(s.x)),
    "energy": lambda s: s.ops.sum(s.ops.mul(s.x, s.x)),
    "skew": _skew,
    "kurtosis": _kurtosis,
    "zero_crossings": lambda s: s.crossings(s.zero),
    "mean_crossings": lambda s: s.crossings(s.mean),
}


def band_powers(s: Series[T], basis: F64, gather: F64) -> T:
    """Power in each band, (n, channels, bands).

    Args:
        s: the series.
        basis: (length, lines), cosines and sines times the taper.
        gather: (lines, bands), the weight of each squared line in each band.
    """
    lines = s.ops.matmul(s.centred, s.ops.constant(basis))
    return s.ops.matmul(s.ops.mul(lines, lines), s.ops.constant(gather))


class NumpyOps:
    """:class:`Ops` on arrays."""

    def constant(self, value: ArrayLike) -> F64:
        return np.asarray(value, dtype=np.float64)

    def add(self, a: F64, b: F64) -> F64:
        return a + b

    def sub(self, a: F64, b: F64) -> F64:
        return a - b

    def mul(self, a: F64, b: F64) -> F64:
        return a * b

    def div(self, a: F64, b: F64) -> F64:
        return a / b

    def matmul(self, a: F64, b: F64) -> F64:
        return a @ b

    def abs(self, a: F64) -> F64:
        return np.abs(a)

    def sqrt(self, a: F64) -> F64:
        return np.sqrt(a)

    def above(self, a: F64, b: F64) -> F64:
        return (a > b).astype(np.float64)

    def steps(self, a: F64) -> F64:
        return np.diff(a, axis=2)

    def sum(self, a: F64) -> F64:
        return np.asarray(a.sum(axis=2, keepdims=True))

    def min(self, a: F64) -> F64:
        return np.asarray(a.min(axis=2, keepdims=True))

    def max(self, a: F64) -> F64:
        return np.asarray(a.max(axis=2, keepdims=True))


class GraphOps:
    """:class:`Ops` as nodes; values are names of tensors, and a repeated node is written once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[tuple[str, ...], str] = {}

    def constant(self, value: ArrayLike) -> str:
        return self._graph.constant(value, np.float64)

    def add(self, a: str, b: str) -> str:
        return self._node("Add", a, b)

    def sub(self, a: str, b: str) -> str:
        return self._node("Sub", a, b)

    def mul(self, a: str, b: str) -> str:
        return self._node("Mul", a, b)

    def div(self, a: str, b: str) -> str:
        return self._node("Div", a, b)

    def matmul(self, a: str, b: str) -> str:
        return self._node("MatMul", a, b)

    def abs(self, a: str) -> str:
        return self._node("Abs", a)

    def sqrt(self, a: str) -> str:
        return self._node("Sqrt", a)

    def above(self, a: str, b: str) -> str:
        key = ("above", a, b)
        if key not in self._known:
            self._known[key] = self._graph.cast(self._node("Greater", a, b), np.float64)
        return self._known[key]

    def steps(self, a: str) -> str:
        axis = self._integers(2)
        later = self._node("Slice", a, self._integers(1), self._integers(_END), axis)
        earlier = self._node("Slice", a, self._integers(0), self._integers(-1), axis)
        return self.sub(later, earlier)

    def sum(self, a: str) -> str:
        return self._node("ReduceSum", a, self._integers(2))

    def min(self, a: str) -> str:
        return self._node("ReduceMin", a, self._integers(2))

    def max(self, a: str) -> str:
        return self._node("ReduceMax", a, self._integers(2))

    def _integers(self, value: int) -> str:
        return self._graph.constant([value], np.int64)

    def _node(self, op: str, *inputs: str) -> str:
        key = (op, *inputs)
        if key not in self._known:
            self._known[key] = self._graph.add(op, *inputs)
        return self._known[key]


_END: Final = 2**31 - 1
