"""A recording (CSV or NPZ) as a source, at its own speed or as fast as possible."""

from __future__ import annotations

from edge_agent.settings import Kind


class ReplayConfig(Kind, frozen=True, kw_only=True, tag="replay"):
    """Replay a recording.

    Attributes:
        path: ``.csv`` with a header that names the channels, or ``.npz``; relative to the
            configuration file.
        array: for NPZ, the array to read: shape (readings, channels).
        rate_hz: readings per second; None gives them as fast as they are taken.
        loop: begin again at the end, without end.
    """

    path: str
    array: str = "signal"
    rate_hz: float | None = None
    loop: bool = False
