"""Sets of whole numbers kept as ranges: what was dropped, unsent, confirmed, collected."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""Inclusive (first, last)."""


class Spans:
    """A set of integers as sorted, disjoint, inclusive ranges that never touch each other.

    Its size is that of its gaps, not of its members: a million records in a row cost one pair.

    Args:
        ranges: inclusive (first, last) pairs in any order; a pair with first > last is empty.
    """

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._ranges: list[Range] = []
        for first, last in ranges:
            self.add(first, last)

    @classmethod
    def of(cls, members: Iterable[int]) -> Spans:
        """The set of single members."""
        return cls((member, member) for member in members)

    def add(self, first: int, last: int) -> None:
        """Put every number from ``first`` to ``last`` into the set."""
        if first > last:
            return
        low = bisect_left(self._ranges, first - 1, key=_end)
        high = bisect_right(self._ranges, last + 1, key=_start)
        if low < high:
            first = min(first, self._ranges[low][0])
            last = max(last, self._ranges[high - 1][1])
        self._ranges[low:high] = [(first, last)]

    def remove(self, first: int, last: int) -> int:
        """Take every number from ``first`` to ``last`` out; returns how many were in the set."""
        if first > last:
            return 0
        low = bisect_left(self._ranges, first, key=_end)
        high = bisect_right(self._ranges, last, key=_start)
        rest: list[Range] = []
        removed = 0
        for start, end in self._ranges[low:high]:
            removed += min(end, last) - max(start, first) + 1
            if start < first:
                rest.append((start, first - 1))
            if end > last:
                rest.append((last + 1, end))
        self._ranges[low:high] = rest
        return removed

    def update(self, other: Spans) -> None:
        """Add all members of another set."""
        for first, last in other:
            self.add(first, last)

    def clear(self) -> None:
        """Make the set empty."""
        self._ranges.clear()

    @property
    def count(self) -> int:
        """How many numbers are in the set."""
        return sum(last - first + 1 for first, last in self._ranges)

    def __iter__(self) -> Iterator[Range]:
        return iter(tuple(self._ranges))

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and self._ranges == other._ranges

    __hash__ = None  # type: ignore[assignment]  # mutable, so never a key

    def __repr__(self) -> str:
        return f"Spans({self._ranges})"


def _start(span: Range) -> int:
    return span[0]


def _end(span: Range) -> int:
    return span[1]
