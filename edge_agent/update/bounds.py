"""What a child process of an update may take: time, processor, memory. Called by the child."""

from __future__ import annotations

import math
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

_NICE: Final = 10  # behind the pipelines
_ORPHAN_S: Final = 5  # beyond its time, a child whose agent has died ends itself


def bound(seconds: float, bytes_max: int) -> None:
    """Bound this process; of its memory what is private: libraries' files do not count.

    Args:
        seconds: of processor time; five seconds of wall time more end it by SIGALRM.
        bytes_max: of private memory.
    """
    os.nice(_NICE)
    # Where memory is short before the limit is reached, the kernel is to take this process first.
    with suppress(OSError):  # in a box that hides /proc it takes whom it likes
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    _cap(resource.RLIMIT_CORE, 0)
    _cap(resource.RLIMIT_CPU, math.ceil(seconds))
    _cap(resource.RLIMIT_DATA, bytes_max)
    signal.alarm(math.ceil(seconds) + _ORPHAN_S)


def _cap(kind: int, value: int) -> None:
    """Lower a soft limit; the hard one may be lower already, and then it holds."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
