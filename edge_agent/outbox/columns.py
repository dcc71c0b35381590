"""Many decisions as one blob, column by column: some 7 bytes each where one row each takes 190.

Neighbours are alike: names repeat, readings count up, stamps come at an even pace. So each column
is kept as what differs from the one before, its bytes sorted by significance, and deflated. What
comes out encodes to *exactly* the bytes that went in, or would have: :func:`decision_of` takes no
body that does not.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.messages import Decision, encode
from edge_agent.outbox.capped_db import CorruptError
from edge_agent.spans import Range

_LEVEL: Final = 6  # of deflate: 9 saves no byte in a hundred, 1 costs six
_RECORD_BYTES: Final = 48  # four columns, and the heads of its names
_CHAR_BYTES: Final = 4
_VALUE_BYTES: Final = 8
_READING_MAX: Final = 1 << 62

_decoder: Final = msgspec.json.Decoder(Decision)

_NUMBERS: Final = ("t", "reading", "score", "values", "fired")  # the rest is names
_NAMES: Final = tuple(name for name in Decision.__struct_fields__ if name not in _NUMBERS)

Names = tuple[Any, ...]
"""Pipeline, label and the like: of few combinations, so each is written once."""


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """What stands in front of the columns.

    Attributes:
        spans: positions, the first one counted as 0.
        fields: which fields of a decision the names are.
        names: every combination that occurs.
        score_bytes: 4 when every score and value is a float32, as models give them; else 8.
        values_n: how many values there are in all; 0 leaves their columns out.
    """

    spans: tuple[Range, ...]
    fields: tuple[str, ...]
    names: tuple[Names, ...]
    score_bytes: int
    values_n: int


_layout_decoder: Final = msgspec.msgpack.Decoder(Layout)


class Columns:
    """An opened blob.

    Args:
        first: position of its first record.
        blob: what :func:`pack` gave.

    Attributes:
        positions: of its records, rising.

    Raises:
        CorruptError: it is damaged.
    """

    def __init__(self, first: int, blob: bytes) -> None:
        try:
            raw = zlib.decompress(blob)
            size = int.from_bytes(raw[:4], "little")
            layout = _layout_decoder.decode(raw[4 : 4 + size])
            self.positions = [
                first + at for start, end in layout.spans for at in range(start, end + 1)
            ]
            self._rows = _rows(layout, len(self.positions), raw[4 + size :])
        except (zlib.error, msgspec.DecodeError, ValueError, IndexError) as exc:
            raise CorruptError(f"packed records from position {first} are damaged: {exc}") from exc

    def bodies(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """(position, JSON without ``seq``) of its records at these positions, in order."""
        start = bisect_left(self.positions, first)
        end = bisect_right(self.positions, last)
        for index in range(start, end):
            yield self.positions[index], encode(Decision(**self._rows[index]))


def decision_of(body: bytes) -> Decision | None:
    """The decision in a body, or None if a blob would not give back these very bytes."""
    try:
        decision = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return decision if fits(decision) and encode(decision) == body else None


def fits(decision: Decision) -> bool:
    """Whether a blob can hold it and give it back as it is."""
    return not decision.fired and 0 <= decision.reading < _READING_MAX


def packed_bytes(decision: Decision) -> int:
    """What it adds to a blob, at most: before compression, and with names of its own."""
    chars = (
        len(decision.label)
        + len(decision.state)
        + len(decision.pipeline)
        + len(decision.sensor)
        + len(decision.model)
    )
    return _RECORD_BYTES + _CHAR_BYTES * chars + _VALUE_BYTES * len(decision.values)


def pack(positions: Sequence[int], decisions: Sequence[Decision]) -> bytes:
    """Write decisions that fit, see :func:`fits`, as one blob.

    Args:
        positions: of the decisions, rising, at least one.
        decisions: as many.
    """
    rows = map(msgspec.structs.astuple, decisions)
    given = dict(zip(Decision.__struct_fields__, zip(*rows, strict=True), strict=True))
    names: dict[Names, int] = {}
    named = zip(*(given[name] for name in _NAMES), strict=True)
    which = [names.setdefault(name, len(names)) for name in named]
    times = np.array(given["t"], np.float64).view(np.int64)
    scores = np.array(given["score"], np.float64)
    values = [value for each in given["values"] for value in each]
    score_type = _float_type(np.append(scores, values))
    columns = [
        _planes(np.array(which, np.uint32)),
        _planes(_folded(_reading_steps(given["pipeline"], given["reading"]))),
        _planes(_folded(_steps(_steps(times)))),
        _planes(scores.astype(score_type)),
    ]
    if values:
        lengths = [len(each) for each in given["values"]]
        columns += [_planes(np.array(lengths, np.uint32)), _planes(np.array(values, score_type))]
    layout = Layout(
        _runs(positions), _NAMES, tuple(names), np.dtype(score_type).itemsize, len(values)
    )
    head = msgspec.msgpack.encode(layout)
    return zlib.compress(b"".join([len(head).to_bytes(4, "little"), head, *columns]), _LEVEL)


def _runs(positions: Sequence[int]) -> tuple[Range, ...]:
    """The inclusive ranges of rising positions, the first one counted as 0."""
    counted = np.array(positions, np.int64) - positions[0]
    gaps = np.flatnonzero(np.diff(counted) != 1)
    starts, ends = counted[[0, *(gaps + 1)]], counted[[*gaps, -1]]
    return tuple(zip(starts.tolist(), ends.tolist(), strict=True))


def _reading_steps(pipelines: Sequence[str], readings: Sequence[int]) -> NDArray[np.int64]:
    """What each reading's number adds to the one before of the same pipeline."""
    numbers = np.array(readings, np.int64)
    if len(set(pipelines)) == 1:
        return _steps(numbers)
    of, steps = np.array(pipelines), np.empty_like(numbers)
    for pipeline in set(pipelines):
        steps[of == pipeline] = _steps(numbers[of == pipeline])
    return steps


