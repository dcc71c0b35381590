"""Sensors of Linux's Industrial I/O, as files in sysfs: accelerometers, ADCs, barometers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.clock import Clock
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.settings import Kind
from edge_agent.sources.pace import Polls

_ROOT: Final = Path("/sys/bus/iio/devices")


class IioConfig(Kind, frozen=True, kw_only=True, tag="iio"):
    """Poll a sensor of Linux's Industrial I/O; a value is ``(raw + offset) * scale``.

    Attributes:
        device: its name as in ``/sys/bus/iio/devices/*/name``, or its folder, ``iio:device0``.
        inputs: one for each channel, in order: ``accel_x`` for ``in_accel_x_raw``.
        rate_hz: readings per second; one that came too late is counted as an overrun.
    """

    device: Annotated[str, Meta(min_length=1, pattern=r"^[^/]+$")]
    inputs: Annotated[tuple[Annotated[str, Meta(pattern=r"^\w[\w-]*$")], ...], Meta(min_length=1)]
    rate_hz: Annotated[float, Meta(gt=0, le=10_000)] = 10.0


class IioSource:
    """Reads one file a channel at steady times.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        clock: for the pace.
        root: where the devices are.
        sleep: waits for a number of seconds.

    Raises:
        ConfigError: there is not one input for each channel.
    """

    def __init__(
        self,
        config: IioConfig,
        channels: Sequence[str],
        *,
        clock: Clock,
        root: Path = _ROOT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if len(config.inputs) != len(channels):
            raise ConfigError(
                f"inputs names {len(config.inputs)}, but there are {len(channels)} channels: "
                "name one for each, in order"
            )
        self._config = config
        self._root = root
        self._inputs: list[tuple[Path, float, float]] = []  # raw file, offset, scale
        self._polls = Polls(config.rate_hz, clock, sleep=sleep)

    def open(self) -> None:
        """Find the device and read its scales.

        Raises:
            SourceError: it or one of its inputs is not there.
        """
        folder = self._folder()
        self._inputs = [_input(folder, name) for name in self._config.inputs]
        self._polls.begin()

    def read(self, out: F32) -> int:
        """Wait for the next due time, at most 1 s, and give one reading."""
        if not self._polls.due():
            return 0
        for column, (path, offset, scale) in enumerate(self._inputs):
            out[0, column] = (_number(path) + offset) * scale
        return 1

    def close(self) -> None:
        """Nothing is held: each value is a file of its own."""

    @property
    def faults(self) -> dict[str, int]:
        """``overrun``: due times that had passed."""
        return {"overrun": self._polls.overrun}

    def _folder(self) -> Path:
        for folder in sorted(self._root.glob("iio:device*")):
            if self._config.device in {folder.name, _text(folder / "name")}:
                return folder
        raise SourceError(
            f"no device {self._config.device!r} below {self._root}: check `cat {self._root}/*/name`"
            " and the device tree overlay"
        )


def _input(folder: Path, name: str) -> tuple[Path, float, float]:
    """The raw file of an input with its offset and scale, its own or those of its kind."""
    raw = folder / f"in_{name}_raw"
    _number(raw)
    kind = name.rpartition("_")[0] or name.rstrip("0123456789")
    return (
        raw,
        _shared(folder, name, kind, "offset", 0.0),
        _shared(folder, name, kind, "scale", 1.0),
    )


def _shared(folder: Path, name: str, kind: str, what: str, default: float) -> float:
    for stem in (name, kind):
        path = folder / f"in_{stem}_{what}"
        if path.exists():
            return _number(path)
    return default


def _number(path: Path) -> float:
    text = _text(path)
    try:
        return float(text)
    except ValueError as exc:
        raise SourceError(f"{path}: {text!r} is not a number: is this the right input?") from exc


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as exc:
        raise SourceError(f"{path}: {exc.strerror}: check the wiring and the driver") from exc
