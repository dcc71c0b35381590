"""Readings as JSON lines on standard input."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.contract.errors import SourceError
from edge_agent.settings import Kind
from edge_agent.sources.inbox import Inbox
from edge_agent.sources.lines import Lines

_STDIN: Final = 0
_WAIT_MS: Final = 1000
_CHUNK_BYTES: Final = 16 * 1024  # decoded in one go, so it must be a matter of milliseconds


class JsonlConfig(Kind, frozen=True, kw_only=True, tag="jsonl"):
    """Read standard input: a line is an array of values, or an object with a key per channel.

    A missing key, ``null`` and ``NaN`` are missing values; other keys are ignored.

    Attributes:
        line_bytes_max: a longer line is left out and counted as torn.
        sensor_key: key that names the sensor of a line, for a pipeline with ``sensors``: its value
            is a string of 1 to 64 characters. A line without it is counted as malformed.
        time_key: key of an object that says when it was taken, in seconds since 1970, for
            ``type: aligned``. A line without it is counted as malformed.
    """

    line_bytes_max: Annotated[int, Meta(ge=64)] = 64 * 1024
    sensor_key: str | None = None
    time_key: str | None = None


class JsonlSource:
    """Reads lines from a file descriptor; a slow reader slows the writer down, nothing is lost.

    It does not own the descriptor: ``close`` leaves it open.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        descriptor: to read from.
    """

    def __init__(
        self, config: JsonlConfig, channels: Sequence[str], *, descriptor: int = _STDIN
    ) -> None:
        self._descriptor = descriptor
        # It holds at most what one chunk does.
        self._inbox = Inbox(channels, sensor_key=config.sensor_key, time_key=config.time_key)
        self._lines = Lines(self._inbox, config.line_bytes_max)
        self._ended = False
        self._poll = select.poll()

    def open(self) -> None:
        """Check that there is something to read from."""
        try:
            os.fstat(self._descriptor)
        except OSError as exc:
            raise SourceError(
                "standard input is closed: pipe a program that prints readings into the agent"
            ) from exc
        self._poll.register(self._descriptor, select.POLLIN)

    def read(self, out: F32) -> int:
        """Give what has been read already, else wait for the next lines, at most 1 s."""
        if not self._inbox:
            if self._ended:
                raise EOFError("standard input has ended")
            if self._poll.poll(_WAIT_MS):
                self._take_chunk()
        return self._inbox.give(out)

    def close(self) -> None:
        """Stop waiting for the descriptor, and leave it open."""
        self._poll = select.poll()

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

    def _take_chunk(self) -> None:
        """Read once, which does not block after a poll, and decode the complete lines."""
        try:
            chunk = os.read(self._descriptor, _CHUNK_BYTES)
        except OSError as exc:
            raise SourceError(f"standard input cannot be read: {exc.strerror}") from exc
        self._ended = not chunk
        # A stream may end without a newline: its last line is then whole or torn, as any other.
        self._lines.feed(chunk or b"\n")
