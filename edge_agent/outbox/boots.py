"""Which boot a position of the outbox belongs to, and which seq it has there."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import msgspec

from edge_agent.spans import Range, Spans


class Boot(msgspec.Struct, frozen=True):
    """One start of the agent.

    Attributes:
        base: last position before its first record: ``seq = position - base``.
        name: 8 random hexadecimal digits.
        last: its last position; 0 for the boot that still goes on.
    """

    base: int
    name: str
    last: int = 0

    def seqs(self, ranges: Iterable[Range]) -> tuple[Range, ...]:
        """Positions as seqs of this boot."""
        return tuple((first - self.base, last - self.base) for first, last in ranges)


class Boots:
    """The boots of which something is left, and the newest.

    Args:
        rows: (base, name) in rising order of base.
    """

    def __init__(self, rows: Iterable[tuple[int, str]]) -> None:
        self.rows = list(rows)

    def at(self, position: int) -> Boot:
        """The boot that a position belongs to."""
        index = bisect_left(self.rows, position, key=_base) - 1
        base, name = self.rows[index]
        return Boot(base, name, self._end(index))

    def begin(self, base: int, name: str) -> None:
        """A new boot; one before it that never got a record never was."""
        self.rows = [row for row in self.rows if row[0] < base]
        self.rows.append((base, name))

    def forget(self, position: int) -> int:
        """Leave out the boots that end before a position, but the newest; returns how many."""
        gone = 0
        while gone < len(self.rows) - 1 and self._end(gone) < position:
            gone += 1
        del self.rows[:gone]
        return gone

    def positions(self, name: str, seqs: Iterable[Range], last: int) -> Spans:
        """Where seqs of a boot lie, up to ``last``; empty for a boot that is not known."""
        found = Spans()
        for index, row in enumerate(self.rows):
            if row[1] == name:
                end = self._end(index) or last
                for first, through in seqs:
                    found.add(row[0] + max(first, 1), min(row[0] + through, end))
        return found

    def _end(self, index: int) -> int:
        return self.rows[index + 1][0] if index + 1 < len(self.rows) else 0


def _base(row: tuple[int, str]) -> int:
    return row[0]
