"""Modbus by TCP and on a serial line, from pymodbus's own servers."""

from __future__ import annotations

import asyncio
import os
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import pack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from readings import assert_rows, rows_of, until

from edge_agent.clock import SystemClock
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.sources.modbus import ModbusConfig, ModbusInput, ModbusSource, number_of, spans
from edge_agent.testing.conformance import check_source

pytest.importorskip("pymodbus", reason="the extra modbus is not installed")

from pymodbus import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

HIGH, LOW = np.frombuffer(pack(">f", 21.5), ">u2").tolist()
INPUTS = (
    ModbusInput(address=0, scale=0.1, offset=-40),
    ModbusInput(address=1, number="float32"),
    ModbusInput(address=3, number="float32", word_order="little"),
    ModbusInput(address=7, table="input", number="uint32"),
    ModbusInput(address=2, table="coil"),
    ModbusInput(address=1, table="discrete"),
)
WANT = [650 * 0.1 - 40, 21.5, 21.5, 70_000, 1, 0]


def device() -> SimDevice:
    """Unit 5 with what INPUTS asks for, and nothing else: other addresses are refused."""
    bits = [SimData(0, values=[False, False, True, False], datatype=DataType.BITS)]
    holding = [SimData(0, values=[650, HIGH, LOW, LOW, HIGH], datatype=DataType.REGISTERS)]
    inputs = [SimData(7, values=[1, 70_000 - 65_536], datatype=DataType.REGISTERS)]
    return SimDevice(5, simdata=(bits, bits, holding, inputs))


@contextmanager
def serving(make: Callable[[], object]) -> Iterator[object]:
    """A server that runs in a loop of its own thread."""
    loop = asyncio.new_event_loop()
    made: list[object] = []

    async def serve() -> None:
        server = make()
        await server.listen()  # as serve_forever does, which would not let us know the port
        made.append(server)

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(serve(), loop).result(30)
        yield made[0]
    finally:
        asyncio.run_coroutine_threadsafe(made[0].shutdown(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def tcp() -> Iterator[str]:
    with serving(lambda: ModbusTcpServer(device(), address=("127.0.0.1", 0))) as server:
        port = server.transport.sockets[0].getsockname()[1]
        yield f"tcp://127.0.0.1:{port}"


@contextmanager
def line() -> Iterator[tuple[str, str]]:
    """Two serial ports with a wire between them: two ptys and a thread that carries bytes."""
    (far_a, near_a), (far_b, near_b) = os.openpty(), os.openpty()
    for end in (near_a, near_b):
        tty.setraw(end)
    other = {far_a: far_b, far_b: far_a}
    ended = threading.Event()

    def carry(here: int) -> None:
        while not ended.is_set():
            data = os.read(here, 4096)
            if not ended.is_set():
                os.write(other[here], data)

    threads = [threading.Thread(target=carry, args=(far,)) for far in other]
    for thread in threads:
        thread.start()
    try:
        yield os.ttyname(near_a), os.ttyname(near_b)
    finally:
        ended.set()
        for end in (near_a, near_b):
            os.write(end, b"\0")  # wakes the thread
        for thread in threads:
            thread.join()
        for end in (far_a, near_a, far_b, near_b):
            os.close(end)


@pytest.fixture
def rtu() -> Iterator[str]:
    with (
        line() as (ours, theirs),
        serving(
            lambda: ModbusSerialServer(
                device(), framer=FramerType.RTU, port=theirs, baudrate=19_200
            )
        ),
    ):
        yield f"rtu://{ours}"


def modbus(url: str, inputs=INPUTS, **config: object) -> ModbusSource:
    wanted = {"unit": 5, "rate_hz": 200, "timeout_s": 1} | config
    names = [f"c{number}" for number in range(len(inputs))]
    return ModbusSource(ModbusConfig(url=url, inputs=inputs, **wanted), names, clock=SystemClock())


@pytest.mark.parametrize("way", ["tcp", "rtu"])
def test_registers_and_bits(way: str, request: pytest.FixtureRequest) -> None:
    source = modbus(request.getfixturevalue(way))
    source.open()
    try:
        assert_rows(rows_of(source, 6, most=2, block=1), [WANT, WANT])
    finally:
        source.close()


@pytest.mark.parametrize("way", ["tcp", "rtu"])
def test_modbus_is_a_source(way: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(way)
    check_source(lambda: modbus(url), channels=6)


def test_an_address_that_the_device_does_not_have(tcp: str) -> None:
    source = modbus(tcp, (ModbusInput(address=400),))
    source.open()
    try:
        with pytest.raises(SourceError, match=r"unit 5: holding 400: refused with code 2: check"):
            source.read(np.empty((1, 1), np.float32))
    finally:
        source.close()


def test_a_device_that_went_away_and_came_back() -> None:
    out = np.empty((1, 6), np.float32)
    with serving(lambda: ModbusTcpServer(device(), address=("127.0.0.1", 0))) as server:
        port = server.transport.sockets[0].getsockname()[1]
        source = modbus(f"tcp://127.0.0.1:{port}")
        source.open()
        until(lambda: source.read(out) == 1)
    with pytest.raises(SourceError, match="check unit, wiring and timeout_s"):
        until(lambda: source.read(out) < 0)
    source.close()
    with pytest.raises(SourceError, match="serves Modbus TCP"):
        source.open()
    with serving(lambda: ModbusTcpServer(device(), address=("127.0.0.1", port))):
        source.open()
        until(lambda: source.read(out) == 1)
        source.close()


def test_a_serial_port_that_is_not_there() -> None:
    with pytest.raises(SourceError, match="group dialout"):
        modbus("rtu:///dev/nowhere").open()


def test_inputs_that_do_not_fit_the_channels() -> None:
    config = ModbusConfig(url="tcp://meter", inputs=INPUTS)
    with pytest.raises(ConfigError, match="one for each"):
        ModbusSource(config, ("a",), clock=SystemClock())


NUMBERS = {"int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "float32": "f"}


@given(
    number=st.sampled_from(sorted(NUMBERS)),
    byte_order=st.sampled_from(["big", "little"]),
    word_order=st.sampled_from(["big", "little"]),
    data=st.binary(min_size=4, max_size=4),
)
def test_a_number_in_any_order(number, byte_order, word_order, data) -> None:
    code = NUMBERS[number]
    data = data[: 2 if code in "hH" else 4]
    want = np.frombuffer(
        data, f">{'f4' if code == 'f' else code + ''}" if code == "f" else f">{code}"
    )[0]
    words = [int.from_bytes(data[at : at + 2], byte_order) for at in range(0, len(data), 2)]
    item = ModbusInput(address=0, number=number, byte_order=byte_order, word_order=word_order)
    got = number_of(item, words if word_order == "big" else words[::-1])
    np.testing.assert_equal(np.float64(got), np.float64(want))


@given(
    st.lists(
        st.builds(
            ModbusInput,
            address=st.integers(0, 300),
            table=st.sampled_from(["holding", "coil"]),
            number=st.sampled_from(["int16", "float32"]),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_requests_hold_every_input_whole_and_nothing_else(inputs: list[ModbusInput]) -> None:
    found = spans(inputs)
    asked = {(item.table, item.address + more) for item in inputs for more in range(item.length)}
    got = {(span.table, span.address + more) for span in found for more in range(span.length)}
    assert got == asked
    assert all(any(span.holds(item) for span in found) for item in inputs)
    assert all(span.length <= 125 for span in found)
