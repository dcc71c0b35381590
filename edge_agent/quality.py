"""What to do with values that are missing or implausible, by each channel's policy.

A value is *missing* when it is NaN or infinite, and *out of range* when it is outside the bounds
of its channel; both are counted value by value. With ``on_range: missing`` an implausible value
is treated as missing, but counted as out of range only. What ``hold`` repeats is the last value
of the channel that was used: as given, or clipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from edge_agent.arrays import F32
from edge_agent.contract.manifest import Channel
from edge_agent.metrics import Counters

_LARGEST: Final = float(np.finfo(np.float32).max)
_FIRST: Final = (0,)
_NONE: Final = ()


class Quality:
    """The policies of all channels of a model. Used by one thread.

    Args:
        channels: in the order of the columns.
        counters: ``missing``, ``out_of_range`` and ``skipped`` are counted there.
    """

    def __init__(self, channels: Sequence[Channel], counters: Counters) -> None:
        self._channels = tuple(channels)
        self._counters = counters
        # The bounds also exclude NaN and infinity: one pair of comparisons tests everything.
        self._low = np.array([_bound(c.minimum, -_LARGEST) for c in channels], np.float32)
        self._high = np.array([_bound(c.maximum, _LARGEST) for c in channels], np.float32)
        self._lows, self._highs = self._low.tolist(), self._high.tolist()
        self._low_max, self._high_min = max(self._lows), min(self._highs)
        self._last = [math.nan] * len(channels)

    def clean(self, block: F32) -> Sequence[int]:
        """Mend readings in place.

        Args:
            block: float32 (readings, channels), at least one reading.

        Returns:
            Which rows are to be used, in rising order.
        """
        if self._is_clean(block):
            self._last = block[-1].tolist()
            return range(len(block))
        return [at for at, row in enumerate(block) if self.mend(row, self._last)]

    def clean_one(self, row: F32) -> Sequence[int]:
        """The same for a single reading, float32 (channels,), in a fifth of the time."""
        values, low, high = row.tolist(), self._low_max, self._high_min
        for value in values:
            if not low <= value <= high:  # within what all channels allow
                return self._clean_each(row, values)
        self._last = values
        return _FIRST

    def clear(self) -> None:
        """Forget the last good values."""
        self._last = [math.nan] * len(self._channels)

    def adopt(self, other: Quality) -> None:
        """Go on from the last good values of another model's policies for the same channels."""
        self._last = other._last.copy()

    def unclean(self, block: F32) -> Sequence[int]:
        """Which rows have a value that is not finite or not within its bounds."""
        good = np.greater_equal(block, self._low) & np.less_equal(block, self._high)
        return np.flatnonzero(~good.all(axis=1)).tolist()

    def _clean_each(self, row: F32, values: list[float]) -> Sequence[int]:
        for low, value, high in zip(self._lows, values, self._highs, strict=True):
            if not low <= value <= high:
                return _FIRST if self.mend(row, self._last) else _NONE
        self._last = values
        return _FIRST

    def _is_clean(self, block: F32) -> bool:
        """Whether every value is finite and within its bounds."""
        above = np.greater_equal(block, self._low).tobytes()
        below = np.less_equal(block, self._high).tobytes()
        return b"\0" not in above and b"\0" not in below

    def mend(self, row: F32, last: list[float]) -> bool:
        """Apply every channel's policy to one row.

        Args:
            row: float32 (channels,), mended in place.
            last: the last good values, brought up to date in place; NaN where there was none.

        Returns:
            Whether the row is to be used.
        """
        use = True
        for at, channel in enumerate(self._channels):
            value, low, high = float(row[at]), self._lows[at], self._highs[at]
            good = True
            if not -_LARGEST <= value <= _LARGEST:
                self._counters.missing += 1
                good = False
            elif not low <= value <= high:
                self._counters.out_of_range += 1
                if channel.on_range == "clip":
                    row[at] = value = min(max(value, low), high)
                good = channel.on_range != "missing"
            if good:
                last[at] = value
            elif channel.on_missing == "skip" or math.isnan(last[at]):
                use = False
            else:
                row[at] = last[at]
        self._counters.skipped += not use
        return use


def _bound(value: float | None, default: float) -> float:
    return default if value is None else value
