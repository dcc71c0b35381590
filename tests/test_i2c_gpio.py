"""I2C registers and pins.

There is no I2C bus and no i2c-stub here: a bus that speaks the calls of ``smbus2.SMBus`` stands
for one, and its calls are held against smbus2's own. Pins are gpiozero's mock pins.
"""

from __future__ import annotations

import inspect
import itertools
import struct
import sys
import threading

import numpy as np
import pytest
from readings import assert_rows, rows_of, until
from test_actions import decision

from edge_agent.actions.gpio import GpioAction
from edge_agent.actions.gpio import GpioConfig as GpioActionConfig
from edge_agent.clock import SystemClock
from edge_agent.contract.errors import ActionError, ConfigError, SourceError
from edge_agent.sources.gpio import GpioConfig, GpioInput, GpioSource
from edge_agent.sources.i2c import I2cConfig, I2cRead, I2cSource, I2cWrite
from edge_agent.sources.modbus import ModbusConfig, ModbusInput, ModbusSource
from edge_agent.testing.conformance import check_action, check_source

gpiozero = pytest.importorskip("gpiozero", reason="the extra gpio is not installed")
smbus2 = pytest.importorskip("smbus2", reason="the extra i2c is not installed")

from gpiozero.pins.mock import MockFactory  # noqa: E402 - an extra

ADDRESS = 0x53


class FakeBus:
    """Registers of one device; stands for ``smbus2.SMBus``."""

    def __init__(self, bus: int) -> None:
        assert bus == 1
        self.memory = bytearray(256)
        self.memory[0x32:0x38] = struct.pack("<hhh", 256, -512, 4)
        self.memory[0x40:0x43] = struct.pack(">Bh", 9, -1)
        self.closed = False

    def read_i2c_block_data(self, i2c_addr, register, length, force=None):
        return list(self._at(i2c_addr)[register : register + length])

    def write_i2c_block_data(self, i2c_addr, register, data, force=None):
        self._at(i2c_addr)[register : register + len(data)] = bytes(data)

    def close(self):
        self.closed = True

    def _at(self, address: int) -> bytearray:
        if self.closed or address != ADDRESS:
            raise OSError(121, "Remote I/O error")
        return self.memory


READS = (
    I2cRead(register=0x32, format="<hhh", scale=1 / 256),
    I2cRead(register=0x40, format=">xh", offset=20),
)


def i2c(made: list[FakeBus] | None = None, **config: object) -> I2cSource:
    def bus(number: int) -> FakeBus:
        found = FakeBus(number)
        if made is not None:
            made.append(found)
        return found

    settings = I2cConfig(**{"address": ADDRESS, "reads": READS, "rate_hz": 1000} | config)
    return I2cSource(settings, ("x", "y", "z", "t"), clock=SystemClock(), bus=bus)


@pytest.mark.parametrize("name", ["read_i2c_block_data", "write_i2c_block_data", "close"])
def test_the_stand_in_has_the_calls_of_smbus2(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (FakeBus, smbus2.SMBus))
    assert list(ours.parameters) == list(theirs.parameters)


def test_registers_of_an_i2c_device() -> None:
    made: list[FakeBus] = []
    source = i2c(made, setup=(I2cWrite(register=0x2D, bytes=(8, 1)),))
    source.open()
    assert_rows(rows_of(source, 4, most=1), [[1, -2, 4 / 256, 19]])
    assert made[0].memory[0x2D:0x2F] == b"\x08\x01"
    source.close()
    assert made[0].closed


def test_i2c_is_a_source() -> None:
    check_source(i2c, channels=4)


def test_a_device_that_does_not_answer() -> None:
    source = i2c(address=0x54)
    source.open()
    with pytest.raises(SourceError, match=r"/dev/i2c-1, device 0x54: Remote I/O error: check the"):
        source.read(np.empty((1, 4), np.float32))


def test_a_bus_that_is_not_there() -> None:
    source = I2cSource(I2cConfig(address=3, reads=READS, bus=99), "abcd", clock=SystemClock())
    with pytest.raises(SourceError, match=r"/dev/i2c-99, .*No such file.*: check the wiring"):
        source.open()


def test_formats_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="give 4 numbers, but there are 1 channels"):
        I2cSource(I2cConfig(address=3, reads=READS), ("a",), clock=SystemClock())
    with pytest.raises(ValueError, match="has 40 bytes"):
        I2cRead(register=0, format="<10i")
    with pytest.raises(ValueError, match="format"):
        I2cRead(register=0, format="<3")


