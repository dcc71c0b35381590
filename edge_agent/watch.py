"""What the supervising thread sees from outside: sensors that stop or flood, a clock that is set.

Nothing here stops a pipeline: it is said in the status and in the log, and goes on. Pure: times
and counters are given.
"""

from __future__ import annotations

from typing import Final

_NS_PER_S: Final = 1_000_000_000
_HELD_NS: Final = 10 * _NS_PER_S  # how long "is lost" is said after the last loss
_STEP_S: Final = 1.0  # smaller ones are what time synchronisation does all the time


class ReadingWatch:
    """Whether readings come, and whether all of them are taken. One thread.

    Args:
        silent_s: seconds without a reading that are too many; None for any number.
        now_ns: monotonic time.
    """

    def __init__(self, silent_s: float | None, now_ns: int) -> None:
        self._silent_s = silent_s
        self._silent_ns = None if silent_s is None else round(silent_s * _NS_PER_S)
        self._readings, self._came_ns = 0, now_ns
        self._losses = LossWatch(now_ns)

    def look(self, now_ns: int, *, readings: int, overrun: int, expected: bool) -> str:
        """What is wrong, empty for nothing.

        Args:
            now_ns: monotonic time.
            readings: taken so far.
            overrun: dropped by the source so far, because they came too fast.
            expected: whether a source is open at all.
        """
        if readings != self._readings or not expected:
            self._readings, self._came_ns = readings, now_ns
        if self._losses.look(now_ns, overrun):
            return "readings are dropped: they come faster than they can be decided"
        if self._silent_ns is not None and now_ns - self._came_ns >= self._silent_ns:
            return f"no reading for {self._silent_s:g} s: check the sensor"
        return ""


class LossWatch:
    """Whether a counter of losses has risen lately. One thread.

    Args:
        now_ns: monotonic time.
    """

    def __init__(self, now_ns: int) -> None:
        self._lost, self._until_ns = 0, now_ns

    def look(self, now_ns: int, lost: int) -> bool:
        """Take the counter as it is now; whether it rose within the last ten seconds."""
        if lost != self._lost:
            self._lost, self._until_ns = lost, now_ns + _HELD_NS
        return now_ns < self._until_ns


class ClockWatch:
    """Finds that the wall clock was set, by comparing it with the monotonic one. One thread.

    Args:
        now_ns: monotonic time.
        wall: seconds since 1970 at that moment.

    Attributes:
        set_s: by how much it was set since this was made, all steps together.
    """

    def __init__(self, now_ns: int, wall: float) -> None:
        self._apart_s = wall - now_ns / _NS_PER_S
        self.set_s = 0.0

    def look(self, now_ns: int, wall: float) -> float:
        """By how many seconds it was set since the last look; 0 for not at all."""
        apart_s = wall - now_ns / _NS_PER_S
        step_s, self._apart_s = apart_s - self._apart_s, apart_s
        if abs(step_s) < _STEP_S:
            return 0.0
        self.set_s += step_s
        return step_s
