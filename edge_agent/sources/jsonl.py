"""Readings as JSON lines on standard input."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.contract.errors import SourceError
from edge_agent.settings import Kind
from edge_agent.sources.json_rows import NameDecoder, Row, RowDecoder, move

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
    """

    line_bytes_max: Annotated[int, Meta(ge=64)] = 64 * 1024
    sensor_key: str | None = None


class JsonlSource:
    """Reads lines from a file descriptor; a slow reader slows the writer down, nothing is lost.

    It does not own the descriptor: ``close`` leaves it open.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        descriptor: to read from.

    Attributes:
        sensors: which sensor each row of the last ``read`` came from; empty without a
            ``sensor_key``.
    """

    def __init__(
        self, config: JsonlConfig, channels: Sequence[str], *, descriptor: int = _STDIN
    ) -> None:
        self._descriptor = descriptor
        self._line_bytes_max = config.line_bytes_max
        self._decoder = RowDecoder(channels)
        self._names = NameDecoder(config.sensor_key) if config.sensor_key else None
        self._waiting: deque[Row] = deque()  # at most what one chunk holds
        self._named: deque[str] = deque()  # the sensor of each row that waits, if they have names
        self.sensors: list[str] = []
        self._partial = b""
        self._overlong = False  # the rest of a line that is too long is still to come
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
        if not self._waiting:
            if self._ended:
                raise EOFError("standard input has ended")
            if self._poll.poll(_WAIT_MS):
                self._take_chunk()
        count = move(self._waiting, out)
        if self._names:
            self.sensors = [self._named.popleft() for _ in range(count)]
        return count

    def close(self) -> None:
        """Stop waiting for the descriptor, and leave it open."""
        self._poll = select.poll()

    @property
    def faults(self) -> dict[str, int]:
        """``torn`` and ``malformed`` lines."""
        return dict(self._decoder.faults)

    def _take_chunk(self) -> None:
        """Read once, which does not block after a poll, and decode the complete lines."""
        try:
            chunk = os.read(self._descriptor, _CHUNK_BYTES)
        except OSError as exc:
            raise SourceError(f"standard input cannot be read: {exc.strerror}") from exc
        self._ended = not chunk
        # A stream may end without a newline: its last line is then whole or torn, as any other.
        lines = (self._partial + (chunk or b"\n")).split(b"\n")
        self._partial = lines.pop()
        for line in lines:
            self._take_line(line)
        if len(self._partial) > self._line_bytes_max:
            self._overlong, self._partial = True, b""

    def _take_line(self, line: bytes) -> None:
        if self._overlong or len(line) > self._line_bytes_max:
            self._overlong = False
            self._decoder.faults["torn"] += 1
        elif line.strip():
            self._take_reading(line)

    def _take_reading(self, line: bytes) -> None:
        row = self._decoder.row(line)
        if row is None:
            return
        if self._names:
            name = self._names.name(line)
            if name is None:
                self._decoder.faults["malformed"] += 1
                return
            self._named.append(name)
        self._waiting.append(row)
