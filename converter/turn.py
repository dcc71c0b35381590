"""One measurement at a time on a machine, whatever number of builds runs there."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.contract.errors import ConfigError


@contextmanager
def turn(progress: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold the user's only permission to measure. The kernel returns it when a holder dies.

    A holder's work is bounded by :data:`converter.measure.CHILD_S_MAX` for each child process, so
    that the wait is bounded as well.

    Args:
        progress: told when another build measures.

    Raises:
        ConfigError: the lock file in the folder for temporary files cannot be opened.
    """
    path = Path(tempfile.gettempdir(), f"edge-convert-{os.getuid()}.lock")
    try:  # the folder is everybody's: never through a link that somebody else put there
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigError(
            f"{path}: {exc.strerror}: delete it, or set TMPDIR to a folder of your own"
        ) from exc
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting while another build measures")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