def _rows(layout: Layout, count: int, raw: bytes) -> list[dict[str, Any]]:
    """The fields of each record."""
    score_type = np.float32 if layout.score_bytes == np.dtype(np.float32).itemsize else np.float64
    at = 0

    def column(kind: type[np.generic], n: int = count) -> NDArray[Any]:
        nonlocal at
        size = n * np.dtype(kind).itemsize
        planes = np.frombuffer(raw, np.uint8, size, at).reshape(-1, n)
        at += size
        return np.ascontiguousarray(planes.T).view(kind).reshape(n)

    known = [dict(zip(layout.fields, names, strict=True)) for names in layout.names]
    names = [known[index] for index in column(np.uint32).tolist()]
    steps = _unfolded(column(np.uint64)).tolist()
    times = np.cumsum(np.cumsum(_unfolded(column(np.uint64)))).view(np.float64).tolist()
    scores = column(score_type).tolist()
    values: list[tuple[float, ...]] = [()] * count
    if layout.values_n:
        ends = np.cumsum(column(np.uint32)).tolist()
        flat = column(score_type, layout.values_n).tolist()
        values = [tuple(flat[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    readings: dict[str, int] = {}
    rows = []
    for name, step, t, score, each in zip(names, steps, times, scores, values, strict=True):
        pipeline = name["pipeline"]
        readings[pipeline] = reading = readings.get(pipeline, 0) + step
        rows.append({**name, "reading": reading, "t": t, "score": score, "values": each})
    return rows


def _float_type(values: NDArray[np.float64]) -> type[np.floating[Any]]:
    """float32 if that keeps every bit."""
    with np.errstate(over="ignore"):
        back = values.astype(np.float32).astype(np.float64)
    return np.float32 if np.array_equal(back.view(np.int64), values.view(np.int64)) else np.float64


def _steps(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first value, and what each adds to the one before; it wraps, and so does the sum."""
    return np.diff(values, prepend=np.int64(0))


def _folded(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Small numbers of either sign as small unsigned ones."""
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def _unfolded(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    half = (values >> np.uint64(1)).view(np.int64)
    return half ^ -(values & np.uint64(1)).view(np.int64)


def _planes(values: NDArray[Any]) -> bytes:
    """All lowest bytes, then all second ones, and so on: like beside like deflates best."""
    return values.view(np.uint8).reshape(len(values), -1).T.tobytes()
