"""Pins of a Raspberry Pi as inputs: levels, and edges counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.clock import Clock
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.settings import Kind, Settings
from edge_agent.sources.pace import Polls


class GpioInput(Settings, frozen=True, kw_only=True):
    """One pin.

    Attributes:
        pin: number as of the chip (``17``) or a name (``GPIO17``, ``BOARD11``).
        give: ``level``, 1 while the pin is active, else 0; ``count``, how often it became active
            since the reading before, as of a pulse meter.
        pull: resistor inside the chip. With ``up`` the pin is active when it is pulled low.
        bounce_ms: changes that follow another within this time are left out.
    """

    pin: int | str
    give: Literal["level", "count"] = "level"
    pull: Literal["up", "down", "none"] = "down"
    bounce_ms: Annotated[float, Meta(gt=0, le=1000)] | None = None


class GpioConfig(Kind, frozen=True, kw_only=True, tag="gpio"):
    """Read pins by gpiozero; needs the extra ``gpio``, and on the Pi a library for its pins.

    Attributes:
        inputs: one for each channel, in order.
        rate_hz: readings per second; one that came too late is counted as an overrun.
    """

    inputs: Annotated[tuple[GpioInput, ...], Meta(min_length=1)]
    rate_hz: Annotated[float, Meta(gt=0, le=10_000)] = 10.0


class GpioSource:
    """Reads levels at steady times; edges are counted by gpiozero's thread.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        clock: for the pace.
        pin_factory: of gpiozero; None lets it find the machine's.
        sleep: waits for a number of seconds.

    Raises:
        ConfigError: there is not one input for each channel.
    """

    def __init__(
        self,
        config: GpioConfig,
        channels: Sequence[str],
        *,
        clock: Clock,
        pin_factory: Any = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if len(config.inputs) != len(channels):
            raise ConfigError(
                f"inputs has {len(config.inputs)}, but there are {len(channels)} channels: "
                "give one for each, in order"
            )
        self._config = config
        self._factory = pin_factory
        self._polls = Polls(config.rate_hz, clock, sleep=sleep)
        self._devices: list[Any] = []
        self._values: list[Callable[[], float]] = []

    def open(self) -> None:
        """Take the pins.

        Raises:
            SourceError: gpiozero is not installed, or a pin is not there or not free.
        """
        self.close()
        try:
            import gpiozero  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise SourceError("pins need: pip install 'edge-agent[gpio]'") from exc
        for item in self._config.inputs:
            try:
                self._take(item, gpiozero.DigitalInputDevice)
            except (gpiozero.GPIOZeroError, OSError) as exc:
                self.close()
                raise SourceError(
                    f"pin {item.pin}: {exc}: check its name, that nothing else uses it, and that "
                    "python3-lgpio (or the package lgpio) is installed"
                ) from exc
        self._polls.begin()

    def read(self, out: F32) -> int:
        """Wait for the next due time, at most 1 s, and give one reading."""
        if not self._polls.due():
            return 0
        out[0] = [value() for value in self._values]
        return 1

    def close(self) -> None:
        """Let the pins go."""
        for device in self._devices:
            device.close()
        self._devices, self._values = [], []

    @property
    def faults(self) -> dict[str, int]:
        """``overrun``: due times that had passed."""
        return {"overrun": self._polls.overrun}

    def _take(self, item: GpioInput, make: Callable[..., Any]) -> None:
        pulled = item.pull != "none"
        device = make(
            item.pin,
            pull_up=item.pull == "up" if pulled else None,
            active_state=None if pulled else True,
            bounce_time=item.bounce_ms / 1000 if item.bounce_ms else None,
            pin_factory=self._factory,
        )
        self._devices.append(device)
        if item.give == "level":
            self._values.append(lambda: float(device.value))
            return
        edges = _Edges()
        device.when_activated = edges.count
        self._values.append(edges.take)


class _Edges:
    """How often a pin became active; counted on one thread, taken on another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def count(self) -> None:
        with self._lock:
            self._count += 1

    def take(self) -> float:
        """The count since the last call."""
        with self._lock:
            count, self._count = self._count, 0
        return float(count)
