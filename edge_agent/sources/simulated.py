"""A made-up sensor, for trying things out without one."""

from __future__ import annotations

from edge_agent.settings import Kind


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

    rate_hz: float | None = 10.0
    frequency_hz: float = 1.0
    amplitude: float = 1.0
    noise: float = 0.1
    seed: int = 0
    readings: int | None = None
