"""When the next readings of a made-up or recorded sensor are due, without drift."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

from edge_agent.clock import Clock

WAIT_NS_MAX: Final = 1_000_000_000
"""Longest wait within one ``read``, so that its caller can stop."""

_NS_PER_S: Final = 1_000_000_000
_EARLY: Final = 1e-6  # readings; makes good for rounding, far below the resolution of any sleep


class Pace:
    """Counts readings out at a steady rate; reading 0 is due at once.

    Each due time is computed from the first, so errors do not add up, and a late caller is given
    all that has become due meanwhile. One thread.

    Args:
        rate_hz: readings per second, above 0; None means that everything is always due.
        clock: its monotonic time decides.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self, rate_hz: float | None, clock: Clock, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._rate_hz = rate_hz
        self._clock = clock
        self._sleep = sleep
        self._start_ns = clock.monotonic_ns()
        self._given = 0

    def take(self, most: int) -> int:
        """Wait until a reading is due, at most 1 s, and say how many are: 0 to ``most``.

        They count as given from then on.
        """
        if self._rate_hz is None:
            return most
        wait_ns = self._start_ns + self._given * _NS_PER_S / self._rate_hz
        wait_ns -= self._clock.monotonic_ns()
        if wait_ns > 0:
            self._sleep(min(wait_ns, WAIT_NS_MAX) / _NS_PER_S)
        passed_s = (self._clock.monotonic_ns() - self._start_ns) / _NS_PER_S
        due = int(passed_s * self._rate_hz + _EARLY) + 1 - self._given
        taken = max(0, min(due, most))
        self._given += taken
        return taken


class Polls:
    """When to ask a sensor that gives one reading whenever it is asked. One thread.

    Args:
        rate_hz: readings per second, above 0.
        clock: for the pace.
        sleep: waits for a number of seconds.

    Attributes:
        overrun: due times that had passed before the sensor was asked.
    """

    def __init__(
        self, rate_hz: float, clock: Clock, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._rate_hz = rate_hz
        self._clock = clock
        self._sleep = sleep
        self.overrun = 0
        self.begin()

    def begin(self) -> None:
        """The first reading is due at once."""
        self._pace = Pace(self._rate_hz, self._clock, sleep=self._sleep)

    def due(self) -> bool:
        """Wait for the next due time, at most 1 s; False when it has not come yet."""
        due = self._pace.take(sys.maxsize)
        self.overrun += max(0, due - 1)
        return due > 0
