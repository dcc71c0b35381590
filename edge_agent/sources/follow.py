"""Readings as JSON lines in a file that another program appends to."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, Final

from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.contract.errors import SourceError
from edge_agent.settings import Kind
from edge_agent.sources.inbox import Inbox
from edge_agent.sources.lines import Lines

_WAIT_S: Final = 1.0
_CHUNK_BYTES: Final = 16 * 1024


class FollowConfig(Kind, frozen=True, kw_only=True, tag="follow"):
    """Follow a file as ``tail -F`` does: lines as of ``jsonl``, through rotation and truncation.

    Attributes:
        path: of the file, from the folder of the configuration; it must exist at the start.
        from_start: read what is in it already, again at each start.
        poll_s: how often to look for more.
        line_bytes_max: a longer line is left out and counted as torn.
        sensor_key: as of ``jsonl``.
        time_key: as of ``jsonl``.
    """

    path: Annotated[str, Meta(min_length=1)]
    from_start: bool = False
    poll_s: Annotated[float, Meta(ge=0.001, le=1)] = 0.05
    line_bytes_max: Annotated[int, Meta(ge=64, le=1024 * 1024)] = 64 * 1024
    sensor_key: str | None = None
    time_key: str | None = None


class FollowSource:
    """Reads an open file to its end before it goes on with the one that took its name.

    A file that is truncated is read from its start; lines lost by that are not known of.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        base: folder where a relative path starts.
    """

    def __init__(self, config: FollowConfig, channels: Sequence[str], *, base: Path) -> None:
        self._config = config
        self._path = base / config.path
        # It holds at most what one chunk does.
        self._inbox = Inbox(channels, sensor_key=config.sensor_key, time_key=config.time_key)
        self._lines = Lines(self._inbox, config.line_bytes_max)
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Open the file, at its end unless ``from_start``.

        Raises:
            SourceError: it is not there or may not be read.
        """
        self.close()
        try:
            self._file = self._path.open("rb", buffering=0)
            if not self._config.from_start:
                self._file.seek(0, os.SEEK_END)
        except OSError as exc:
            raise SourceError(
                f"{self._path}: {exc.strerror}: check the path, and the program that writes it"
            ) from exc
        self._inbox.clear()
        self._lines.begin()

    def read(self, out: F32) -> int:
        """Give what has been read already, else wait for more, at most 1 s."""
        deadline = time.monotonic() + _WAIT_S
        while not self._inbox:
            if not self._take_chunk():
                if time.monotonic() + self._config.poll_s > deadline:
                    return 0
                time.sleep(self._config.poll_s)
        return self._inbox.give(out)

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def faults(self) -> dict[str, int]:
        """``torn`` and ``malformed`` lines."""
        return self._inbox.faults

    @property
    def sensors(self) -> Sequence[str]:
        """Which sensor each row of the last ``read`` came from; empty without a ``sensor_key``."""
        return self._inbox.sensors

    @property
    def stamps(self) -> Sequence[float]:
        """When each row of the last ``read`` was taken; empty without a ``time_key``."""
        return self._inbox.stamps

    def _take_chunk(self) -> bool:
        """Read once and decode the complete lines; False when there is nothing more yet."""
        assert self._file is not None, "open() comes first"
        try:
            chunk = self._file.read(_CHUNK_BYTES)
            if not chunk:
                return self._go_on(self._file)
        except OSError as exc:
            raise SourceError(f"{self._path}: {exc.strerror}: check the disk") from exc
        self._lines.feed(chunk)
        return True

    def _go_on(self, file: BinaryIO) -> bool:
        """At the end: begin again if it was truncated, change over if its name was taken."""
        old = os.fstat(file.fileno())
        if old.st_size < file.tell():
            file.seek(0)
            self._lines.cut()
            return True
        try:
            new = self._path.open("rb", buffering=0)
        except FileNotFoundError:  # moved away; the next one is still to come
            return False
        if os.path.samestat(old, os.fstat(new.fileno())):
            new.close()
            return False
        if os.fstat(file.fileno()).st_size > file.tell():  # written just before it was moved
            new.close()
            return True
        file.close()
        self._file = new
        self._lines.cut()
        return True
