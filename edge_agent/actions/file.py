"""Fired decisions as JSON lines in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from edge_agent.contract.errors import ActionError
from edge_agent.contract.messages import Decision, encode
from edge_agent.settings import Kind


class FileConfig(Kind, frozen=True, kw_only=True, tag="file"):
    """Append the decision as a line of JSON to a file, which is rotated by size.

    Attributes:
        path: of the file; its folder must exist.
        bytes_max: a file that would outgrow it becomes ``PATH.1``, and that ``PATH.2``.
        keep_n: rotated files that are kept; 0 starts the file again.
        fsync: wait until each line is on the disk.
    """

    path: Annotated[str, Meta(min_length=1)]
    bytes_max: Annotated[int, Meta(ge=4096)] = 10 * 1024 * 1024
    keep_n: Annotated[int, Meta(ge=0, le=100)] = 3
    fsync: bool = False


class FileAction:
    """One line a fired decision, opened for each: others may move it. The worker's thread."""

    blocking: ClassVar[bool] = True

    def __init__(self, config: FileConfig) -> None:
        self._config = config
        self._path = Path(config.path)

    def fire(self, decision: Decision) -> None:
        """Append the line.

        Raises:
            ActionError: the file cannot be written.
        """
        line = encode(decision) + b"\n"
        try:
            self._rotate(len(line))
            with self._path.open("ab", buffering=0) as file:
                file.write(line)
                if self._config.fsync:
                    os.fsync(file.fileno())
        except OSError as exc:
            raise ActionError(
                f"{self._path}: {exc.strerror}: check the folder, its rights and the free space"
            ) from exc

    def close(self) -> None:
        """Nothing is held between two decisions."""

    def _rotate(self, more: int) -> None:
        """Move the file aside if it would outgrow its bound."""
        if not self._path.exists() or self._path.stat().st_size + more <= self._config.bytes_max:
            return
        if not self._config.keep_n:
            self._path.unlink()
            return
        names = [self._path, *map(self._rotated, range(1, self._config.keep_n + 1))]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if newer.exists():
                newer.replace(older)

    def _rotated(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
