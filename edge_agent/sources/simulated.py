"""A made-up sensor, for trying things out without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import numpy as np
from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.clock import Clock
from edge_agent.settings import Kind
from edge_agent.sources.pace import Pace

_RATE_HZ: Final = 100.0  # of the sine, when there is no pace


class SimulatedConfig(Kind, frozen=True, kw_only=True, tag="simulated"):
    """Sine waves with noise, a different phase for each channel; the same seed, the same readings.

    Attributes:
        rate_hz: readings per second; None gives them as fast as they are taken.
        frequency_hz: of the sine, at ``rate_hz`` (100 when that is None).
        amplitude: of the sine.
        noise: standard deviation of the noise.
        seed: of the noise.
        readings: stop after this many; None never stops.
    """

    rate_hz: Annotated[float, Meta(gt=0)] | None = 10.0
    frequency_hz: float = 1.0
    amplitude: float = 1.0
    noise: Annotated[float, Meta(ge=0)] = 0.1
    seed: Annotated[int, Meta(ge=0)] = 0
    readings: Annotated[int, Meta(ge=0)] | None = None


class SimulatedSource:
    """Reading k, channel c: ``amplitude * sin(2 pi (k * frequency / rate + c / channels))``.

    Normal noise is added. The readings do not depend on how many are taken at once.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        clock: for the pace.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        config: SimulatedConfig,
        channels: Sequence[str],
        *,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config = config
        self._turns_per_reading = config.frequency_hz / (config.rate_hz or _RATE_HZ)
        self._phase = np.arange(len(channels)) / len(channels)
        self._clock = clock
        self._sleep = sleep
        self._begin()

    def open(self) -> None:
        """Begin with reading 0, which is due at once."""
        self._begin()

    def read(self, out: F32) -> int:
        """Give the readings that are due."""
        left = len(out)
        if self._config.readings is not None:
            left = min(left, self._config.readings - self._next)
            if left == 0:
                raise EOFError(f"all {self._config.readings} readings have been given")
        count = self._pace.take(left)
        numbers = np.arange(self._next, self._next + count)[:, np.newaxis]
        turns = np.mod(numbers * self._turns_per_reading, 1.0) + self._phase
        sine = self._config.amplitude * np.sin(2 * np.pi * turns)
        out[:count] = sine + self._config.noise * self._random.standard_normal(sine.shape)
        self._next += count
        return count

    def close(self) -> None:
        """There is nothing to let go."""

    @property
    def faults(self) -> dict[str, int]:
        """None: nothing goes wrong here."""
        return {}

    def _begin(self) -> None:
        self._next = 0
        self._random = np.random.default_rng(self._config.seed)
        self._pace = Pace(self._config.rate_hz, self._clock, sleep=self._sleep)
