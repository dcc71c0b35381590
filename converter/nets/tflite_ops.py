"""Every operator of TFLite that is understood, as nodes: one function an operator, one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from converter.nets import tflite_layers
from converter.nets.activations import elu, gelu, gelu_tanh, leaky_relu
from converter.nets.layers import Value
from converter.nets.tflite_file import Op
from converter.nets.tflite_graph import Lowering
from edge_agent.contract.errors import ConfigError

Lower = Callable[[Lowering, Op], Sequence[Value]]


def _reduce(run: Lowering, op: Op, *, kind: str, whole: str) -> Sequence[Value]:
    x = run.value(op.inputs[0])
    axes = sorted({run.axis(op.inputs[0], int(axis)) for axis in run.required(op, 1).ravel()})
    keep = bool(op.options.keepDims)
    if whole and x.moved and axes == list(range(len(x.shape) - 1)):
        return [run.layers.pool_all(whole, x, keep=keep)]
    return [run.layers.reduce(kind, x, axes, keep=keep)]


def _reshape(run: Lowering, op: Op) -> Sequence[Value]:
    return [run.layers.reshape(run.value(op.inputs[0]), run.shape(op.outputs[0]))]


def _transpose(run: Lowering, op: Op) -> Sequence[Value]:
    order = [int(axis) for axis in run.required(op, 1)]
    if run.model.tensors[op.inputs[0]].shape[0] == 1:
        if order[0] != 0:
            raise ConfigError("moves the batch")
        order = [axis - 1 for axis in order[1:]]
    return [run.layers.permute(run.value(op.inputs[0]), order)]


def _pad(run: Lowering, op: Op) -> Sequence[Value]:
    pairs = [(int(before), int(after)) for before, after in run.required(op, 1)]
    x = run.value(op.inputs[0])
    if len(pairs) > len(x.shape):
        if pairs[0] != (0, 0):
            raise ConfigError("pads the batch")
        pairs = pairs[1:]
    value = float(run.required(op, 2).item()) if len(op.inputs) > 2 else 0.0
    return [run.layers.pad(x, tuple(pairs), value)]


def _concat(run: Lowering, op: Op) -> Sequence[Value]:
    values = [run.value(number) for number in op.inputs]
    y = run.layers.concat(values, run.axis(op.inputs[0], op.options.axis))
    return [run.activated(y, op.options.fusedActivationFunction)]


def _binary(run: Lowering, op: Op, *, kind: str) -> Sequence[Value]:
    left, right = (run.constant(number) for number in op.inputs)
    if left is not None:
        y = run.layers.with_constant(kind, run.value(op.inputs[1]), left, first=True)
    elif right is not None:
        y = run.layers.with_constant(kind, run.value(op.inputs[0]), right)
    else:
        y = run.layers.merge(kind, [run.value(number) for number in op.inputs])
    return [run.activated(y, getattr(op.options, "fusedActivationFunction", 0))]


def _difference(run: Lowering, op: Op) -> Sequence[Value]:
    (y,) = _binary(run, op, kind="Sub")
    return [run.layers.merge("Mul", [y, y])]


def _unary(run: Lowering, op: Op, *, kind: str) -> Sequence[Value]:
    return [run.layers.unary(kind, run.value(op.inputs[0]))]


def _clip(run: Lowering, op: Op, *, low: float, high: float) -> Sequence[Value]:
    return [run.layers.clip(run.value(op.inputs[0]), low, high)]


def _softmax(run: Lowering, op: Op) -> Sequence[Value]:
    x, beta = run.value(op.inputs[0]), float(op.options.beta)
    x = x if beta == 1 else run.layers.scaled("Mul", x, beta)
    return [run.layers.softmax(x)]


def _log_softmax(run: Lowering, op: Op) -> Sequence[Value]:
    return [run.layers.softmax(run.value(op.inputs[0]), "LogSoftmax")]


def _leaky(run: Lowering, op: Op) -> Sequence[Value]:
    return [leaky_relu(run.layers, run.value(op.inputs[0]), float(op.options.alpha))]


def _elu(run: Lowering, op: Op) -> Sequence[Value]:
    return [elu(run.layers, run.value(op.inputs[0]))]


def _gelu(run: Lowering, op: Op) -> Sequence[Value]:
    form = gelu_tanh if op.options is not None and op.options.approximate else gelu
    return [form(run.layers, run.value(op.inputs[0]))]


def _prelu(run: Lowering, op: Op) -> Sequence[Value]:
    x = run.layers.rows(run.value(op.inputs[0]))
    slope = run.layers.graph.constant(run.required(op, 1))
    return [Value(run.layers.graph.add("PRelu", x.name, slope), x.shape)]


def _square(run: Lowering, op: Op) -> Sequence[Value]:
    x = run.value(op.inputs[0])
    return [run.layers.merge("Mul", [x, x])]


def _rsqrt(run: Lowering, op: Op) -> Sequence[Value]:
    x = run.layers.unary("Sqrt", run.value(op.inputs[0]))
    return [run.layers.unary("Reciprocal", x)]


def _dequantize(run: Lowering, op: Op) -> Sequence[Value]:
    """Weights that are stored as float16."""
    run.constants[op.outputs[0]] = run.required(op, 0).astype(np.float32)
    return []


def _slice(run: Lowering, op: Op) -> Sequence[Value]:
    begin, size = run.required(op, 1), run.required(op, 2)
    pairs = list(zip(begin.tolist(), size.tolist(), strict=True))
    full = run.model.tensors[op.inputs[0]].shape
    parts = [
        slice(at, at + (count if count >= 0 else axis - at))
        for (at, count), axis in zip(pairs, full, strict=True)
    ]
    return [_cut(run, op, parts)]


def _strided_slice(run: Lowering, op: Op) -> Sequence[Value]:
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


def _cut(run: Lowering, op: Op, parts: Sequence[slice]) -> Value:
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


def _split(run: Lowering, op: Op) -> Sequence[Value]:
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


OPERATORS: Final[dict[str, Lower]] = {
    "ABS": partial(_unary, kind="Abs"),
    "ADD": partial(_binary, kind="Add"),
    "AVERAGE_POOL_2D": partial(tflite_layers.pool, kind="AveragePool"),
    "CONCATENATION": _concat,
    "CONV_2D": tflite_layers.conv,
    "DEPTHWISE_CONV_2D": tflite_layers.depthwise,
    "DEQUANTIZE": _dequantize,
    "DIV": partial(_binary, kind="Div"),
    "ELU": _elu,
    "EXP": partial(_unary, kind="Exp"),
    "EXPAND_DIMS": _reshape,
    "FULLY_CONNECTED": tflite_layers.dense,
    "GELU": _gelu,
    "HARD_SWISH": partial(_unary, kind="HardSwish"),
    "LEAKY_RELU": _leaky,
    "LOG": partial(_unary, kind="Log"),
    "LOGISTIC": partial(_unary, kind="Sigmoid"),
    "LOG_SOFTMAX": _log_softmax,
    "MAXIMUM": partial(_binary, kind="Max"),
    "MAX_POOL_2D": partial(tflite_layers.pool, kind="MaxPool"),
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
    "UNIDIRECTIONAL_SEQUENCE_LSTM": tflite_layers.lstm,
}
