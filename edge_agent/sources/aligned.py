"""Several sensors as one: a reading of the first is completed with what the others gave then."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal

import numpy as np
from msgspec import Meta

from edge_agent import sources  # a cycle: its union is looked up when a file is read
from edge_agent.arrays import F32
from edge_agent.clock import Clock
from edge_agent.settings import Kind, Settings
from edge_agent.sources.base import Source

_WAIT_S: Final = 1.0
_BLOCK_N: Final = 64  # readings that a sensor is asked for at once
_JOIN_S: Final = 3.0  # a read may wait 1 s

Row = tuple[float, ...]


class AlignedPart(Settings, frozen=True, kw_only=True):
    """One of the sources.

    Attributes:
        channels: which of the pipeline's channels it delivers, in its own order.
        source: by ``type``; any but ``aligned``.
    """

    channels: Annotated[tuple[str, ...], Meta(min_length=1)]
    source: sources.PlainConfig


class AlignedConfig(Kind, frozen=True, kw_only=True, tag="aligned"):
    """Align sources by time: there is a reading for each of the first source's, in its order.

    A reading of another source is used when it was taken within the tolerance; where there is
    none, its channels are NaN and the reading counts as ``unmatched``. The time is that of
    ``time_key`` where a source has one, else that of arrival.

    Attributes:
        parts: the first sets the pace; together they give every channel of the pipeline once.
        tolerance_ms: largest distance in time between two readings that belong together.
        match: ``nearest`` in time, for which a reading waits until the others have come past it, at
            most for the tolerance; ``last``, the newest that is not later, waits for nothing.
        queue_n_max: readings of each source that may wait or are remembered.
    """

    parts: Annotated[tuple[AlignedPart, ...], Meta(min_length=2)]
    tolerance_ms: Annotated[float, Meta(gt=0, le=3_600_000)] = 50.0
    match: Literal["nearest", "last"] = "nearest"
    queue_n_max: Annotated[int, Meta(ge=16, le=1_000_000)] = 4096


class Track:
    """The newest readings of one sensor, to be found by their time. The caller's lock.

    Args:
        n_max: readings that are remembered; the one that came first is forgotten.
        tolerance_s: how far from the time that is asked for a reading may be.
        nearest: the nearest is wanted, not the last.
    """

    def __init__(self, n_max: int, tolerance_s: float, *, nearest: bool) -> None:
        self._n_max = n_max
        self._tolerance_s = tolerance_s
        self._nearest = nearest
        self._known: list[tuple[float, Row]] = []  # by time
        self._came: deque[float] = deque()  # their times as they came, for clocks jump back, too

    def add(self, stamp: float, row: Row) -> None:
        """Remember a reading; it may be earlier than others."""
        insort(self._known, (stamp, row), key=_stamp)
        self._came.append(stamp)
        if len(self._came) > self._n_max:
            del self._known[bisect_left(self._known, self._came.popleft(), key=_stamp)]

    def settled(self, stamp: float) -> bool:
        """Whether nothing that is still to come in order would be a better match."""
        return not self._nearest or (bool(self._came) and self._came[-1] >= stamp)

    def match(self, stamp: float) -> Row | None:
        """The reading that belongs to a time, or None: there is none within the tolerance."""
        at = bisect_right(self._known, stamp, key=_stamp)
        near = self._known[max(0, at - 1) : at + 1 if self._nearest else at]
        best = min(near, key=lambda item: abs(item[0] - stamp), default=None)
        if best is None or abs(best[0] - stamp) > self._tolerance_s:
            return None
        return best[1]


class AlignedSource:
    """Reads each source on a thread of its own, so that one that is silent delays no other.

    A source that fails, fails the whole, so that it is seen and opened again.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        parts: the sources of the configuration, not open.
        clock: its wall time stamps readings that have no time of their own.
    """

    def __init__(
        self,
        config: AlignedConfig,
        channels: Sequence[str],
        *,
        parts: Sequence[Source],
        clock: Clock,
    ) -> None:
        self._config = config
        self._parts = tuple(parts)
        self._columns = [[channels.index(name) for name in it.channels] for it in config.parts]
        self._clock = clock
        self._tolerance_s = config.tolerance_ms / 1000
        self._news = threading.Condition()  # guards all below
        self._unmatched = 0
        self._threads: list[threading.Thread] = []
        self._begin()

    def open(self) -> None:
        """Open every source.

        Raises:
            SourceError: one of them is not there.
        """
        self.close()
        self._begin()
        try:
            for part in self._parts:
                part.open()
        except BaseException:
            self.close()
            raise
        for number, part in enumerate(self._parts):
            take = self._follow(number) if number else self._lead
            target, arguments = self._read_on, (part, len(self._columns[number]), take)
            thread = threading.Thread(target=target, args=arguments, name="aligned", daemon=True)
            self._threads.append(thread)
            thread.start()

    def read(self, out: F32) -> int:
        """Give the readings that are complete or wait no longer; wait at most 1 s for one."""
        deadline = time.monotonic() + _WAIT_S
        with self._news:
            while not (count := self._ready(len(out))):
                if self._fault is not None and not (self._leading and self._ended):
                    raise self._fault
                wait_s = min(deadline, self._first_due()) - time.monotonic()
                if time.monotonic() >= deadline:
                    return 0
                self._news.wait(max(0.0, wait_s))
            out[:count] = np.nan
            for number in range(count):
                self._complete(out[number])
            self._news.notify_all()  # there is room again
        return count

    def close(self) -> None:
        """Let every source go."""
        with self._news:
            self._stopped = True
            self._news.notify_all()
        for thread in self._threads:
            thread.join(_JOIN_S)
        self._threads = []
        for part in self._parts:
            part.close()

    @property
    def faults(self) -> dict[str, int]:
        """Those of the sources, added up, and ``unmatched``: readings that lack another's."""
        total: Counter[str] = Counter()
        for part in self._parts:
            total.update(part.faults)
        return {**total, "unmatched": self._unmatched}

    def _begin(self) -> None:
        self._stopped = False
        self._ended = False  # the first source has given all that it had
        self._fault: Exception | None = None
        self._leading: deque[tuple[float, float, Row]] = deque()  # time, until when to wait, row
        config, nearest = self._config, self._config.match == "nearest"
        self._tracks = [
            Track(config.queue_n_max, self._tolerance_s, nearest=nearest) for _ in config.parts[1:]
        ]

    def _ready(self, most: int) -> int:
        """How many readings, from the first on, have waited for enough."""
        now, count = time.monotonic(), 0
        for stamp, due, _ in self._leading:
            if count == most:
                break
            if now < due and not all(track.settled(stamp) for track in self._tracks):
                break
            count += 1
        return count

    def _first_due(self) -> float:
        return self._leading[0][1] if self._leading else float("inf")

    def _complete(self, row: F32) -> None:
        """Fill a row with the first reading that waits and what belongs to it."""
        stamp, _, values = self._leading.popleft()
        row[self._columns[0]] = values
        matches = [track.match(stamp) for track in self._tracks]
        for columns, match in zip(self._columns[1:], matches, strict=True):
            if match is not None:
                row[columns] = match
        self._unmatched += None in matches

    def _read_on(self, part: Source, width: int, take: Callable[[float, Row], None]) -> None:
        """A source's thread: one block after another until the source ends or is closed."""
        block = np.empty((_BLOCK_N, width), np.float32)
        try:
            while not self._stopped:
                count = part.read(block)
                stamps = getattr(part, "stamps", None) or [self._clock.wall()] * count
                rows = map(tuple, block[:count].tolist())
                with self._news:
                    for stamp, row in zip(stamps, rows, strict=True):
                        take(stamp, row)
                    self._news.notify_all()
        except Exception as exc:  # noqa: BLE001 - raised again by read, on the pipeline's thread
            with self._news:
                leads = part is self._parts[0]
                if leads or not isinstance(exc, EOFError):  # another's end is only its silence
                    self._ended = leads and isinstance(exc, EOFError)
                    self._fault = exc
                self._news.notify_all()

    def _lead(self, stamp: float, row: Row) -> None:
        """Let a reading of the first source wait; its thread waits where there is no room."""
        while len(self._leading) >= self._config.queue_n_max and not self._stopped:
            self._news.notify_all()
            self._news.wait(_WAIT_S)
        due = time.monotonic()
        if self._config.match == "nearest":
            due += self._tolerance_s
        self._leading.append((stamp, due, row))

    def _follow(self, number: int) -> Callable[[float, Row], None]:
        return self._tracks[number - 1].add


def _stamp(item: tuple[float, Row]) -> float:
    return item[0]
