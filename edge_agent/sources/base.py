"""What a source is. A new one is one file here and one line in ``sources/__init__.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edge_agent.arrays import F32


class Source(Protocol):
    """Gives readings: rows of one value for each channel, float32, in the channels' units.

    All calls come from the pipeline's thread, but for ``faults``, which may be read from any.
    """

    def open(self) -> None:
        """Get hold of the sensor. Imports of hardware modules happen here.

        Raises:
            SourceError: it is not there; the message says what to check.
        """
        ...

    def read(self, out: F32) -> int:
        """Fill ``out[:n]`` with the next readings and return n.

        Blocks until there is at least one reading, at most 1 s; 0 then means "none yet". Returns
        at once with what is there: it never waits to fill ``out``. A value that the sensor did
        not give is NaN.

        Args:
            out: shape (block, channels).

        Raises:
            SourceError: the sensor is gone for good.
            EOFError: the recording or the stream has ended.
        """
        ...

    def close(self) -> None:
        """Let the sensor go. May be called twice, and without ``open``."""
        ...

    @property
    def faults(self) -> dict[str, int]:
        """Readings that never became a row, by reason.

        Reasons: ``torn`` (not decodable), ``malformed`` (wrong channels), ``overrun`` (came
        faster than they were read), ``stale`` (kept by a broker for nobody knows how long).
        """
        ...


class SensorSource(Source, Protocol):
    """A source that gives readings of many sensors of one kind."""

    @property
    def sensors(self) -> Sequence[str]:
        """Which sensor each row of the last ``read`` came from; as many as it gave rows."""
        ...


class StampedSource(Source, Protocol):
    """A source whose readings say when they were taken; see ``aligned``."""

    @property
    def stamps(self) -> Sequence[float]:
        """When each row of the last ``read`` was taken, in seconds since 1970.

        As many as it gave rows; empty when the readings are not asked for their time.
        """
        ...