INPUTS = (
    GpioInput(pin=17, pull="up"),
    GpioInput(pin="GPIO27", give="count"),
    GpioInput(pin=22, pull="none"),
)


@pytest.fixture
def pins():
    factory = MockFactory()
    yield factory
    factory.close()


def gpio(pins: MockFactory) -> GpioSource:
    config = GpioConfig(inputs=INPUTS, rate_hz=1000)
    return GpioSource(config, ("a", "b", "c"), clock=SystemClock(), pin_factory=pins)


def test_levels_and_edges(pins) -> None:
    source = gpio(pins)
    source.open()
    out = np.empty((1, 3), np.float32)
    until(lambda: source.read(out) == 1)
    assert out.tolist() == [[0, 0, 0]]
    pins.pin(17).drive_low()  # pulled up: low is active
    pins.pin(22).drive_high()
    for _ in range(3):
        pins.pin(27).drive_high()
        pins.pin(27).drive_low()
    until(lambda: source.read(out) == 1)
    assert out.tolist() == [[1, 3, 1]]
    until(lambda: source.read(out) == 1)
    assert out.tolist() == [[1, 0, 1]]
    source.close()


def test_pins_are_a_source(pins) -> None:
    check_source(lambda: gpio(pins), channels=3)


def test_a_pin_that_is_not_free(pins) -> None:
    other = gpiozero.DigitalInputDevice(22, pin_factory=pins)
    source = gpio(pins)
    with pytest.raises(SourceError, match=r"pin 22: .*: check its name"):
        source.open()
    other.close()
    source.open()  # nothing of the first try holds a pin
    source.close()


def test_inputs_that_do_not_fit_the_channels(pins) -> None:
    with pytest.raises(ConfigError, match="one for each"):
        GpioSource(GpioConfig(inputs=INPUTS), ("a",), clock=SystemClock(), pin_factory=pins)


@pytest.mark.parametrize(
    ("do", "active_high", "want"),
    [
        ("on", True, [False, True]),
        ("off", True, [False]),
        ("pulse", True, [False, True, False]),
        ("pulse", False, [False, True, False, True]),  # a mock pin begins low
    ],
)
def test_a_pin_is_switched(pins, do, active_high, want) -> None:
    config = GpioActionConfig(pin=5, do=do, pulse_ms=1, active_high=active_high)
    action = GpioAction(config, pin_factory=pins)
    pin = pins.pin(5)
    action.fire(decision())
    levels = [bool(state.state) for state in pin.states]
    assert [level for level, _ in itertools.groupby(levels)] == want
    action.close()


@pytest.mark.parametrize("do", ["on", "off", "pulse"])
def test_a_pin_is_an_action(pins, do) -> None:
    config = GpioActionConfig(pin=5, do=do, pulse_ms=1)
    check_action(lambda: GpioAction(config, pin_factory=pins))


def test_closing_ends_a_pulse(pins) -> None:
    action = GpioAction(GpioActionConfig(pin=5, pulse_ms=10_000), pin_factory=pins)
    pin = pins.pin(5)
    firing = threading.Thread(target=action.fire, args=(decision(),))
    firing.start()
    until(lambda: pin.state == 1)
    action.close()
    firing.join(5)
    assert not firing.is_alive()


def test_a_pin_that_there_is_not(pins) -> None:
    with pytest.raises(ActionError, match=r"pin nix: .*check its name"):
        GpioAction(GpioActionConfig(pin="nix"), pin_factory=pins).fire(decision())


@pytest.mark.parametrize("extra", ["i2c", "gpio", "modbus"])
def test_without_its_extra_a_source_says_what_to_install(extra, pins, monkeypatch) -> None:
    for module in ("smbus2", "gpiozero", "pymodbus.client"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    value = ModbusInput(address=0)
    made = {
        "i2c": I2cSource(I2cConfig(address=3, reads=READS), "abcd", clock=SystemClock()),
        "gpio": gpio(pins),
        "modbus": ModbusSource(
            ModbusConfig(url="tcp://meter", inputs=(value,)), "a", clock=SystemClock()
        ),
    }
    with pytest.raises(SourceError, match=rf"pip install 'edge-agent\[{extra}\]'"):
        made[extra].open()


def test_without_its_extra_the_action_says_what_to_install(pins, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gpiozero", None)
    with pytest.raises(ActionError, match=r"pip install 'edge-agent\[gpio\]'"):
        GpioAction(GpioActionConfig(pin=5), pin_factory=pins).fire(decision())
