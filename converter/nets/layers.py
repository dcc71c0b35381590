"""Layers as Keras and TFLite count them, channels last, as ONNX nodes, which want them first.

A value is brought into the other layout only where a layer needs it: a chain of convolutions,
activations and pooling is turned once, and a Dense layer behind a Flatten takes its weights in the
order that is there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from converter.lowering.graph import Graph, as_model, needed
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]
Pads = tuple[tuple[int, int], ...]  # before and after, for each axis of the space

_BATCH: Final = "N"


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes:
        name: of the tensor.
        shape: as the framework counts it, without the batch.
        moved: the graph has the last axis first.
        flat_of: set behind a Flatten of a moved value: the shape of that value; the graph then
            has the numbers in the order of the moved one.
    """

    name: str
    shape: tuple[int, ...]
    moved: bool = False
    flat_of: tuple[int, ...] | None = None


class Layers:
    """Writes layers into a graph. All shapes are without the batch, which stays open.

    Attributes:
        graph: receives the nodes.
    """

    def __init__(self) -> None:
        self.graph = Graph()
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int]) -> Value:
        """Declare an input."""
        self._inputs.append(_info(name, shape))
        return Value(name, tuple(shape))

    def finish(self, outputs: Sequence[tuple[str, Value]], name: str) -> onnx.ModelProto:
        """The model with these outputs, checked.

        Raises:
            ConfigError: a layer does not fit its input.
        """
        ends, infos = [], []
        for label, value in outputs:
            rows = self.rows(value)
            ends.append(helper.make_node("Identity", [rows.name], [label], name=f"{label}/out"))
            infos.append(_info(label, rows.shape))
        nodes = needed([*self.graph.nodes, *ends], [label for label, _ in outputs])
        read = {tensor for node in nodes for tensor in node.input}
        tensors = [tensor for tensor in self.graph.tensors if tensor.name in read]
        model = as_model(helper.make_graph(nodes, name, self._inputs, infos, tensors))
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
            raise ConfigError(f"its layers do not fit each other: {exc}") from exc
        return model

    # --- layout -------------------------------------------------------------------------------

    def rows(self, x: Value) -> Value:
        """``x`` in the framework's own layout."""
        if x.flat_of is not None:
            inner = Value(self._reshape(x.name, _moved_shape(x.flat_of)), x.flat_of, moved=True)
            return self.reshape(self.rows(inner), x.shape)
        if not x.moved:
            return x
        if sum(axis > 1 for axis in x.shape) <= 1:
            return Value(self._reshape(x.name, x.shape), x.shape)
        rank = len(x.shape)
        name = self.graph.add("Transpose", x.name, perm=[0, *range(2, rank + 1), 1])
        return Value(name, x.shape)

    def moved(self, x: Value) -> Value:
        """``x`` with its last axis first."""
        if x.moved:
            return x
        x = self.rows(x)
        if sum(axis > 1 for axis in x.shape) <= 1:
            return Value(self._reshape(x.name, _moved_shape(x.shape)), x.shape, moved=True)
        rank = len(x.shape)
        name = self.graph.add("Transpose", x.name, perm=[0, rank, *range(1, rank)])
        return Value(name, x.shape, moved=True)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """The same numbers in another shape.

        Raises:
            ConfigError: there are more or fewer of them.
        """
        shape = tuple(shape)
        if math.prod(shape) != math.prod(x.shape):
            raise ConfigError(f"a layer makes {list(shape)} of {list(x.shape)}")
        if shape == x.shape:
            return x
        if x.moved and len(shape) == 1:
            return Value(self._reshape(x.name, shape), shape, flat_of=x.shape)
        # Axes of 1 come and go in either layout.
        if x.moved and shape[-1] == x.shape[-1] and _core(shape[:-1]) == _core(x.shape[:-1]):
            return Value(self._reshape(x.name, _moved_shape(shape)), shape, moved=True)
        return Value(self._reshape(self.rows(x).name, shape), shape)

    def permute(self, x: Value, order: Sequence[int]) -> Value:
        """Axes in another order, counted from 0 without the batch."""
        x = self.rows(x)
        name = self.graph.add("Transpose", x.name, perm=[0, *(axis + 1 for axis in order)])
        return Value(name, tuple(x.shape[axis] for axis in order))

    # --- layers with weights ------------------------------------------------------------------

    def dense(self, x: Value, kernel: NDArray[Any], bias: NDArray[Any] | None) -> Value:
        """A product over the last axis.

        Args:
            x: (..., inputs).
            kernel: (inputs, outputs).
            bias: (outputs,).
        """
        if x.shape[-1:] != kernel.shape[:1]:
            raise ConfigError(f"a Dense layer for {len(kernel)} inputs is given {list(x.shape)}")
        if x.flat_of is not None:
            places = np.moveaxis(np.arange(len(kernel)).reshape(x.flat_of), -1, 0)
            x, kernel = replace(x, flat_of=None), kernel[places.ravel()]
        x = self.rows(x)
        add, constant = self.graph.add, self.graph.constant
        shape = (*x.shape[:-1], kernel.shape[1])
        if len(shape) == 1:
            parts = [constant(kernel)] + ([] if bias is None else [constant(bias)])
            return Value(add("Gemm", x.name, *parts, dense=True), shape)
        name = add("MatMul", x.name, constant(kernel), dense=True)
        return Value(name if bias is None else add("Add", name, constant(bias)), shape)

    def conv(
        self,
        x: Value,
        kernel: NDArray[Any],
        bias: NDArray[Any] | None,
        *,
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Pads,
        groups: int = 1,
    ) -> Value:
        """A convolution.

        Args:
            x: (space..., channels).
            kernel: (space..., channels / groups, filters).
            bias: (filters,).
            strides: for each axis of the space, as the next two.
            dilations: steps between the places of the kernel.
            pads: zeros around the space.
            groups: of channels that do not see each other.

        Raises:
            ConfigError: the kernel does not fit.
        """
        *space, channels = x.shape
        rank = len(space)
        if kernel.ndim != rank + 2 or kernel.shape[-2] * groups != channels:
            raise ConfigError(f"a kernel {list(kernel.shape)} does not fit {list(x.shape)}")
        parts = [self.graph.constant(np.moveaxis(kernel, (-1, -2), (0, 1)))]
        parts += [] if bias is None else [self.graph.constant(bias)]
        name = self.graph.add(
            "Conv",
            self.moved(x).name,
            *parts,
            dense=True,
            kernel_shape=list(kernel.shape[:rank]),
            strides=list(strides),
            dilations=list(dilations),
            pads=_onnx_pads(pads),
            group=groups,
        )
        spans = [(size - 1) * step + 1 for size, step in zip(kernel.shape, dilations, strict=False)]
        out = _out_shape(space, spans, strides, pads)
        return Value(name, (*out, kernel.shape[-1]), moved=True)

    def affine(self, x: Value, scale: NDArray[Any], offset: NDArray[Any]) -> Value:
        """``x * scale + offset`` along the last axis."""
        x = x if x.moved else self.rows(x)
        name = x.name
        for op, part, idle in (("Mul", scale, 1), ("Add", offset, 0)):
            if not np.all(part == idle):
                name = self.graph.add(op, name, self._along(x, part))
        return replace(x, name=name)

    # --- layers without -----------------------------------------------------------------------

    def pool(
        self, op: str, x: Value, *, size: Sequence[int], strides: Sequence[int], pads: Pads
    ) -> Value:
        """``MaxPool`` or ``AveragePool``; what is padded does not count."""
        *space, channels = x.shape
        name = self.graph.add(
            op,
            self.moved(x).name,
            kernel_shape=list(size),
            strides=list(strides),
            pads=_onnx_pads(pads),
        )
        return Value(name, (*_out_shape(space, size, strides, pads), channels), moved=True)

    def pool_all(self, op: str, x: Value, *, keep: bool) -> Value:
        """``GlobalMaxPool`` or ``GlobalAveragePool`` over the whole space."""
        channels = x.shape[-1]
        name = self.graph.add(op, self.moved(x).name)
        if keep:
            shape = (*(1 for _ in x.shape[:-1]), channels)
            return Value(name, shape, moved=True)
        return Value(self._reshape(name, (channels,)), (channels,))

    def reduce(self, op: str, x: Value, axes: Sequence[int], *, keep: bool) -> Value:
        """``ReduceMean`` and its like over some axes, counted from 0 without the batch."""
        x = self.rows(x)
        places = [axis + 1 for axis in axes]
        shape = tuple(
            1 if axis in axes else size
            for axis, size in enumerate(x.shape)
            if keep or axis not in axes
        )
        name = self.graph.add(op, x.name, self.graph.constant(places, np.int64), keepdims=int(keep))
        return Value(name, shape)

    def pad(self, x: Value, pads: Pads, value: float = 0.0) -> Value:
        """A border of ``value``; ``pads`` for every axis; negative ones cut."""
        x = x if x.moved else self.rows(x)
        shape = tuple(a + b + size for size, (a, b) in zip(x.shape, pads, strict=True))
        if min(shape) < 1:
            raise ConfigError(f"a layer leaves nothing of {list(x.shape)}")
        stored = ((0, 0), *_moved_shape(pads)) if x.moved else ((0, 0), *pads)
        amounts = self.graph.constant(_onnx_pads(stored), np.int64)
        name = self.graph.add("Pad", x.name, amounts, self.graph.constant(value))
        return replace(x, name=name, shape=shape)

    def unary(self, op: str, x: Value, **attributes: Any) -> Value:
        """An operator on each number."""
        return replace(x, name=self.graph.add(op, x.name, **attributes))

    def scaled(self, op: str, x: Value, number: float) -> Value:
        """``Mul``, ``Add`` and their like with one number."""
        return replace(x, name=self.graph.add(op, x.name, self.graph.constant(number)))

    def clip(self, x: Value, low: float, high: float) -> Value:
        """Each number within a range."""
        limits = [self.graph.constant(low), self.graph.constant(high)]
        return replace(x, name=self.graph.add("Clip", x.name, *limits))

    def softmax(self, x: Value, op: str = "Softmax") -> Value:
        """``Softmax`` or ``LogSoftmax`` over the last axis."""
        if x.moved:
            return replace(x, name=self.graph.add(op, x.name, axis=1))
        x = self.rows(x)
        return replace(x, name=self.graph.add(op, x.name, axis=-1))

    def merge(self, op: str, values: Sequence[Value]) -> Value:
        """``Add``, ``Mul`` and their like of several values, which may be broadcast."""
        alike = len({(v.shape, v.moved, v.flat_of) for v in values}) == 1
        values = values if alike else [self.rows(value) for value in values]
        result = values[0]
        for other in values[1:]:
            name = self.graph.add(op, *_equal_rank(self, result, other))
            shape = np.broadcast_shapes(result.shape, other.shape)
            result = replace(result, name=name, shape=tuple(shape))
        return result

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Values side by side along an axis, counted from 0 without the batch."""
        rank = len(values[0].shape)
        axis %= rank
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        if all(value.moved for value in values):
            place = 1 if axis == rank - 1 else axis + 2
            name = self.graph.add("Concat", *(value.name for value in values), axis=place)
            return Value(name, tuple(shape), moved=True)
        names = [self.rows(value).name for value in values]
        return Value(self.graph.add("Concat", *names, axis=axis + 1), tuple(shape))

    def with_constant(
        self, op: str, x: Value, other: NDArray[Any], *, first: bool = False
    ) -> Value:
        """An operator with a constant, which is broadcast against ``x`` without its batch.

        Args:
            op: e.g. ``"Sub"``.
            x: one side.
            other: the other one.
            first: the constant stands first.
        """
        if other.size == 1 or (x.moved and other.size == other.shape[-1] == x.shape[-1]):
            part = self._along(x, other.ravel())
        else:
            x = self.rows(x)
            part = self.graph.constant(other)
        names = (part, x.name) if first else (x.name, part)
        shape = tuple(np.broadcast_shapes(x.shape, other.shape[-len(x.shape) :]))
        return replace(x, name=self.graph.add(op, *names), shape=shape)

    def _along(self, x: Value, part: NDArray[Any]) -> str:
        """A constant that is broadcast along the last axis of ``x``."""
        part = np.asarray(part)
        if part.size > 1 and x.moved:
            part = part.reshape(-1, *(1 for _ in x.shape[:-1]))
        return self.graph.constant(part.reshape(()) if part.size == 1 else part)

    def _reshape(self, name: str, shape: Sequence[int]) -> str:
        return self.graph.add("Reshape", name, self.graph.constant((0, *shape), np.int64))


def _info(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    axes: list[int | str | None] = [_BATCH, *shape]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)


def same_pads(
    space: Sequence[int], size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Pads:
    """Padding after which a layer makes ceil(space / stride); the odd one comes last."""
    pads = []
    for length, kernel, stride, step in zip(space, size, strides, dilations, strict=True):
        span = (kernel - 1) * step + 1
        total = max(0, (math.ceil(length / stride) - 1) * stride + span - length)
        pads.append((total // 2, total - total // 2))
    return tuple(pads)


def _out_shape(
    space: Sequence[int], spans: Sequence[int], strides: Sequence[int], pads: Pads
) -> tuple[int, ...]:
    out = tuple(
        (length + sum(pad) - span) // stride + 1
        for length, span, stride, pad in zip(space, spans, strides, pads, strict=True)
    )
    if min(out, default=1) < 1:
        raise ConfigError(f"a kernel of {list(spans)} does not fit into {list(space)}")
    return out


def _onnx_pads(pads: Pads) -> list[int]:
    """All that comes before, then all that comes after."""
    return [before for before, _ in pads] + [after for _, after in pads]


def _moved_shape(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    return (shape[-1], *shape[:-1])


def _core(shape: Sequence[int]) -> list[int]:
    return [axis for axis in shape if axis > 1]


def _equal_rank(layers: Layers, one: Value, other: Value) -> tuple[str, str]:
    """Names of two values with as many axes, so that their batches meet."""
    rank = max(len(one.shape), len(other.shape))
    names = []
    for value in (one, other):
        shape = (*(1 for _ in range(rank - len(value.shape))), *value.shape)
        names.append(layers.reshape(value, shape).name if shape != value.shape else value.name)
    return names[0], names[1]
