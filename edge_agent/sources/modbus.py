"""Registers and coils of a Modbus device: meters, PLCs, drives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.clock import Clock
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.settings import Kind, Settings
from edge_agent.sources.pace import Polls

_STRUCTS: Final = {
    "int16": Struct(">h"),
    "uint16": Struct(">H"),
    "int32": Struct(">i"),
    "uint32": Struct(">I"),
    "float32": Struct(">f"),
}
_READ_N_MAX: Final = 125  # registers that one request may ask for
_PORT: Final = 502


class ModbusInput(Settings, frozen=True, kw_only=True):
    """One value; it is ``number * scale + offset``.

    Attributes:
        address: of the first register as it goes over the wire, from 0: 40001 is holding, 0.
        table: ``holding`` or ``input`` registers; ``coil`` or ``discrete`` bits, which are 0 or 1.
        number: how registers are to be read; of no meaning for bits.
        byte_order: within a register.
        word_order: ``big`` has the high register of a 32-bit number first.
        scale: factor.
        offset: added after it.
    """

    address: Annotated[int, Meta(ge=0, le=65_535)]
    table: Literal["holding", "input", "coil", "discrete"] = "holding"
    number: Literal["int16", "uint16", "int32", "uint32", "float32"] = "int16"
    byte_order: Literal["big", "little"] = "big"
    word_order: Literal["big", "little"] = "big"
    scale: float = 1.0
    offset: float = 0.0

    @property
    def length(self) -> int:
        """Registers or bits that it takes."""
        return 1 if self.table in {"coil", "discrete"} else _STRUCTS[self.number].size // 2


class ModbusConfig(Kind, frozen=True, kw_only=True, tag="modbus"):
    """Poll a Modbus device by TCP or on a serial line (RTU); needs the extra ``modbus``.

    Neighbouring registers are read by one request.

    Attributes:
        url: ``tcp://HOST[:PORT]``, port 502 by default, or ``rtu:///dev/ttyUSB0``.
        inputs: one for each channel, in order.
        unit: id of the device on the line or behind a gateway.
        rate_hz: readings per second; one that came too late is counted as an overrun.
        timeout_s: for each answer; without one the device is connected to anew.
        baud: bits per second of a serial line.
        parity: of a serial line: ``N``, ``E`` or ``O``.
    """

    url: Annotated[str, Meta(pattern=r"^(tcp://[^/@\s]+|rtu:///\S+)$")]
    inputs: Annotated[tuple[ModbusInput, ...], Meta(min_length=1)]
    unit: Annotated[int, Meta(ge=0, le=255)] = 1
    rate_hz: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    timeout_s: Annotated[float, Meta(gt=0, le=1)] = 0.5
    baud: Annotated[int, Meta(ge=300, le=4_000_000)] = 19_200
    parity: Literal["N", "E", "O"] = "N"

    def __post_init__(self) -> None:
        try:
            urlsplit(self.url).port  # noqa: B018 - raises when it is no number
        except ValueError as exc:
            raise ValueError(f"url: {exc}") from exc


class Span(NamedTuple):
    """What one request asks for: neighbours in one table."""

    table: str
    address: int
    length: int

    def holds(self, item: ModbusInput) -> bool:
        """Whether all of an input is in it."""
        at = item.address - self.address
        return self.table == item.table and 0 <= at <= self.length - item.length


class ModbusSource:
    """Asks for all inputs at steady times; a poll of which a part fails gives no reading.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        clock: for the pace.
        sleep: waits for a number of seconds.

    Raises:
        ConfigError: there is not one input for each channel.
    """

    def __init__(
        self,
        config: ModbusConfig,
        channels: Sequence[str],
        *,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if len(config.inputs) != len(channels):
            raise ConfigError(
                f"inputs has {len(config.inputs)}, but there are {len(channels)} channels: "
                "give one for each, in order"
            )
        self._config = config
        self._spans = spans(config.inputs)
        self._span_of = [
            next(number for number, span in enumerate(self._spans) if span.holds(item))
            for item in config.inputs
        ]
        self._polls = Polls(config.rate_hz, clock, sleep=sleep)
        self._client: Any = None

    def open(self) -> None:
        """Connect.

        Raises:
            SourceError: pymodbus is not installed, or there is no connection.
        """
        self.close()
        self._client = self._make_client()
        try:
            connected = self._client.connect()
        except OSError as exc:
            raise SourceError(f"{self._config.url}: {exc}: {self._advice}") from exc
        if not connected:
            raise SourceError(f"{self._config.url}: no connection: {self._advice}")
        self._polls.begin()

    def read(self, out: F32) -> int:
        """Wait for the next due time, at most 1 s, and give one reading."""
        if not self._polls.due():
            return 0
        found = [self._ask(span) for span in self._spans]
        for column, (item, number) in enumerate(
            zip(self._config.inputs, self._span_of, strict=True)
        ):
            at = item.address - self._spans[number].address
            words = found[number][at : at + item.length]
            out[0, column] = number_of(item, words) * item.scale + item.offset
        return 1

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @property
    def faults(self) -> dict[str, int]:
        """``overrun``: due times that had passed."""
        return {"overrun": self._polls.overrun}

    @property
    def _advice(self) -> str:
        if self._config.url.startswith("tcp:"):
            return "check the address, and that the device serves Modbus TCP"
        return "check the cable, and that the user is in the group dialout"

    def _make_client(self) -> Any:
        try:
            from pymodbus.client import (  # noqa: PLC0415 - an extra
                ModbusSerialClient,
                ModbusTcpClient,
            )
        except ImportError as exc:
            raise SourceError("Modbus needs: pip install 'edge-agent[modbus]'") from exc
        config, url = self._config, urlsplit(self._config.url)
        # No tries of its own: a read is to end in time, and a lost connection is opened again.
        if url.scheme == "tcp":
            return ModbusTcpClient(
                url.hostname or "", port=url.port or _PORT, timeout=config.timeout_s, retries=0
            )
        return ModbusSerialClient(
            url.path,
            baudrate=config.baud,
            parity=config.parity,
            timeout=config.timeout_s,
            retries=0,
        )

    def _ask(self, span: Span) -> list[int]:
        from pymodbus.exceptions import ModbusException  # noqa: PLC0415 - an extra

        ask = {
            "holding": self._client.read_holding_registers,
            "input": self._client.read_input_registers,
            "coil": self._client.read_coils,
            "discrete": self._client.read_discrete_inputs,
        }[span.table]
        where = f"{self._config.url}: unit {self._config.unit}: {span.table} {span.address}"
        try:
            answer = ask(span.address, count=span.length, device_id=self._config.unit)
        except (ModbusException, OSError) as exc:
            raise SourceError(f"{where}: {exc}: check unit, wiring and timeout_s") from exc
        if answer.isError():
            raise SourceError(
                f"{where}: refused with code {getattr(answer, 'exception_code', '?')}: check "
                "unit, table and address in the device's manual"
            )
        values: list[int] = answer.registers or answer.bits
        if len(values) < span.length:
            raise SourceError(f"{where}: gave {len(values)} values of {span.length}")
        return values


def spans(inputs: Sequence[ModbusInput]) -> list[Span]:
    """The requests that read all inputs: one for what lies side by side, as far as one may ask.

    Nothing between two inputs is asked for: many devices refuse addresses that they do not have.
    An input never lies in two requests, so its registers are of one moment.
    """
    found: list[Span] = []
    for item in sorted(inputs, key=lambda item: (item.table, item.address, item.length)):
        end = item.address + item.length
        last = found[-1] if found else None
        if (
            last is not None
            and last.table == item.table
            and item.address <= last.address + last.length
            and end - last.address <= _READ_N_MAX
        ):
            found[-1] = last._replace(length=max(last.length, end - last.address))
        else:
            found.append(Span(item.table, item.address, item.length))
    return found


def number_of(item: ModbusInput, words: Sequence[int]) -> float:
    """What registers, or a bit, mean."""
    if item.table in {"coil", "discrete"}:
        return float(words[0])
    ordered = words if item.word_order == "big" else words[::-1]
    # Modbus sends a register's high byte first; "little" is for devices that do not.
    number: float = _STRUCTS[item.number].unpack(
        b"".join(word.to_bytes(2, item.byte_order) for word in ordered)
    )[0]
    return number
