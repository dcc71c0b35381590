"""Serial ports and Industrial I/O: a pty and a tree of files stand for the devices."""

from __future__ import annotations

import os
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from readings import NAN, assert_rows, rows_of

from edge_agent.clock import SystemClock
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.sources.iio import IioConfig, IioSource
from edge_agent.sources.serial import SerialConfig, SerialSource
from edge_agent.testing.conformance import check_source


@contextmanager
def serial_port() -> Iterator[tuple[int, str]]:
    """The far end of a line, and the near end's name."""
    far, near = os.openpty()
    tty.setraw(near)
    try:
        yield far, os.ttyname(near)
    finally:
        os.close(far)
        os.close(near)


@pytest.mark.parametrize(("form", "text"), [("json", b"[1,2]\n[3,null]\n"), ("csv", b"1,2\n3,\n")])
def test_lines_of_a_serial_port(form: str, text: bytes) -> None:
    pytest.importorskip("serial", reason="the extra serial is not installed")
    with serial_port() as (far, port):
        source = SerialSource(SerialConfig(port=port, format=form), ("a", "b"))
        source.open()
        os.write(far, b"7,8\n" + text + b"hello\n1")
        assert_rows(rows_of(source, 2, most=2), [[1, 2], [3, NAN]])
        source.close()
    assert source.faults == {"torn": 2, "malformed": 0}  # the first line, and "hello"


def test_a_serial_port_is_a_source() -> None:
    pytest.importorskip("serial", reason="the extra serial is not installed")
    ended = threading.Event()
    with serial_port() as (far, port):

        def talk() -> None:
            while not ended.wait(0.002):
                os.write(far, b"1,2\n")

        talker = threading.Thread(target=talk)
        talker.start()
        try:
            config = SerialConfig(port=port, format="csv")
            check_source(lambda: SerialSource(config, ("a", "b")), channels=2)
        finally:
            ended.set()
            talker.join()


def test_a_serial_port_that_is_not_there() -> None:
    pytest.importorskip("serial", reason="the extra serial is not installed")
    with pytest.raises(SourceError, match="check the cable"):
        SerialSource(SerialConfig(port="/dev/nowhere"), ("a",)).open()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    device = tmp_path / "iio:device0"
    device.mkdir()
    files = {
        "name": "adxl345",
        "in_accel_x_raw": "100",
        "in_accel_y_raw": "-3",
        "in_accel_scale": "0.5",
        "in_accel_y_offset": "1",
    }
    for name, text in files.items():
        (device / name).write_text(f"{text}\n")
    return tmp_path


def iio(root: Path, device: str = "adxl345") -> IioSource:
    config = IioConfig(device=device, inputs=("accel_x", "accel_y"), rate_hz=1000)
    return IioSource(config, ("x", "y"), clock=SystemClock(), root=root)


@pytest.mark.parametrize("device", ["adxl345", "iio:device0"])
def test_values_of_industrial_io(tree: Path, device: str) -> None:
    source = iio(tree, device)
    source.open()
    assert_rows(rows_of(source, 2, most=1), [[50, -1]])


def test_industrial_io_is_a_source(tree: Path) -> None:
    check_source(lambda: iio(tree), channels=2)


def test_an_input_that_goes_away(tree: Path) -> None:
    source = iio(tree)
    source.open()
    (tree / "iio:device0" / "in_accel_y_raw").unlink()
    with pytest.raises(SourceError, match="check the wiring"):
        source.read(np.empty((1, 2), np.float32))


def test_a_device_that_is_not_there(tree: Path) -> None:
    with pytest.raises(SourceError, match="no device 'bmp280'"):
        iio(tree, "bmp280").open()


def test_inputs_that_do_not_fit_the_channels(tree: Path) -> None:
    with pytest.raises(ConfigError, match="one for each"):
        IioSource(
            IioConfig(device="a", inputs=("accel_x",)), ("x", "y"), clock=SystemClock(), root=tree
        )
