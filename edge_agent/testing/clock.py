"""A clock that stands still until the test moves it."""

from __future__ import annotations

import threading

_NS_PER_S = 1_000_000_000


class FakeClock:
    """A :class:`edge_agent.clock.Clock` that the test owns. Any thread may use it.

    Args:
        wall: wall time to begin with, in seconds since 1970.
        monotonic_s: monotonic time to begin with.
        synced: whether the wall clock counts as synchronised.
    """

    def __init__(
        self, *, wall: float = 1_700_000_000.0, monotonic_s: float = 1_000.0, synced: bool = True
    ) -> None:
        self._lock = threading.Lock()
        self._monotonic_ns = round(monotonic_s * _NS_PER_S)
        self._wall = wall
        self._synced = synced

    def monotonic_ns(self) -> int:
        """Nanoseconds; moved by :meth:`advance` alone."""
        with self._lock:
            return self._monotonic_ns

    def wall(self) -> float:
        """Seconds since 1970; moved by :meth:`advance` and :meth:`set_wall`."""
        with self._lock:
            return self._wall

    def synced(self) -> bool:
        """What :meth:`set_synced` said last."""
        with self._lock:
            return self._synced

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks.

        Raises:
            ValueError: ``seconds`` is negative; a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError("time passes forwards only: use set_wall() to set the wall clock back")
        with self._lock:
            self._monotonic_ns += round(seconds * _NS_PER_S)
            self._wall += seconds

    def sleep(self, seconds: float) -> None:
        """In place of :func:`time.sleep`: returns at once, and the time has passed."""
        self.advance(seconds)

    def set_wall(self, seconds: float) -> None:
        """Make the wall clock jump to ``seconds`` since 1970, as a time server does."""
        with self._lock:
            self._wall = seconds

    def set_synced(self, synced: bool) -> None:  # noqa: FBT001 - a setter's only value
        """Say whether the wall clock is synchronised from now on."""
        with self._lock:
            self._synced = synced
