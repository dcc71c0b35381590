"""Durable file operations: the only door through which updates change the file system.

What is written to a file is durable after ``sync`` of the file; that a file was made, renamed or
removed, after ``sync`` of its folder. Every change is one of a few primitives, so a test can take
the place of this class, write down what was done, and model every power cut between two of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from edge_agent.contract.errors import StorageError

_BLOCK_BYTES: Final = 512  # what st_blocks counts in


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


class DiskFile:
    """An open file, read and written anywhere. One thread; all raise StorageError.

    Args:
        path: of the file.
        flags: of ``os.open``, beside reading and writing.
    """

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        with storage(path):
            self._handle = os.open(path, os.O_RDWR | flags, 0o644)

    @property
    def size(self) -> int:
        """Bytes of content."""
        with storage(self._path):
            return os.fstat(self._handle).st_size

    @property
    def taken_bytes(self) -> int:
        """What it takes of the disk."""
        with storage(self._path):
            return os.fstat(self._handle).st_blocks * _BLOCK_BYTES

    @property
    def free_bytes(self) -> int:
        """What is free on its disk for this user."""
        with storage(self._path):
            disk = os.fstatvfs(self._handle)
        return disk.f_bavail * disk.f_frsize

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes from there on, fewer at the end."""
        with storage(self._path):
            return os.pread(self._handle, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there. Not durable."""
        view = memoryview(data)
        with storage(self._path):
            while view:  # a disk that is nearly full takes a part
                done = os.pwrite(self._handle, view, offset)
                view, offset = view[done:], offset + done

    def reserve(self, size: int) -> None:
        """Give it exactly this size, and the room for it. Not durable."""
        with storage(self._path):
            os.ftruncate(self._handle, size)
            os.posix_fallocate(self._handle, 0, size)

    def sync(self) -> None:
        """Make the content durable."""
        with storage(self._path):
            os.fdatasync(self._handle)

    def close(self) -> None:
        """Let it go, without a sync. May be called twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Disk:
    """The primitives, and what is made of them. Any thread; all raise StorageError."""

    def create(self, path: Path) -> DiskFile:
        """Make an empty file, or empty the one that is there. Not durable."""
        return DiskFile(path, os.O_CREAT | os.O_TRUNC)

    def open(self, path: Path) -> DiskFile:
        """Open a file as it is; made, not durably, when absent."""
        return DiskFile(path, os.O_CREAT)

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

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder. Not durable."""
        with storage(path):
            path.rmdir()

    def write(self, path: Path, data: bytes) -> None:
        """Create or overwrite a file. Not durable."""
        with self.create(path) as file:
            file.write(0, data)

    def replace(self, path: Path, data: bytes) -> None:
        """Put a file in place whole or not at all, durable on return."""
        temporary = path.with_name(f".{path.name}.tmp")
        self.write(temporary, data)
        self.sync(temporary)
        self.rename(temporary, path)
        self.sync(path.parent)

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder with the files in it. Not durable."""
        with storage(folder):
            paths = list(folder.iterdir())
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                self.remove_tree(path)
            else:
                self.remove(path)
        self.remove_folder(folder)
