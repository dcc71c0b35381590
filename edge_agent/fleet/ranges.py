"""Sets of sequence numbers as inclusive ranges, and the acknowledgements that follow from them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from edge_agent.contract.messages import Ack
from edge_agent.spans import Range, Spans

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


class Ranges(Spans):
    """The covered seqs of one boot, in memory. Conforms to :class:`Covered`."""

    def last(self) -> int:
        """The highest seq; 0 when empty."""
        return self._ranges[-1][1] if self._ranges else 0

    def through(self) -> int:
        """See :meth:`Covered.through`."""
        return self._ranges[0][1] if self._ranges and self._ranges[0][0] == 1 else 0

    def around(self, seq: int) -> Range | None:
        """See :meth:`Covered.around`."""
        at = bisect_right(self._ranges, seq, key=lambda pair: pair[0]) - 1
        return self._ranges[at] if at >= 0 and self._ranges[at][1] >= seq else None

    def newest(self, count: int) -> list[Range]:
        """See :meth:`Covered.newest`."""
        return self._ranges[-count:][::-1]

    def __contains__(self, seq: int) -> bool:
        return self.around(seq) is not None


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
