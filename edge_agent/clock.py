"""Two clocks: monotonic for durations, wall time for stamps. Injected, so that tests own time."""

from __future__ import annotations

import ctypes
import time
from typing import Final, Protocol

_STA_UNSYNC: Final = 0x0040  # linux/timex.h
_TIMEX_BYTES: Final = 256  # struct timex is 208 bytes on 64-bit Linux
_STATUS_OFFSET: Final = 40  # modes, offset, freq, maxerror and esterror come before status


class Clock(Protocol):
    """Where the agent gets the time from."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never jump; only differences mean something."""
        ...

    def wall(self) -> float:
        """Seconds since 1970; may jump in both directions."""
        ...

    def synced(self) -> bool:
        """Whether the kernel holds the wall clock to be synchronised."""
        ...


class SystemClock:
    """The clocks of this machine. Any thread may use it."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    monotonic_ns = staticmethod(time.monotonic_ns)
    wall = staticmethod(time.time)

    def synced(self) -> bool:
        """Ask the kernel by ``adjtimex`` without changing anything; about 1 microsecond."""
        timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: only read
        self._libc.adjtimex(timex)
        status = int.from_bytes(timex.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], "little")
        return not status & _STA_UNSYNC
