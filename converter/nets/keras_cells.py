"""Keras's recurrent layers as plain float64 formulas, one step after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from converter.nets.keras_functions import F64, FUNCTIONS


def recurrent(
    kind: str, config: Mapping[str, Any], weights: Sequence[F64], given: Sequence[F64]
) -> F64:
    """A sequence through one cell, from zeros."""
    (x,) = given
    x = x[::-1] if config.get("go_backwards") else x
    state = memory = np.zeros(int(config["units"]))
    states = []
    for row in x:
        state, memory = CELLS[kind](config, weights, row, state, memory)
        states.append(state)
    return np.stack(states) if config.get("return_sequences") else state


def bidirectional(config: Mapping[str, Any], weights: Sequence[F64], given: Sequence[F64]) -> F64:
    """Both directions of a layer, side by side or merged."""
    inner, half = config["layer"], len(weights) // 2
    settings, kind = inner["config"], str(inner["class_name"])
    ahead = recurrent(kind, settings, weights[:half], given)
    back = recurrent(kind, {**settings, "go_backwards": True}, weights[half:], given)
    back = back[::-1] if settings.get("return_sequences") else back
    mode = config.get("merge_mode", "concat")
    if mode == "concat":
        return np.concatenate([ahead, back], axis=-1)
    return {"sum": ahead + back, "ave": (ahead + back) / 2, "mul": ahead * back}[mode]


def _gru(
    config: Mapping[str, Any], weights: Sequence[F64], x: F64, state: F64, memory: F64
) -> tuple[F64, F64]:
    kernel, inner, *bias = weights
    act, gate = _inner(config)
    both = np.zeros((2, kernel.shape[1]))
    if bias:
        both[: bias[0].size // kernel.shape[1]] = bias[0]
    z, r, h = np.split(x @ kernel + both[0], 3)
    if config.get("reset_after", False):
        inner_z, inner_r, inner_h = np.split(state @ inner + both[1], 3)
        z, r = gate(z + inner_z), gate(r + inner_r)
        h = act(h + r * inner_h)
    else:
        inner_z, inner_r, inner_h = np.split(inner, 3, axis=1)
        z, r = gate(z + state @ inner_z), gate(r + state @ inner_r)
        h = act(h + (r * state) @ inner_h)
    return z * state + (1 - z) * h, memory


def _lstm(
    config: Mapping[str, Any], weights: Sequence[F64], x: F64, state: F64, memory: F64
) -> tuple[F64, F64]:
    kernel, inner, *bias = weights
    act, gate = _inner(config)
    i, f, c, o = np.split(x @ kernel + state @ inner + (bias[0] if bias else 0), 4)
    memory = gate(f) * memory + gate(i) * act(c)
    return gate(o) * act(memory), memory


def _simple_rnn(
    config: Mapping[str, Any], weights: Sequence[F64], x: F64, state: F64, memory: F64
) -> tuple[F64, F64]:
    kernel, inner, *bias = weights
    act, _ = _inner(config)
    return act(x @ kernel + state @ inner + (bias[0] if bias else 0)), memory


def _inner(config: Mapping[str, Any]) -> tuple[Callable[[F64], F64], Callable[[F64], F64]]:
    gate = FUNCTIONS[config.get("recurrent_activation", "sigmoid")]
    return FUNCTIONS[config.get("activation", "tanh")], gate


CELLS: Final = {"GRU": _gru, "LSTM": _lstm, "SimpleRNN": _simple_rnn}
