"""Every operator of TFLite that is understood, as nodes: one function an operator, one table.

The first axis of a tensor is the batch where it is 1; a tensor without a batch, which TFLite makes
to have a matrix, keeps all of its axes behind one here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.activations import elu, gelu, gelu_tanh, leaky_relu, relu_between
from converter.layers import Layers, Pads, Value, same_pads
from converter.tflite_file import Op, TFLiteModel
from edge_agent.contract.errors import ConfigError

_SAME: Final = 0  # the schema's number of that padding


def require_known(model: TFLiteModel) -> None:
    """Refuse operators that have no form here, and numbers that are no floats, by name.

    Raises:
        ConfigError: there are some.
    """
    used = _needed(model)
    kinds = {op.kind for op in used} - OPERATORS.keys()
    if state := sorted(kind for kind in kinds if kind in _STATEFUL):
        raise ConfigError(
            f"keeps resource variables ({', '.join(state)}), which ONNX does not have: export the "
            "state as inputs and outputs"
        )
    if foreign := sorted(kind for kind in kinds if kind.startswith("custom ")):
        raise ConfigError(
            f"uses operators that are not TFLite's own: {', '.join(foreign)}; export it with "
            "TFLITE_BUILTINS only"
        )
    numbers = {t for op in used for t in (*op.inputs, *op.outputs) if t >= 0}
    numbers.update(model.inputs, model.outputs)
    integer = [model.tensors[number] for number in sorted(numbers)]
    quantized = [t.name for t in integer if t.kind in {"INT4", "INT8", "UINT8", "INT16"}]
    if quantized:
        raise ConfigError(
            f"is quantized ({len(quantized)} tensors, {quantized[0]!r} first): export the float "
            "model, without converter.optimizations; edge-convert quantizes by itself"
        )
    if kinds:
        raise ConfigError(f"uses operators that have no ONNX form here: {', '.join(sorted(kinds))}")


def lower_model(model: TFLiteModel) -> onnx.ModelProto:
    """The model as ONNX, its batch open.

    Raises:
        ConfigError: an operator does not fit its inputs; names it.
    """
    lowering = _Lowering(model)
    for number in model.inputs:
        tensor = model.tensors[number]
        if tensor.kind != "FLOAT32":
            raise ConfigError(f"its input {tensor.name!r} takes {tensor.kind}, not FLOAT32")
        if any(place > 0 for place in tensor.open) or tensor.shape[:1] != (1,):
            raise ConfigError(
                f"its input {tensor.name!r} is {list(tensor.shape)} with open axes: export it for "
                "one window at a time, of a fixed length"
            )
        value = lowering.layers.input(tensor.name, tensor.shape[1:])
        lowering.values[number] = value
    for op in _needed(model):
        lowering.lower(op)
    outputs = [(model.tensors[n].name, lowering.value(n)) for n in model.outputs]
    return lowering.layers.finish(outputs, "tflite")


def _needed(model: TFLiteModel) -> list[Op]:
    """The operators that the outputs depend on, without those that only compute a shape."""
    wanted = set(model.outputs)
    kept = []
    for op in reversed(model.ops):
        if wanted.intersection(op.outputs):
            kept.append(op)
            wanted.update(op.inputs[:1] if op.kind == "RESHAPE" else op.inputs)
    return kept[::-1]


@dataclass
class _Lowering:
    """A graph under construction.

    Attributes:
        values: by the number of a tensor, what computes it.
        constants: by the number of a tensor, what was computed here.
    """

    model: TFLiteModel
    layers: Layers = field(default_factory=Layers)
    values: dict[int, Value] = field(default_factory=dict)
    constants: dict[int, NDArray[Any]] = field(default_factory=dict)

    def lower(self, op: Op) -> None:
        """Write one operator."""
        try:
            made = OPERATORS[op.kind](self, op)
        except ConfigError as exc:
            raise ConfigError(f"its operator {self._said(op)}: {exc}") from exc
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as exc:
            raise ConfigError(
                f"its operator {self._said(op)} has settings or inputs that do not fit: "
                f"{type(exc).__name__}: {exc}"
            ) from exc
        for number, value in zip(op.outputs, made, strict=False):
            tensor = self.model.tensors[number]
            fits = value.shape == self.shape(number)
            if not fits and not any(place > 0 for place in tensor.open):
                raise ConfigError(
                    f"its operator {self._said(op)} makes {list(value.shape)}, the file says "
                    f"{list(tensor.shape)}"
                )
            self.values[number] = value

    def value(self, number: int) -> Value:
        """What computes a tensor.

        Raises:
            ConfigError: it is a constant, where one has no form here.
        """
        if number not in self.values:
            raise ConfigError(f"a constant, tensor {number}, stands where a window should")
        return self.values[number]

    def constant(self, number: int) -> NDArray[Any] | None:
        """The value of a constant; None for what is computed, or left out."""
        if number < 0:
            return None
        return self.constants.get(number, self.model.tensors[number].value)

    def required(self, op: Op, place: int) -> NDArray[Any]:
        """The constant that an operator has at a place.

        Raises:
            ConfigError: it is computed.
        """
        found = self.constant(op.inputs[place])
        if found is None:
            raise ConfigError(f"its input {place} must be a constant")
        return found

    def shape(self, number: int) -> tuple[int, ...]:
        """The shape of a tensor without its batch, which is there when its first axis is 1."""
        shape = self.model.tensors[number].shape
        return shape[1:] if shape[:1] == (1,) else shape

    def axis(self, number: int, axis: int) -> int:
        """An axis of a tensor without its batch.

        Raises:
            ConfigError: it is the batch.
        """
        shape = self.model.tensors[number].shape
        axis = axis % len(shape)
        if shape[0] != 1:
            return axis
        if axis == 0:
            raise ConfigError("works along the batch")
        return axis - 1

    def activated(self, x: Value, number: int) -> Value:
        """The activation that is part of an operator."""
        if number not in _FUSED:
            raise ConfigError(f"has the unknown activation {number}")
        return _FUSED[number](self.layers, x)

    def _said(self, op: Op) -> str:
        return f"{op.kind} ({self.model.tensors[op.outputs[0]].name})"


Lower = Callable[[_Lowering, Op], Sequence[Value]]


# --- operators with weights -----------------------------------------------------------------------


def _conv(run: _Lowering, op: Op) -> Sequence[Value]:
    kernel = np.moveaxis(run.required(op, 1), 0, -1)  # from (filters, height, width, channels)
    x = run.value(op.inputs[0])
    y = _convolve(run, op, x, kernel, groups=x.shape[-1] // kernel.shape[-2])
    return [run.activated(y, op.options.fusedActivationFunction)]


def _depthwise(run: _Lowering, op: Op) -> Sequence[Value]:
    kernel = np.moveaxis(run.required(op, 1), 0, -2)  # from (1, height, width, filters)
    x = run.value(op.inputs[0])
    y = _convolve(run, op, x, kernel, groups=x.shape[-1])
    return [run.activated(y, op.options.fusedActivationFunction)]


def _convolve(run: _Lowering, op: Op, x: Value, kernel: NDArray[Any], *, groups: int) -> Value:
    options = op.options
    strides = (options.strideH, options.strideW)
    steps = (options.dilationHFactor, options.dilationWFactor)
    pads = _pads(options, x, kernel.shape[:2], strides, steps)
    bias = run.required(op, 2) if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
    return run.layers.conv(
        x, kernel, bias, strides=strides, dilations=steps, pads=pads, groups=groups
    )


def _dense(run: _Lowering, op: Op) -> Sequence[Value]:
    kernel = run.required(op, 1).T
    bias = run.required(op, 2) if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
    x = run.value(op.inputs[0])
    if x.shape[-1:] != kernel.shape[:1]:
        rows = math.prod(x.shape) // len(kernel)
        x = run.layers.reshape(x, (len(kernel),) if rows == 1 else (rows, len(kernel)))
    y = run.activated(run.layers.dense(x, kernel, bias), op.options.fusedActivationFunction)
    return [run.layers.reshape(y, run.shape(op.outputs[0]))]


def _lstm(run: _Lowering, op: Op) -> Sequence[Value]:
    """All gates of a plain LSTM, from zeros."""
    extra = (*range(9, 12), 16, 17, *range(20, len(op.inputs)))
    if any(op.inputs[place] >= 0 for place in extra) or op.inputs[1] < 0:
        raise ConfigError("peepholes, projection and coupled gates are not supported")
    if op.options.timeMajor or op.options.cellClip or op.options.projClip:
        raise ConfigError("time first and clipping are not supported")
    if op.options.fusedActivationFunction != _TANH:
        raise ConfigError("only tanh is supported inside of it")
    x = run.layers.rows(run.value(op.inputs[0]))
    order = (0, 3, 1, 2)  # from (i, f, c, o) to ONNX's (i, o, f, c)
    weights = np.concatenate([run.required(op, 1 + gate) for gate in order])
    inner = np.concatenate([run.required(op, 5 + gate) for gate in order])
    bias = np.concatenate([run.required(op, 12 + gate) for gate in order])
    graph, units = run.layers.graph, inner.shape[1]
    parts = [weights, inner, np.concatenate([bias, np.zeros_like(bias)])]
    rows = graph.add("Transpose", x.name, perm=[1, 0, 2])
    constants = [graph.constant(part[None]) for part in parts]
    every = graph.add("LSTM", rows, *constants, hidden_size=units)
    turned = graph.add("Transpose", every, perm=[2, 0, 1, 3])
    shape = (x.shape[0], units)
    return [Value(graph.add("Reshape", turned, graph.constant((0, *shape), np.int64)), shape)]


# --- operators without ----------------------------------------------------------------------------


def _pool(run: _Lowering, op: Op, *, kind: str) -> Sequence[Value]:
    options, x = op.options, run.value(op.inputs[0])
    size, strides = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
    pads = _pads(options, x, size, strides, (1, 1))
    y = run.layers.pool(kind, x, size=size, strides=strides, pads=pads)
    return [run.activated(y, options.fusedActivationFunction)]


def _reduce(run: _Lowering, op: Op, *, kind: str, whole: str) -> Sequence[Value]:
    x = run.value(op.inputs[0])
    axes = sorted({run.axis(op.inputs[0], int(axis)) for axis in run.required(op, 1).ravel()})
    keep = bool(op.options.keepDims)
    if whole and x.moved and axes == list(range(len(x.shape) - 1)):
        return [run.layers.pool_all(whole, x, keep=keep)]
    return [run.layers.reduce(kind, x, axes, keep=keep)]


def _reshape(run: _Lowering, op: Op) -> Sequence[Value]:
    return [run.layers.reshape(run.value(op.inputs[0]), run.shape(op.outputs[0]))]


def _transpose(run: _Lowering, op: Op) -> Sequence[Value]:
    order = [int(axis) for axis in run.required(op, 1)]
    if run.model.tensors[op.inputs[0]].shape[0] == 1:
        if order[0] != 0:
            raise ConfigError("moves the batch")
        order = [axis - 1 for axis in order[1:]]
    return [run.layers.permute(run.value(op.inputs[0]), order)]


def _pad(run: _Lowering, op: Op) -> Sequence[Value]:
    pairs = [(int(before), int(after)) for before, after in run.required(op, 1)]
    x = run.value(op.inputs[0])
    if len(pairs) > len(x.shape):
        if pairs[0] != (0, 0):
            raise ConfigError("pads the batch")
        pairs = pairs[1:]
    value = float(run.required(op, 2).item()) if len(op.inputs) > 2 else 0.0
    return [run.layers.pad(x, tuple(pairs), value)]


def _concat(run: _Lowering, op: Op) -> Sequence[Value]:
    values = [run.value(number) for number in op.inputs]
    y = run.layers.concat(values, run.axis(op.inputs[0], op.options.axis))
    return [run.activated(y, op.options.fusedActivationFunction)]


def _binary(run: _Lowering, op: Op, *, kind: str) -> Sequence[Value]:
    left, right = (run.constant(number) for number in op.inputs)
    if left is not None:
        y = run.layers.with_constant(kind, run.value(op.inputs[1]), left, first=True)
    elif right is not None:
        y = run.layers.with_constant(kind, run.value(op.inputs[0]), right)
    else:
        y = run.layers.merge(kind, [run.value(number) for number in op.inputs])
    return [run.activated(y, getattr(op.options, "fusedActivationFunction", 0))]


def _difference(run: _Lowering, op: Op) -> Sequence[Value]:
    (y,) = _binary(run, op, kind="Sub")
    return [run.layers.merge("Mul", [y, y])]


def _unary(run: _Lowering, op: Op, *, kind: str) -> Sequence[Value]:
    return [run.layers.unary(kind, run.value(op.inputs[0]))]


def _clip(run: _Lowering, op: Op, *, low: float, high: float) -> Sequence[Value]:
    return [run.layers.clip(run.value(op.inputs[0]), low, high)]


def _softmax(run: _Lowering, op: Op) -> Sequence[Value]:
    x, beta = run.value(op.inputs[0]), float(op.options.beta)
    x = x if beta == 1 else run.layers.scaled("Mul", x, beta)
    return [run.layers.softmax(x)]


def _log_softmax(run: _Lowering, op: Op) -> Sequence[Value]:
    return [run.layers.softmax(run.value(op.inputs[0]), "LogSoftmax")]


def _leaky(run: _Lowering, op: Op) -> Sequence[Value]:
    return [leaky_relu(run.layers, run.value(op.inputs[0]), float(op.options.alpha))]


def _elu(run: _Lowering, op: Op) -> Sequence[Value]:
    return [elu(run.layers, run.value(op.inputs[0]))]


def _gelu(run: _Lowering, op: Op) -> Sequence[Value]:
    form = gelu_tanh if op.options is not None and op.options.approximate else gelu
    return [form(run.layers, run.value(op.inputs[0]))]


def _prelu(run: _Lowering, op: Op) -> Sequence[Value]:
    x = run.layers.rows(run.value(op.inputs[0]))
    slope = run.layers.graph.constant(run.required(op, 1))
    return [Value(run.layers.graph.add("PRelu", x.name, slope), x.shape)]


def _square(run: _Lowering, op: Op) -> Sequence[Value]:
    x = run.value(op.inputs[0])
    return [run.layers.merge("Mul", [x, x])]


def _rsqrt(run: _Lowering, op: Op) -> Sequence[Value]:
    x = run.layers.unary("Sqrt", run.value(op.inputs[0]))
    return [run.layers.unary("Reciprocal", x)]


def _dequantize(run: _Lowering, op: Op) -> Sequence[Value]:
    """Weights that are stored as float16."""
    run.constants[op.outputs[0]] = run.required(op, 0).astype(np.float32)
    return []


def _slice(run: _Lowering, op: Op) -> Sequence[Value]:
    begin, size = run.required(op, 1), run.required(op, 2)
    pairs = list(zip(begin.tolist(), size.tolist(), strict=True))
    full = run.model.tensors[op.inputs[0]].shape
    parts = [
        slice(at, at + (count if count >= 0 else axis - at))
        for (at, count), axis in zip(pairs, full, strict=True)
    ]
    return [_cut(run, op, parts)]


def _strided_slice(run: _Lowering, op: Op) -> Sequence[Value]:
    options = op.options
    if options.ellipsisMask or options.newAxisMask or getattr(options, "offset", False):
        raise ConfigError("ellipsis and new axes are not supported")
    begin, end, step = (run.required(op, place).tolist() for place in (1, 2, 3))
    parts = []
    for axis in range(len(begin)):
        start = None if options.beginMask >> axis & 1 else begin[axis]
        stop = None if options.endMask >> axis & 1 else end[axis]
        if options.shrinkAxisMask >> axis & 1:
            start, stop = begin[axis], begin[axis] + 1 or None
        parts.append(slice(start, stop, step[axis]))
    return [_cut(run, op, parts)]


def _cut(run: _Lowering, op: Op, parts: Sequence[slice]) -> Value:
    """A part of a tensor by a slice of each of its axes, the batch whole."""
    full = run.model.tensors[op.inputs[0]].shape
    x = run.layers.rows(run.value(op.inputs[0]))
    skip = len(full) - len(x.shape)
    if any(
        part.indices(axis) != (0, axis, 1) for part, axis in zip(parts[:skip], full, strict=False)
    ):
        raise ConfigError("cuts the batch")
    ranges = [part.indices(axis) for part, axis in zip(parts[skip:], x.shape, strict=False)]
    if any(step < 1 for _, _, step in ranges):
        raise ConfigError("goes backwards")
    columns = [list(column) for column in zip(*ranges, strict=True)]
    axes = list(range(1, len(ranges) + 1))
    graph = run.layers.graph
    names = [graph.constant(c, np.int64) for c in (columns[0], columns[1], axes, columns[2])]
    lengths = [len(range(*bounds)) for bounds in ranges]
    cut = Value(graph.add("Slice", x.name, *names), (*lengths, *x.shape[len(lengths) :]))
    return run.layers.reshape(cut, run.shape(op.outputs[0]))


def _split(run: _Lowering, op: Op) -> Sequence[Value]:
    """Equal parts along an axis."""
    axis = run.axis(op.inputs[1], int(run.required(op, 0).item()))
    x = run.layers.rows(run.value(op.inputs[1]))
    count = len(op.outputs)
    names = run.layers.graph.add_all(
        "Split", x.name, outputs=count, axis=axis + 1, num_outputs=count
    )
    shape = list(x.shape)
    shape[axis] //= count
    return [Value(name, tuple(shape)) for name in names]


def _pads(
    options: Any, x: Value, size: Sequence[int], strides: Sequence[int], steps: Sequence[int]
) -> Pads:
    if options.padding == _SAME:
        return same_pads(x.shape[:-1], size, strides, steps)
    return ((0, 0), (0, 0))


_TANH: Final = 4
_FUSED: Final[dict[int, Callable[[Layers, Value], Value]]] = {  # the schema's numbers
    0: lambda _, x: x,
    1: lambda layers, x: layers.unary("Relu", x),
    2: partial(relu_between, low=-1, high=1),
    3: partial(relu_between, low=0, high=6),
    _TANH: lambda layers, x: layers.unary("Tanh", x),
}
_STATEFUL: Final = frozenset({"ASSIGN_VARIABLE", "CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE"})

OPERATORS: Final[dict[str, Lower]] = {
    "ABS": partial(_unary, kind="Abs"),
    "ADD": partial(_binary, kind="Add"),
    "AVERAGE_POOL_2D": partial(_pool, kind="AveragePool"),
    "CONCATENATION": _concat,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": _dequantize,
    "DIV": partial(_binary, kind="Div"),
    "ELU": _elu,
    "EXP": partial(_unary, kind="Exp"),
    "EXPAND_DIMS": _reshape,
    "FULLY_CONNECTED": _dense,
    "GELU": _gelu,
    "HARD_SWISH": partial(_unary, kind="HardSwish"),
    "LEAKY_RELU": _leaky,
    "LOG": partial(_unary, kind="Log"),
    "LOGISTIC": partial(_unary, kind="Sigmoid"),
    "LOG_SOFTMAX": _log_softmax,
    "MAXIMUM": partial(_binary, kind="Max"),
    "MAX_POOL_2D": partial(_pool, kind="MaxPool"),
    "MEAN": partial(_reduce, kind="ReduceMean", whole="GlobalAveragePool"),
    "MINIMUM": partial(_binary, kind="Min"),
    "MUL": partial(_binary, kind="Mul"),
    "NEG": partial(_unary, kind="Neg"),
    "PAD": _pad,
    "PADV2": _pad,
    "POW": partial(_binary, kind="Pow"),
    "PRELU": _prelu,
    "REDUCE_MAX": partial(_reduce, kind="ReduceMax", whole="GlobalMaxPool"),
    "REDUCE_MIN": partial(_reduce, kind="ReduceMin", whole=""),
    "RELU": partial(_unary, kind="Relu"),
    "RELU6": partial(_clip, low=0.0, high=6.0),
    "RELU_0_TO_1": partial(_clip, low=0.0, high=1.0),
    "RELU_N1_TO_1": partial(_clip, low=-1.0, high=1.0),
    "RESHAPE": _reshape,
    "RSQRT": _rsqrt,
    "SLICE": _slice,
    "SOFTMAX": _softmax,
    "SPLIT": _split,
    "SQRT": partial(_unary, kind="Sqrt"),
    "SQUARE": _square,
    "SQUARED_DIFFERENCE": _difference,
    "SQUEEZE": _reshape,
    "STRIDED_SLICE": _strided_slice,
    "SUB": partial(_binary, kind="Sub"),
    "SUM": partial(_reduce, kind="ReduceSum", whole=""),
    "TANH": partial(_unary, kind="Tanh"),
    "TRANSPOSE": _transpose,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
}
