"""Sets of sequence numbers as inclusive ranges, and the acknowledgements that follow from them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

from edge_agent.contract.messages import Ack

Range = tuple[int, int]
"""Inclusive (first, last)."""

ACK_RANGES_MAX: Final = 64


class Covered(Protocol):
    """The seqs of one boot that a collector has stored, or that the device said it dropped."""

    def through(self) -> int:
        """The last seq of the unbroken run from 1; 0 when seq 1 is not covered."""
        ...

    def around(self, seq: int) -> Range | None:
        """The whole covered range that holds ``seq``."""
        ...

    def newest(self, count: int) -> list[Range]:
        """The ``count`` ranges with the highest seqs, highest first."""
        ...


class Ranges:
    """Disjoint, never adjacent ranges in rising order, in memory. Conforms to :class:`Covered`."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int) -> None:
        """Add ``first`` to ``last``, joining what overlaps or touches."""
        low = bisect_right(self._last, first - 2)  # the first range that ends at first - 1 or later
        high = bisect_right(self._first, last + 1)  # one past the last that starts by last + 1
        if low < high:
            first = min(first, self._first[low])
            last = max(last, self._last[high - 1])
        self._first[low:high] = [first]
        self._last[low:high] = [last]

    def __contains__(self, seq: int) -> bool:
        return self.around(seq) is not None

    def __iter__(self) -> Iterator[Range]:
        return zip(self._first, self._last, strict=True)

    def __len__(self) -> int:
        """How many seqs, not how many ranges."""
        return sum(self._last) - sum(self._first) + len(self._first)

    def last(self) -> int:
        """The highest seq; 0 when empty."""
        return self._last[-1] if self._last else 0

    def through(self) -> int:
        """See :meth:`Covered.through`."""
        return self._last[0] if self._first and self._first[0] == 1 else 0

    def around(self, seq: int) -> Range | None:
        """See :meth:`Covered.around`."""
        index = bisect_right(self._first, seq) - 1
        if index < 0 or self._last[index] < seq:
            return None
        return self._first[index], self._last[index]

    def newest(self, count: int) -> list[Range]:
        """See :meth:`Covered.newest`."""
        pairs = zip(self._first[-count:], self._last[-count:], strict=True)
        return list(pairs)[::-1]


def runs(seqs: Iterable[int]) -> list[Range]:
    """The unbroken runs in ``seqs``, which may come in any order and repeat."""
    found: list[Range] = []
    for seq in sorted(seqs):
        if found and seq <= found[-1][1] + 1:
            found[-1] = (found[-1][0], seq)
        else:
            found.append((seq, seq))
    return found


def acknowledgements(boot: str, covered: Covered, touched: Sequence[Range]) -> list[Ack]:
    """What to tell the device after storing ``touched``, all of which ``covered`` holds.

    Every touched seq is acknowledged, new or not, since an earlier acknowledgement may have been
    lost; more than one message is needed only when more than :data:`ACK_RANGES_MAX` ranges beyond
    the unbroken run were touched. Room that is left says the newest ranges again.
    """
    through = covered.through()
    wanted = dict.fromkeys(
        around for run in touched if run[1] > through and (around := covered.around(run[1]))
    )
    ranges = list(wanted)
    if len(ranges) < ACK_RANGES_MAX:
        newest = covered.newest(ACK_RANGES_MAX)
        spare = [pair for pair in newest if pair[0] > 1 and pair not in wanted]
        ranges += spare[: ACK_RANGES_MAX - len(ranges)]
    ranges.sort()
    groups = [ranges[at : at + ACK_RANGES_MAX] for at in range(0, len(ranges), ACK_RANGES_MAX)]
    return [Ack(boot=boot, through=through, ranges=tuple(group)) for group in groups or [[]]]
