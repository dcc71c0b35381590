"""Keras's recurrent layers as ONNX's GRU, LSTM and RNN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.nets.keras_model import Call
from converter.nets.layers import Layers, Value
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

_OPS: Final = {"GRU": "GRU", "LSTM": "LSTM", "SimpleRNN": "RNN"}
# Places of the gates: Keras has (z, r, h) as ONNX, and (i, f, c, o) where ONNX has (i, o, f, c).
_GATES: Final = {"GRU": (0, 1, 2), "LSTM": (0, 3, 1, 2), "SimpleRNN": (0,)}
_ACTIVATIONS: Final = {"tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "Relu"}


def recurrent(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    """A ``GRU``, ``LSTM`` or ``SimpleRNN`` over a sequence (times, features), from zeros."""
    _require_plain(call.config, given)
    backward = bool(call.config.get("go_backwards"))
    if backward and call.config.get("return_sequences"):
        raise ConfigError("go_backwards with return_sequences is supported in Bidirectional only")
    return _run(layers, call, call.kind, call.config, given[0], backward=[backward])


def bidirectional(layers: Layers, call: Call, given: Sequence[Value]) -> Value:
    """Both directions, side by side or merged."""
    inner = call.config["layer"]
    kind, config = str(inner["class_name"]), inner["config"]
    if kind not in _OPS:
        raise ConfigError(f"holds a {kind}; GRU, LSTM and SimpleRNN are supported")
    _require_plain(config, given)
    if config.get("go_backwards"):
        raise ConfigError("a layer with go_backwards inside is not supported")
    both = _run(layers, call, kind, config, given[0], backward=[False, True])
    mode = call.config.get("merge_mode", "concat")
    if mode == "concat":
        return both
    op = {"sum": "Add", "ave": "Add", "mul": "Mul"}.get(str(mode))
    if op is None:
        raise ConfigError(f"merge_mode={mode} is not supported")
    units = int(config["units"])
    halves = layers.graph.add_all("Split", both.name, outputs=2, axis=-1, num_outputs=2)
    shape = (*both.shape[:-1], units)
    merged = layers.merge(op, [Value(name, shape) for name in halves])
    return layers.scaled("Mul", merged, 0.5) if mode == "ave" else merged


def _require_plain(config: Mapping[str, Any], given: Sequence[Value]) -> None:
    if len(given) != 1:
        raise ConfigError("an initial state as an input is not supported")
    for field in ("stateful", "return_state", "time_major"):
        if config.get(field):
            raise ConfigError(f"{field}=True is not supported: save the model without it")


def _run(
    layers: Layers,
    call: Call,
    kind: str,
    config: Mapping[str, Any],
    x: Value,
    *,
    backward: Sequence[bool],
) -> Value:
    """One or two directions; their results side by side in the last axis."""
    x = layers.rows(x)
    times, features = x.shape
    units, graph = int(config["units"]), layers.graph
    count = len(call.weights) // len(backward)
    parts = [
        _weights(kind, config, call.weights[place * count : (place + 1) * count], features)
        for place in range(len(backward))
    ]
    stacked = [graph.constant(np.stack(arrays)) for arrays in zip(*parts, strict=True)]
    attributes: dict[str, Any] = {"hidden_size": units}
    attributes["activations"] = _functions(kind, config) * len(backward)
    names = {1: "reverse" if backward[0] else "forward", 2: "bidirectional"}
    attributes["direction"] = names[len(backward)]
    if kind == "GRU":
        attributes["linear_before_reset"] = int(config.get("reset_after", False))
    rows = graph.add("Transpose", x.name, perm=[1, 0, 2])
    every, last = graph.add_all(_OPS[kind], rows, *stacked, outputs=2, **attributes)
    width = units * len(backward)
    if config.get("return_sequences"):
        turned = graph.add("Transpose", every, perm=[2, 0, 1, 3])
        flat = graph.add("Reshape", turned, graph.constant((0, times, width), np.int64))
        return Value(flat, (times, width))
    turned = graph.add("Transpose", last, perm=[1, 0, 2])
    return Value(graph.add("Reshape", turned, graph.constant((0, width), np.int64)), (width,))


def _weights(
    kind: str, config: Mapping[str, Any], weights: Sequence[F32], features: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Weights of input and state (gates * units, ...) and bias of one direction, for ONNX."""
    units = int(config["units"])
    kernel, state, *rest = weights
    gates = _GATES[kind]
    if kernel.shape != (features, len(gates) * units) or state.shape[0] != units:
        raise ConfigError(f"weights {list(kernel.shape)} do not fit {features} features")
    bias = np.zeros((2, len(gates) * units), np.float32)
    if rest:
        bias[: rest[0].size // bias.shape[1]] = rest[0]

    def ordered(array: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([array[..., g * units : (g + 1) * units] for g in gates], axis=-1)

    return ordered(kernel).T, ordered(state).T, ordered(bias).ravel()


def _functions(kind: str, config: Mapping[str, Any]) -> list[str]:
    """The activations in ONNX's order: of the gates, then of what is remembered."""
    names = [config.get("activation", "tanh")]
    if kind != "SimpleRNN":
        names.insert(0, config.get("recurrent_activation", "sigmoid"))
    if unknown := [name for name in names if name not in _ACTIVATIONS]:
        raise ConfigError(f"the activation {unknown[0]!r} inside of it is not supported")
    found = [_ACTIVATIONS[name] for name in names]
    return [*found, found[-1]] if kind == "LSTM" else found
