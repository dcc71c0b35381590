"""A bound on how many a second, spent in portions instead of one by one."""

from __future__ import annotations

from typing import Final

_S: Final = 1_000_000_000
_PORTION_S: Final = 0.05  # so that a thread that keeps to the rate wakes 20 times a second


class Rate:
    """A token bucket. Times are monotonic nanoseconds.

    Args:
        n_per_s: how many a second.
    """

    def __init__(self, n_per_s: int) -> None:
        self._n_per_s = n_per_s
        self._portion = max(1.0, n_per_s * _PORTION_S)
        self._credit = 0.0
        self._since_ns = 0

    def begin(self, now: int) -> None:
        """Allow one portion at once."""
        self._credit, self._since_ns = self._portion, now

    def allowed(self, now: int) -> int:
        """How many are allowed: none, or at least a portion and at most two."""
        earned = (now - self._since_ns) / _S * self._n_per_s
        self._credit = min(self._credit + earned, 2 * self._portion)
        self._since_ns = now
        return int(self._credit) if self._credit >= self._portion else 0

    def spend(self, n: int) -> None:
        """Count what was done."""
        self._credit -= n

    def due_ns(self) -> int:
        """When the next portion is allowed."""
        missing_s = max(0.0, self._portion - self._credit) / self._n_per_s
        return self._since_ns + round(missing_s * _S) + 1
