"""TFLite's operators that move a kernel, or have weights, as nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.nets.layers import Pads, Value, same_pads
from converter.nets.tflite_file import Op
from converter.nets.tflite_graph import TANH, Lowering
from edge_agent.contract.errors import ConfigError

_SAME: Final = 0  # the schema's number of that padding


def conv(run: Lowering, op: Op) -> Sequence[Value]:
    """A ``CONV_2D``."""
    kernel = np.moveaxis(run.required(op, 1), 0, -1)  # from (filters, height, width, channels)
    x = run.value(op.inputs[0])
    y = _convolve(run, op, x, kernel, groups=x.shape[-1] // kernel.shape[-2])
    return [run.activated(y, op.options.fusedActivationFunction)]


def depthwise(run: Lowering, op: Op) -> Sequence[Value]:
    """A ``DEPTHWISE_CONV_2D``."""
    kernel = np.moveaxis(run.required(op, 1), 0, -2)  # from (1, height, width, filters)
    x = run.value(op.inputs[0])
    y = _convolve(run, op, x, kernel, groups=x.shape[-1])
    return [run.activated(y, op.options.fusedActivationFunction)]


def dense(run: Lowering, op: Op) -> Sequence[Value]:
    """A ``FULLY_CONNECTED``, which may flatten its input."""
    kernel = run.required(op, 1).T
    bias = run.required(op, 2) if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
    x = run.value(op.inputs[0])
    if x.shape[-1:] != kernel.shape[:1]:
        rows = math.prod(x.shape) // len(kernel)
        x = run.layers.reshape(x, (len(kernel),) if rows == 1 else (rows, len(kernel)))
    y = run.activated(run.layers.dense(x, kernel, bias), op.options.fusedActivationFunction)
    return [run.layers.reshape(y, run.shape(op.outputs[0]))]


def lstm(run: Lowering, op: Op) -> Sequence[Value]:
    """All gates of a plain LSTM, from zeros."""
    extra = (*range(9, 12), 16, 17, *range(20, len(op.inputs)))
    if any(op.inputs[place] >= 0 for place in extra) or op.inputs[1] < 0:
        raise ConfigError("peepholes, projection and coupled gates are not supported")
    if op.options.timeMajor or op.options.projClip:
        raise ConfigError("time first and a clipped projection are not supported")
    if op.options.fusedActivationFunction != TANH:
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


def pool(run: Lowering, op: Op, *, kind: str) -> Sequence[Value]:
    """``MaxPool`` or ``AveragePool``; what is padded does not count."""
    options, x = op.options, run.value(op.inputs[0])
    size, strides = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
    pads = _pads(options, x, size, strides, (1, 1))
    y = run.layers.pool(kind, x, size=size, strides=strides, pads=pads)
    return [run.activated(y, options.fusedActivationFunction)]


def _convolve(run: Lowering, op: Op, x: Value, kernel: NDArray[Any], *, groups: int) -> Value:
    options = op.options
    strides = (options.strideH, options.strideW)
    steps = (options.dilationHFactor, options.dilationWFactor)
    pads = _pads(options, x, kernel.shape[:2], strides, steps)
    bias = run.required(op, 2) if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
    return run.layers.conv(
        x, kernel, bias, strides=strides, dilations=steps, pads=pads, groups=groups
    )


def _pads(
    options: Any, x: Value, size: Sequence[int], strides: Sequence[int], steps: Sequence[int]
) -> Pads:
    if options.padding == _SAME:
        return same_pads(x.shape[:-1], size, strides, steps)
    return ((0, 0), (0, 0))
