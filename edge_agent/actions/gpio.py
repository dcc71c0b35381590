"""A pin of a Raspberry Pi: a relay, a lamp, a horn."""

from __future__ import annotations

import threading
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from edge_agent.contract.errors import ActionError
from edge_agent.contract.messages import Decision
from edge_agent.settings import Kind


class GpioConfig(Kind, frozen=True, kw_only=True, tag="gpio"):
    """Switch a pin by gpiozero; needs the extra ``gpio``, and on the Pi a library for its pins.

    The pin is taken with the first decision that fires, and let go when the agent stops: what it
    switches must be safe without it.

    Attributes:
        pin: number as of the chip (``17``) or a name (``GPIO17``, ``BOARD11``).
        do: ``on``, ``off``, or ``pulse``, on for ``pulse_ms`` and off again.
        pulse_ms: length of a pulse; other blocking actions of the pipeline wait meanwhile.
        active_high: False for relays that are on while the pin is low.
    """

    pin: int | str
    do: Literal["on", "off", "pulse"] = "pulse"
    pulse_ms: Annotated[float, Meta(gt=0, le=10_000)] = 200.0
    active_high: bool = True


class GpioAction:
    """Takes the pin at its first firing. The action worker's thread; close from any.

    Args:
        config: what the configuration file says.
        pin_factory: of gpiozero; None lets it find the machine's.
    """

    blocking: ClassVar[bool] = True  # a pulse lasts, and the first firing imports gpiozero

    def __init__(self, config: GpioConfig, *, pin_factory: Any = None) -> None:
        self._config = config
        self._factory = pin_factory
        self._closed = threading.Event()
        self._lock = threading.Lock()  # of the device
        self._device: Any = None

    def fire(self, decision: Decision) -> None:  # noqa: ARG002 - every decision does the same
        """Switch the pin.

        Raises:
            ActionError: gpiozero is not installed, or the pin is not there or not free.
        """
        self._switch(on=self._config.do != "off")
        if self._config.do == "pulse":
            self._closed.wait(self._config.pulse_ms / 1000)
            self._switch(on=False)

    def close(self) -> None:
        """End a pulse and let the pin go."""
        self._closed.set()
        with self._lock:
            device, self._device = self._device, None
            if device is not None:
                device.close()

    def _switch(self, *, on: bool) -> None:
        with self._lock:
            if self._closed.is_set():
                return  # the pin has been let go
            if self._device is None:
                self._device = self._take()
            self._device.value = on

    def _take(self) -> Any:
        try:
            import gpiozero  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise ActionError("pins need: pip install 'edge-agent[gpio]'") from exc
        try:
            return gpiozero.DigitalOutputDevice(
                self._config.pin,
                active_high=self._config.active_high,
                pin_factory=self._factory,
            )
        except (gpiozero.GPIOZeroError, OSError) as exc:
            raise ActionError(
                f"pin {self._config.pin}: {exc}: check its name, that nothing else uses it, and "
                "that python3-lgpio (or the package lgpio) is installed"
            ) from exc
