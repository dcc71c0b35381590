"""Readings that have come as JSON and wait for the next ``read``, with what came beside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Raw

from edge_agent.arrays import F32
from edge_agent.sources.json_rows import NAME_CHARS_MAX, Row, RowDecoder, Tag, TagDecoder, move


class Found(NamedTuple):
    """Decoded readings; ``tags`` has one for each row, or none where none are asked for."""

    rows: Sequence[Row]
    tags: Sequence[Tag]


class Inbox:
    """Decodes, counts and keeps readings in order. One thread, or the caller's lock.

    Args:
        channels: names, in the order of a row.
        sensor_key: key of an object that names its sensor, if there are many.
        time_key: key of an object that says when it was taken, if that is told.
        named: sensors are named by the caller of :meth:`decode` instead.
        n_max: readings that may wait; beyond it the oldest are dropped and counted. None leaves
            the bound to the caller.

    Raises:
        ConfigError: a name cannot be the key of a JSON object.

    Attributes:
        sensors: which sensor each row that was given last came from; empty without names.
        stamps: when each was taken, seconds since 1970; empty without a ``time_key``.
    """

    def __init__(
        self,
        channels: Sequence[str],
        *,
        sensor_key: str | None = None,
        time_key: str | None = None,
        named: bool = False,
        n_max: int | None = None,
    ) -> None:
        self._decoder = RowDecoder(channels)
        self._tagger = TagDecoder(sensor_key, time_key) if sensor_key or time_key else None
        self._named = named
        self._names = bool(sensor_key) or named
        self._times = bool(time_key)
        self._tagged = self._names or self._times
        self._n_max = n_max
        self._rows: deque[Row] = deque(maxlen=n_max)
        self._tags: deque[Tag] = deque(maxlen=n_max)
        self._overrun = 0
        self.sensors: list[str] = []
        self.stamps: list[float] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def faults(self) -> dict[str, int]:
        """``torn`` and ``malformed`` readings, and with a bound ``overrun``."""
        bound = {} if self._n_max is None else {"overrun": self._overrun}
        return {**self._decoder.faults, **bound}

    def torn(self) -> None:
        """Count a reading that came only in part."""
        self._decoder.faults["torn"] += 1

    def overran(self, count: int) -> None:
        """Count readings that there was no room for."""
        self._overrun += count

    def decode(self, text: bytes, sensor: str = "") -> Found:
        """The readings in a text; those that cannot be used are counted and left out.

        Args:
            text: one reading, or an array of several.
            sensor: name of their sensor, where the text does not give it.
        """
        if not self._tagged:
            return Found(self._decoder.rows(text), ())
        pairs = [self._pair(item, sensor) for item in self._decoder.items(text)]
        usable = [pair for pair in pairs if pair is not None]
        return Found([row for row, _ in usable], [tag for _, tag in usable])

    def add(self, found: Found) -> None:
        """Let readings wait; the oldest go where there is no room."""
        if self._n_max is not None:
            self._overrun += max(0, len(self._rows) + len(found.rows) - self._n_max)
        self._rows.extend(found.rows)
        self._tags.extend(found.tags)

    def take_all(self, text: bytes, sensor: str = "") -> None:
        """Decode as :meth:`decode` does and let the readings wait."""
        if self._tagged:
            self.add(self.decode(text, sensor))
            return
        rows = self._decoder.rows(text)
        if self._n_max is not None:
            self._overrun += max(0, len(self._rows) + len(rows) - self._n_max)
        self._rows.extend(rows)

    def take(self, line: bytes) -> None:
        """Decode one reading and let it wait."""
        if self._tagged:
            pair = self._pair(line, "")
            if pair is not None:
                self._rows.append(pair[0])
                self._tags.append(pair[1])
            return
        row = self._decoder.row(line)
        if row is not None:
            self._rows.append(row)

    def give(self, out: F32) -> int:
        """Move as many readings into ``out`` as fit, oldest first."""
        count = move(self._rows, out)
        if self._tagged:
            tags = [self._tags.popleft() for _ in range(count)]
            self.sensors = [tag.sensor for tag in tags] if self._names else []
            self.stamps = [tag.stamp for tag in tags] if self._times else []
        return count

    def clear(self) -> None:
        """Forget what waits."""
        self._rows.clear()
        self._tags.clear()

    def _pair(self, text: bytes | Raw, sensor: str) -> tuple[Row, Tag] | None:
        """A reading and what it says of itself, or None if it was counted as a fault."""
        row = self._decoder.row(text)
        if row is None:
            return None
        tag = self._tagger.tag(text) if self._tagger else Tag()
        if tag is not None and self._named:
            tag = Tag(sensor, tag.stamp) if 1 <= len(sensor) <= NAME_CHARS_MAX else None
        if tag is None:
            self._decoder.faults["malformed"] += 1
            return None
        return row, tag
