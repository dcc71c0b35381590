"""The windows of many sensors in one array, filled and read for many sensors at once.

Each sensor has a ring as in :mod:`edge_agent.window`: every row is written twice, so that its last
``length`` rows lie side by side. One call of numpy serves all sensors that a reading came from.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from edge_agent.arrays import F32

Numbers = NDArray[np.intp]


class Rings:
    """A sliding window for each of many sensors. Used by one thread.

    Args:
        sensors: how many there may be.
        length: readings in a window, at least 1.
        hop: readings from one due window to the next, at least 1.
        channels: values in a reading.
    """

    def __init__(self, sensors: int, length: int, hop: int, channels: int) -> None:
        self.length = length
        self.hop = hop
        self._rows: F32 = np.zeros((sensors * 2 * length, channels), np.float32)
        step = self._rows.strides[0]
        self._views: F32 = as_strided(  # [first row]: the window that begins there
            self._rows,
            (len(self._rows) - length + 1, length, channels),
            (step, *self._rows.strides),
            writeable=False,
        )
        self._first = np.arange(sensors) * 2 * length  # row of each sensor's ring
        self._at = np.full(sensors, length - 1)  # where its newest reading is
        self._filled = np.zeros(sensors, np.intp)  # readings since it was cleared, up to length
        self._until = np.full(sensors, length)  # readings until a window is due

    def push(self, sensors: Numbers, rows: F32) -> NDArray[np.bool_]:
        """Take in one reading of each of some sensors.

        Args:
            sensors: numbers, none twice.
            rows: float32 (len(sensors), channels).

        Returns:
            For each of them whether its window is due, by the rule of ``Window.push``.
        """
        at = self._at[sensors] + 1
        at[at == self.length] = 0
        self._at[sensors] = at
        first = self._first[sensors] + at
        self._rows[first] = rows
        self._rows[first + self.length] = rows
        self._filled[sensors] = np.minimum(self._filled[sensors] + 1, self.length)
        until = self._until[sensors] - 1
        due: NDArray[np.bool_] = until == 0
        until[due] = self.hop
        self._until[sensors] = until
        return due

    def copy(self, sensors: Numbers, out: F32) -> None:
        """Copy the newest windows of some sensors to ``out``, float32 (n, length, channels)."""
        out[...] = self._views[self._first[sensors] + self._at[sensors] + 1]

    def clear(self) -> None:
        """Forget all readings."""
        self._filled[:] = 0
        self._until[:] = self.length

    def resized(self, length: int, hop: int) -> Rings:
        """These rings with another length and hop, the newest readings kept.

        Returns:
            Itself when nothing changes; else new ones, due by the rule of ``Window.resized``.
        """
        if (length, hop) == (self.length, self.hop):
            return self
        sensors = np.arange(len(self._at))
        other = Rings(len(sensors), length, hop, self._rows.shape[1])
        for age in range(min(length, self.length) - 1, -1, -1):  # oldest first
            old = sensors[self._filled > age]
            row = self._first[old] + self._at[old] + self.length - age
            other.push(old, self._rows[row])
        full = other._filled == length
        other._until[full] = np.minimum(self._until[full], hop)
        return other
