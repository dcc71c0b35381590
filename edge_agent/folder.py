"""The agent's data folder: what lies where, and that one agent at a time works in it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.contract.errors import StorageError
from edge_agent.update.disk import Disk


class DataFolder:
    """Paths below ``data_dir``; made when absent, durably: what is synced in it must stay.

    Args:
        path: of the folder.
        disk: the file operations.

    Attributes:
        outbox: the records that are not delivered yet.
        store: the installed models.

    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self._path, disk = path, disk or Disk()
        try:
            for folder in reversed([f for f in (path, *path.parents) if not f.exists()]):
                disk.make_folder(folder)
                disk.sync(folder.parent)
        except (OSError, StorageError) as exc:
            raise StorageError(
                f"data_dir {path}: make it, owned by the agent's user: {exc}"
            ) from exc
        self.outbox = path / "outbox.db"
        self.store = path / "store"
        self.trust = path / "trust"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other agent out; the kernel lets go when the process ends, however it ends.

        Raises:
            StorageError: another agent is there.
        """
        lock = self._path / "lock"
        try:
            with lock.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield
        except BlockingIOError:
            raise StorageError(f"{self._path}: another agent works in this data_dir") from None
        except OSError as exc:
            raise StorageError(f"{lock}: {exc.strerror}") from exc
