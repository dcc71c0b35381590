"""The formulas of window features, written once for numpy and for ONNX.

A formula only uses the operations of :class:`Ops`; :class:`NumpyOps` computes them and
:class:`GraphOps` writes the nodes that compute them, so the two forms cannot drift apart. All
values are float64 of the shape (n, channels, …), reduced along the last axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from converter.lowering.graph import Graph

F64 = NDArray[np.float64]
T = TypeVar("T")

# As in ONNX, but for Above (1 where a > b, else 0), Steps (differences of neighbours) and the
# reductions: Steps, Sum, Min, Max and the product work along the last axis and keep it.
Op = Literal[
    "Add", "Sub", "Mul", "Div", "MatMul", "Abs", "Sqrt", "Above", "Steps", "Sum", "Min", "Max"
]


class Ops(Protocol[T]):
    """What a formula may do with values of the kind T."""

    def constant(self, value: ArrayLike) -> T:
        """A constant."""
        ...

    def __call__(self, op: Op, *values: T) -> T:
        """The result of an operation."""
        ...


class Series(Generic[T]):
    """One window's series (n, channels, length) with the values that several formulas share.

    Args:
        ops: how values are computed.
        x: the series.
        length: readings in the window.
    """

    def __init__(self, ops: Ops[T], x: T, length: int) -> None:
        self.ops = ops
        self.x = x
        self.length = ops.constant(float(length))
        self.zero = ops.constant(0.0)
        self.one = ops.constant(1.0)
        self.mean = self.average(x)
        self.centred = ops("Sub", x, self.mean)
        self.squared = ops("Mul", self.centred, self.centred)
        self.variance = self.average(self.squared)
        self.varies = ops("Above", self.variance, self.zero)
        # The variance, or 1 where it is 0: safe to divide by.
        self.divisor = ops("Add", self.variance, ops("Sub", self.one, self.varies))

    def average(self, values: T) -> T:
        """Mean along the last axis: the exact sum of sensor values, rounded once."""
        return self.ops("Div", self.ops("Sum", values), self.length)

    def crossings(self, level: T) -> T:
        """How often neighbours lie on different sides of ``level``."""
        return self.ops("Sum", self.ops("Abs", self.ops("Steps", self.ops("Above", self.x, level))))


def _std(s: Series[T]) -> T:
    return s.ops("Sqrt", s.variance)


def _rms(s: Series[T]) -> T:
    return s.ops("Sqrt", s.average(s.ops("Mul", s.x, s.x)))


def _peak_to_peak(s: Series[T]) -> T:
    return s.ops("Sub", s.ops("Max", s.x), s.ops("Min", s.x))


def _energy(s: Series[T]) -> T:
    return s.ops("Sum", s.ops("Mul", s.x, s.x))


def _skew(s: Series[T]) -> T:
    third = s.average(s.ops("Mul", s.squared, s.centred))
    return s.ops("Div", third, s.ops("Mul", s.divisor, s.ops("Sqrt", s.divisor)))


def _kurtosis(s: Series[T]) -> T:
    fourth = s.average(s.ops("Mul", s.squared, s.squared))
    ratio = s.ops("Div", fourth, s.ops("Mul", s.divisor, s.divisor))
    return s.ops("Mul", s.varies, s.ops("Sub", ratio, s.ops.constant(3.0)))


FORMULAS: Final[dict[str, Callable[[Series[Any]], Any]]] = {
    "mean": lambda s: s.mean,
    "std": _std,
    "rms": _rms,
    "min": lambda s: s.ops("Min", s.x),
    "max": lambda s: s.ops("Max", s.x),
    "ptp": _peak_to_peak,
    "mean_abs": lambda s: s.average(s.ops("Abs", s.x)),
    "energy": _energy,
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
    lines = s.ops("MatMul", s.centred, s.ops.constant(basis))
    return s.ops("MatMul", s.ops("Mul", lines, lines), s.ops.constant(gather))


_NUMPY: Final[dict[Op, Callable[..., Any]]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "MatMul": np.matmul,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Above": lambda a, b: (a > b).astype(np.float64),
    "Steps": lambda a: np.diff(a, axis=-1),
    "Sum": lambda a: np.sum(a, axis=-1, keepdims=True),
    "Min": lambda a: np.min(a, axis=-1, keepdims=True),
    "Max": lambda a: np.max(a, axis=-1, keepdims=True),
}


class NumpyOps:
    """:class:`Ops` on arrays."""

    def constant(self, value: ArrayLike) -> F64:
        """A constant array."""
        return np.asarray(value, dtype=np.float64)

    def __call__(self, op: Op, *values: F64) -> F64:
        """The result of an operation."""
        return np.asarray(_NUMPY[op](*values), dtype=np.float64)


class GraphOps:
    """:class:`Ops` as nodes; values are names of tensors, and a repeated node is written once.

    Args:
        graph: receives the nodes; those that no feature needs are dropped when it is finished.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[tuple[str, ...], str] = {}

    def constant(self, value: ArrayLike) -> str:
        """The name of a constant tensor."""
        return self._graph.constant(value, np.float64)

    def __call__(self, op: Op, *values: str) -> str:
        """The name of the tensor that holds the result."""
        key = (op, *values)
        if key not in self._known:
            self._known[key] = self._write(op, *values)
        return self._known[key]

    def _write(self, op: Op, *values: str) -> str:
        if op == "Above":
            return self._graph.cast(self._graph.add("Greater", *values), np.float64)
        if op == "Steps":
            return self._steps(*values)
        if op in {"Sum", "Min", "Max"}:
            return self._graph.add(f"Reduce{op}", *values, self._integers(-1))
        return self._graph.add(op, *values)

    def _steps(self, a: str) -> str:
        first, last, axis = self._integers(0), self._integers(-1), self._integers(-1)
        later = self._graph.add("Slice", a, self._integers(1), self._integers(_END), axis)
        earlier = self._graph.add("Slice", a, first, last, axis)
        return self._graph.add("Sub", later, earlier)

    def _integers(self, value: int) -> str:
        return self._graph.constant([value], np.int64)


_END: Final = 2**31 - 1
