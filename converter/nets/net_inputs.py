"""How a window becomes the inputs of a network: which channels, in which layout and shape.

A window is (length, channels), reading after reading. An input takes it as it is, or transposed to
(channels, length), and then in its own shape: so a flat vector, a sequence, an image with one
colour and one with several are all the same two cases.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.model_io import Layout, ModelIO
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import State

Axes = tuple[int | None, ...]  # None: left open by the file
Array = NDArray[Any]

_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[1-9]\d*")
_TIMES: Final = frozenset({
    "cur", "current", "final", "in", "init", "initial", "input", "n", "new", "next", "old", "out",
    "output", "past", "present", "prev", "previous", "t",
})  # fmt: skip
_STATE_TYPES: Final = frozenset(
    {"float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool"}
)


@dataclass(frozen=True)
class Tensor:
    """An input or output as the file states it.

    Attributes:
        name: of the tensor.
        dtype: None where numpy has none for it, as for sequences and maps.
        axes: None where the file does not even say how many there are.
    """

    name: str
    dtype: np.dtype[Any] | None
    axes: Axes | None

    def __str__(self) -> str:
        axes = "?" if self.axes is None else ["?" if a is None else a for a in self.axes]
        return f"{self.name!r} {self.dtype or 'of another kind'} {axes}".replace("'?'", "?")


@dataclass(frozen=True)
class Feed:
    """An input that takes (a part of) the window.

    Attributes:
        name: of the input.
        dtype: that readings are cast to.
        shape: of one window, the batch as 1.
        batched: the first axis may be any number of windows.
        channels: places of the channels that it takes; None for all of them in order.
        layout: see :class:`~converter.model_io.ModelIO`.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    batched: bool
    channels: tuple[int, ...] | None
    layout: Layout

    def array(self, window: F32) -> Array:
        """The value of the input for a window (length, channels)."""
        taken = window if self.channels is None else window[:, self.channels]
        taken = taken.T if self.layout == "channels_first" else taken
        return np.ascontiguousarray(taken.reshape(self.shape), dtype=self.dtype)


@dataclass(frozen=True)
class Inputs:
    """All inputs of a network.

    Attributes:
        feeds: those that take the window.
        constants: those that always have the same value.
        states: those that take the value of an output from the window before.
    """

    feeds: tuple[Feed, ...]
    constants: Mapping[str, Array]
    states: tuple[State, ...]

    @property
    def batched(self) -> bool:
        """Whether several windows may be given at once."""
        return not self.states and all(feed.batched for feed in self.feeds)

    def one_by_one(self) -> Inputs:
        """The same for one window at a time."""
        feeds = tuple(replace(feed, batched=False) for feed in self.feeds)
        return replace(self, feeds=feeds)


def plan_inputs(
    given: Sequence[Tensor],
    made: Sequence[Tensor],
    io: ModelIO,
    *,
    length: int,
    channels: tuple[str, ...],
) -> Inputs:
    """Say what every input of a network takes.

    Args:
        given: the inputs.
        made: the outputs.
        io: what the recipe says.
        length: readings in a window.
        channels: names of the columns of a reading.

    Raises:
        ConfigError: the file leaves something open, or contradicts the recipe; says what to write.
    """
    _require_names(io, given, made)
    pairs = dict(io.states)
    fixed = {*io.inputs, *io.constants, *pairs}
    rest = [tensor for tensor in given if tensor.name not in fixed]
    if len(rest) > 1 or (rest and io.inputs):
        taken = {*pairs.values(), io.output}
        pairs |= _pairs(rest, [tensor for tensor in made if tensor.name not in taken])
    rest = [tensor for tensor in rest if tensor.name not in pairs]
    wanted = _channels(rest, io, channels)
    by_name = {tensor.name: tensor for tensor in (*given, *made)}
    feeds = tuple(
        _feed(by_name[name], places, io, length=length, count=len(channels))
        for name, places in wanted.items()
    )
    return Inputs(
        feeds=feeds,
        constants={name: _constant(by_name[name], io) for name in io.constants},
        states=tuple(_state(by_name[i], by_name[o], io) for i, o in pairs.items()),
    )


# --- which input takes what ----------------------------------------------------------------------


