"""Durable file operations, few enough to model every power cut between two of them.

A write is durable after ``sync`` of the file, a rename or a removal after ``sync`` of the folder.
A test puts a disk that loses power in the place of this one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.contract.errors import StorageError


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Translate what the operating system says about ``path``.

    Raises:
        StorageError: in place of OSError.
    """
    try:
        yield
    except OSError as exc:
        raise StorageError(
            f"{path}: {exc.strerror}: check the free space, the permissions and the card"
        ) from exc


class Disk:
    """The primitives, and one operation made of them. Any thread; all raise StorageError."""

    def write(self, path: Path, data: bytes) -> None:
        """Create or overwrite a file. Not durable."""
        with storage(path):
            path.write_bytes(data)

    def sync(self, path: Path) -> None:
        """Make the content of a file, or the entries of a folder, durable."""
        with storage(path):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        """Move within one file system, replacing ``target`` at once. Not durable."""
        with storage(target):
            source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there. Not durable."""
        with storage(path):
            path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """Make a folder, if it is not there. Not durable."""
        with storage(path):
            path.mkdir(exist_ok=True)

    def replace(self, path: Path, data: bytes) -> None:
        """Put a file in place whole or not at all, durable on return."""
        temporary = path.with_name(f".{path.name}.tmp")
        self.write(temporary, data)
        self.sync(temporary)
        self.rename(temporary, path)
        self.sync(path.parent)
