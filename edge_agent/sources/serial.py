"""Readings as lines of text from a serial port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.contract.errors import SourceError
from edge_agent.settings import Kind
from edge_agent.sources.inbox import Inbox
from edge_agent.sources.lines import Lines

_WAIT_S: Final = 1.0
_CHUNK_BYTES: Final = 4096


class SerialConfig(Kind, frozen=True, kw_only=True, tag="serial"):
    """Read lines from a serial port; needs the extra ``serial``.

    Attributes:
        port: the device, for example ``/dev/ttyUSB0``; names in ``/dev/serial/by-id`` stay.
        baud: bits per second.
        format: ``json``, an array or an object a line; ``csv``, values with commas between them,
            of which an empty one is missing.
        line_bytes_max: a longer line is left out and counted as torn.
    """

    port: Annotated[str, Meta(min_length=1)]
    baud: Annotated[int, Meta(ge=50, le=4_000_000)] = 115_200
    format: Literal["json", "csv"] = "json"
    line_bytes_max: Annotated[int, Meta(ge=16, le=1024 * 1024)] = 4096


class SerialSource:
    """Reads a port; what comes before the first end of a line may be half a reading and is torn.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
    """

    def __init__(self, config: SerialConfig, channels: Sequence[str]) -> None:
        self._config = config
        self._inbox = Inbox(channels)  # it holds at most what one chunk does
        self._lines = Lines(
            self._inbox,
            config.line_bytes_max,
            mend=_csv_as_json if config.format == "csv" else None,
        )
        self._port: Any = None

    def open(self) -> None:
        """Open the port.

        Raises:
            SourceError: pyserial is not installed, or the port is not there or not allowed.
        """
        try:
            import serial  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise SourceError("serial ports need: pip install 'edge-agent[serial]'") from exc
        try:
            self._port = serial.Serial(self._config.port, self._config.baud, timeout=_WAIT_S)
        except (OSError, ValueError) as exc:  # SerialException is an OSError
            raise SourceError(
                f"{self._config.port}: {exc}: check the cable, and that the user is in the group "
                "dialout"
            ) from exc
        self._inbox.clear()
        self._lines.begin(within=True)

    def read(self, out: F32) -> int:
        """Give what has been read already, else wait for the next bytes, at most 1 s."""
        if not self._inbox:
            self._take_chunk()
        return self._inbox.give(out)

    def close(self) -> None:
        """Let the port go."""
        if self._port is not None:
            self._port.close()
            self._port = None

    @property
    def faults(self) -> dict[str, int]:
        """``torn`` and ``malformed`` lines."""
        return self._inbox.faults

    def _take_chunk(self) -> None:
        try:
            chunk = self._port.read(1)
            chunk += self._port.read(min(self._port.in_waiting, _CHUNK_BYTES))
        except OSError as exc:
            raise SourceError(f"{self._config.port}: {exc}: was it unplugged?") from exc
        self._lines.feed(chunk)


def _csv_as_json(line: bytes) -> bytes:
    return b"[" + b",".join(value.strip() or b"null" for value in line.split(b",")) + b"]"
