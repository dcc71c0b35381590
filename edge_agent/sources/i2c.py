"""Registers of a sensor on an I2C bus, for sensors that no kernel driver knows."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.clock import Clock
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.settings import Kind, Settings
from edge_agent.sources.pace import Polls

_BLOCK_BYTES_MAX: Final = 32  # of the SMBus
Byte = Annotated[int, Meta(ge=0, le=255)]


class I2cWrite(Settings, frozen=True, kw_only=True):
    """Bytes that are written to a register.

    Attributes:
        register: the first.
        bytes: what to write to it and those after it.
    """

    register: Byte
    bytes: Annotated[tuple[Byte, ...], Meta(min_length=1, max_length=_BLOCK_BYTES_MAX)]


class I2cRead(Settings, frozen=True, kw_only=True):
    """Bytes that are read at once, and the values in them: ``number * scale + offset``.

    Attributes:
        register: the first.
        format: of Python's ``struct``: ``<hhh`` is three 16-bit numbers, low byte first; ``x`` is
            a byte to skip. Each number is a channel.
        scale: factor.
        offset: added after it.
    """

    register: Byte
    format: Annotated[str, Meta(pattern=r"^[<>][\dxbBhHiIqQef]+$")]
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        try:
            size = struct.calcsize(self.format)
        except struct.error as exc:
            raise ValueError(f"format {self.format!r}: {exc}") from exc
        if not 1 <= size <= _BLOCK_BYTES_MAX:
            raise ValueError(f"format {self.format!r} has {size} bytes, 1 to {_BLOCK_BYTES_MAX} go")


class I2cConfig(Kind, frozen=True, kw_only=True, tag="i2c"):
    """Poll registers of an I2C device; needs the extra ``i2c``.

    A sensor that Linux has a driver for is better read by ``iio``.

    Attributes:
        address: of the device, 7 bits, as ``i2cdetect -y 1`` shows it.
        reads: in order; their numbers together are the channels.
        setup: what to write when the source is opened, in order.
        bus: ``/dev/i2c-BUS``.
        rate_hz: readings per second; one that came too late is counted as an overrun.
    """

    address: Annotated[int, Meta(ge=0x03, le=0x77)]
    reads: Annotated[tuple[I2cRead, ...], Meta(min_length=1)]
    setup: tuple[I2cWrite, ...] = ()
    bus: Annotated[int, Meta(ge=0)] = 1
    rate_hz: Annotated[float, Meta(gt=0, le=10_000)] = 10.0


class I2cSource:
    """Reads all registers at steady times.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        clock: for the pace.
        bus: opens a bus by its number, as ``smbus2.SMBus``, which it is by default.
        sleep: waits for a number of seconds.

    Raises:
        ConfigError: the reads do not give one number for each channel.
    """

    def __init__(
        self,
        config: I2cConfig,
        channels: Sequence[str],
        *,
        clock: Clock,
        bus: Callable[[int], Any] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reads = [(read, struct.Struct(read.format)) for read in config.reads]
        count = sum(len(form.unpack(bytes(form.size))) for _, form in self._reads)
        if count != len(channels):
            raise ConfigError(
                f"the formats of reads give {count} numbers, but there are {len(channels)} channels"
            )
        self._config = config
        self._make_bus = bus
        self._polls = Polls(config.rate_hz, clock, sleep=sleep)
        self._bus: Any = None

    def open(self) -> None:
        """Open the bus and set the device up.

        Raises:
            SourceError: smbus2 is not installed, or the bus or the device is not there.
        """
        self.close()
        try:
            self._bus = (self._make_bus or _smbus())(self._config.bus)
            for write in self._config.setup:
                self._bus.write_i2c_block_data(
                    self._config.address, write.register, list(write.bytes)
                )
        except OSError as exc:
            raise self._error(exc) from exc
        self._polls.begin()

    def read(self, out: F32) -> int:
        """Wait for the next due time, at most 1 s, and give one reading."""
        if not self._polls.due():
            return 0
        column = 0
        for read, form in self._reads:
            try:
                found = self._bus.read_i2c_block_data(
                    self._config.address, read.register, form.size
                )
            except OSError as exc:
                raise self._error(exc) from exc
            for number in form.unpack(bytes(found)):
                out[0, column] = number * read.scale + read.offset
                column += 1
        return 1

    def close(self) -> None:
        """Let the bus go."""
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()

    @property
    def faults(self) -> dict[str, int]:
        """``overrun``: due times that had passed."""
        return {"overrun": self._polls.overrun}

    def _error(self, exc: OSError) -> SourceError:
        return SourceError(
            f"/dev/i2c-{self._config.bus}, device {self._config.address:#04x}: {exc.strerror}: "
            "check the wiring with i2cdetect, and that the user is in the group i2c"
        )


def _smbus() -> Callable[[int], Any]:
    try:
        from smbus2 import SMBus  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise SourceError("I2C needs: pip install 'edge-agent[i2c]'") from exc
    make: Callable[[int], Any] = SMBus
    return make