def _require_names(io: ModelIO, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
    """Every name in the recipe is one of the file, and has one meaning there."""
    inputs, outputs = [t.name for t in given], [t.name for t in made]
    for field, names in (
        ("inputs", io.inputs), ("constants", io.constants), ("states", io.states)
    ):  # fmt: skip
        _require_known(field, names, inputs, "input")
    _require_known("shapes", io.shapes, inputs, "input")
    _require_known("states", io.states.values(), outputs, "output")
    if io.output is not None:
        _require_known("output", [io.output], outputs, "output")
    meanings = [*io.inputs, *io.constants, *io.states]
    if twice := next((name for name in meanings if meanings.count(name) > 1), None):
        raise ConfigError(f"model_io: says of the input {twice!r} two things")


def _require_known(field: str, names: Iterable[str], known: Sequence[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(
                f"model_io.{field}: the model has no {what} {name!r}; it has {', '.join(known)}"
            )


def _pairs(given: Sequence[Tensor], made: Sequence[Tensor]) -> dict[str, str]:
    """States by their names and shapes; at least one input is left for the window."""
    found: dict[str, str] = {}
    for tensor in given:
        if not (stem := _stem(tensor.name)):  # "input" and "output" are no state of each other
            continue
        alike = [
            other.name
            for other in made
            if other.name not in found.values()
            and other.dtype == tensor.dtype
            and _stem(other.name) == stem
            and _may_be_equal(tensor.axes, other.axes)
        ]
        if len(alike) == 1 and len(found) + 1 < len(given) and len(found) + 1 < len(made):
            found[tensor.name] = alike[0]
    return found


def _stem(name: str) -> tuple[str, ...]:
    """The words of a name without those that tell before from after: ``h_in``, ``hn``, ``h0``."""
    words = [word.lower() for word in _WORDS.findall(name)]
    words = [word for word in words if word not in _TIMES]
    return tuple(word[:-1] if len(word) == 2 and word[-1] in "nt" else word for word in words)


def _may_be_equal(one: Axes | None, other: Axes | None) -> bool:
    if one is None or other is None:
        return True
    same = (a == b or a is None or b is None for a, b in zip(one, other, strict=False))
    return len(one) == len(other) and all(same)


def _channels(
    rest: Sequence[Tensor], io: ModelIO, channels: tuple[str, ...]
) -> dict[str, tuple[int, ...] | None]:
    """The places of the channels that each input takes; None for all."""
    wanted: dict[str, tuple[int, ...] | None] = {}
    for name, chosen in io.inputs.items():
        if missing := [channel for channel in chosen if channel not in channels]:
            raise ConfigError(
                f"model_io.inputs.{name}: there is no channel {missing[0]!r}; those are "
                f"{', '.join(channels)}"
            )
        wanted[name] = tuple(channels.index(channel) for channel in chosen)
    names = [tensor.name for tensor in rest]
    if rest and len(rest) == len(channels) and set(names) == set(channels) and len(rest) > 1:
        return wanted | {name: (channels.index(name),) for name in names}
    if len(rest) == 1 and not wanted:
        return {names[0]: None}
    if rest:
        raise ConfigError(
            f"it has the inputs {', '.join(map(str, rest))}, and nothing says what they take: "
            "write under model_io 'inputs: {NAME: [CHANNEL, ...]}', 'constants: {NAME: NUMBER}' "
            "or 'states: {INPUT: OUTPUT}'"
        )
    if not wanted:
        raise ConfigError("none of its inputs takes the window: name one under model_io.inputs")
    return wanted


def _constant(tensor: Tensor, io: ModelIO) -> Array:
    """The value of an input that never changes."""
    shape = _closed(tensor, io)
    value = np.asarray(io.constants[tensor.name])
    if value.ndim and value.size != math.prod(shape):
        raise ConfigError(
            f"model_io.constants.{tensor.name}: {value.size} numbers for the shape {list(shape)}"
        )
    value = value.reshape(shape) if value.ndim else np.full(shape, value)
    cast = value.astype(_dtype(tensor))
    if not np.array_equal(cast.astype(np.float64), value) and cast.dtype.kind != "f":
        raise ConfigError(f"model_io.constants.{tensor.name}: does not fit {tensor.dtype}")
    return cast


def _state(tensor: Tensor, output: Tensor, io: ModelIO) -> State:
    """A state; the batch and whatever else is open is 1, which the first run proves or refutes."""
    dtype = str(_dtype(tensor))
    if dtype not in _STATE_TYPES or output.dtype != tensor.dtype:
        raise ConfigError(f"the state {tensor} to {output}: a state has one type of numbers")
    if tensor.axes is None and output.axes is not None and tensor.name not in io.shapes:
        tensor = Tensor(tensor.name, tensor.dtype, output.axes)
    shape = _closed(tensor, io)
    return State(input=tensor.name, output=output.name, shape=shape, dtype=dtype)  # type: ignore[arg-type]


def _closed(tensor: Tensor, io: ModelIO) -> tuple[int, ...]:
    """A shape without open axes: the recipe's, else every open axis as 1."""
    if (said := io.shapes.get(tensor.name)) is not None:
        return said
    if tensor.axes is None:
        raise ConfigError(f"its input {tensor} has no shape: write it under model_io.shapes")
    return tuple(1 if axis is None else axis for axis in tensor.axes)


def _dtype(tensor: Tensor) -> np.dtype[Any]:
    if tensor.dtype is None or tensor.dtype.kind not in "fiub":
        raise ConfigError(f"its input {tensor} takes no numbers: export it with float32 inputs")
    return tensor.dtype


# --- in which layout and shape -------------------------------------------------------------------


def _feed(
    tensor: Tensor, places: tuple[int, ...] | None, io: ModelIO, *, length: int, count: int
) -> Feed:
    """Fit the window into the shape of an input."""
    width = count if places is None else len(places)
    axes = tensor.axes
    if (said := io.shapes.get(tensor.name)) is not None:
        if axes is not None and not _may_be_equal(said, axes):
            raise ConfigError(f"model_io.shapes.{tensor.name}: the file says {tensor}")
        batched = axes is None or (bool(axes) and axes[0] is None and said[0] == 1)
        axes = (None, *said[1:]) if batched else said
    if axes is None:
        raise ConfigError(f"its input {tensor} has no shape: write it under model_io.shapes")
    fits = set(_fits(axes, length, width, io.layout))
    window = f"a window of {length} readings of {width} channels"
    if not fits:
        raise ConfigError(
            f"its input {tensor} does not take {window}: correct channels and window.length, or "
            "export it for one window at a time (a first axis that is open, or 1)"
        )
    if len(fits) > 1:
        raise ConfigError(
            f"its input {tensor} may take {window} as {_said(fits)}: write under model_io "
            "'layout: readings_first' or 'layout: channels_first'"
            + (f", and 'shapes: {{{tensor.name}: [1, ...]}}'" if io.layout else "")
        )
    ((shape, layout),) = fits
    batched = len(axes) > 1 and axes[0] is None
    return Feed(tensor.name, _dtype(tensor), shape, batched, places, layout)


def _fits(
    axes: Axes, length: int, width: int, said: Layout | None
) -> Iterator[tuple[tuple[int, ...], Layout]]:
    """The shapes and layouts in which an input can take one window."""
    first_open = len(axes) > 1 and axes[0] is None
    body, head = (axes[1:], (1,)) if first_open else (axes, ())
    if body.count(None) < 2:
        known = math.prod(axis for axis in body if axis is not None)
        missing, left = divmod(length * width, known)
        if not left and (None in body or missing == 1):
            shape = tuple(missing if axis is None else axis for axis in body)
            yield from ((head + shape, layout) for layout in _layouts(shape, length, width, said))
        return
    pairs: tuple[tuple[Layout, int, int], ...] = (
        ("readings_first", length, width),
        ("channels_first", width, length),
    )
    for layout, *pair in pairs:
        for places in itertools.combinations(range(len(body)), 2):
            axis_at = dict(zip(places, pair, strict=True))
            shape = tuple(axis_at.get(place, 1) for place in range(len(body)))
            if said in {None, layout} and _may_be_equal(body, shape):
                yield head + shape, "readings_first" if 1 in {length, width} else layout


def _layouts(shape: tuple[int, ...], length: int, width: int, said: Layout | None) -> list[Layout]:
    """The layouts in which a window can have a shape of as many values."""
    if said is not None:
        return [said]
    core = tuple(axis for axis in shape if axis != 1)
    if 1 in {length, width} or len(core) < 2:
        return ["readings_first"]  # both are the same, or it is flat
    found: list[Layout] = []
    if core[0] == length or core[-1] == width:
        found.append("readings_first")
    if core[0] == width or core[-1] == length:
        found.append("channels_first")
    return found or ["readings_first", "channels_first"]


def _said(fits: Iterable[tuple[tuple[int, ...], Layout]]) -> str:
    return " or ".join(f"{list(shape)} {layout}" for shape, layout in sorted(fits))
