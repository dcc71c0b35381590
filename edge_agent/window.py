"""The last readings as one contiguous array, without copying them together for each window.

Every row is written twice, ``length`` rows apart, into a buffer of ``2 * length`` rows. So the
last ``length`` rows lie side by side somewhere in it at any time: a window is a view.
"""

from __future__ import annotations

import numpy as np

from edge_agent.arrays import F32


class Window:
    """A sliding window over readings. Used by one thread.

    Args:
        length: readings in a window, at least 1.
        hop: readings from one due window to the next, at least 1; may exceed ``length``.
        channels: values in a reading.

    Attributes:
        view: the window that was due last: float32 (length, channels), newest reading last. It is
            no copy: it is good until the next push.
    """

    def __init__(self, length: int, hop: int, channels: int) -> None:
        self.length = length
        self.hop = hop
        buffer = np.zeros((2, length, channels), np.float32)
        flat = buffer.reshape(2 * length, channels)
        # Views are made once: making one costs more than the write through it.
        self._rows = [buffer[:, at] for at in range(length)]
        self._views = [flat[at + 1 : at + 1 + length] for at in range(length)]
        self._at = length - 1  # where the newest row is
        self._full = False
        self._until = length  # pushes until a window is due
        self.view: F32 = self._views[self._at]

    def push(self, row: F32) -> bool:
        """Take one reading in.

        Args:
            row: float32 (channels,).

        Returns:
            Whether a window is due: the first as soon as ``length`` readings are there, then one
            every ``hop`` readings.
        """
        at = self._at + 1
        if at == self.length:
            at = 0
        self._at = at
        self._rows[at][...] = row
        self._until -= 1
        if self._until:
            return False
        self._until = self.hop
        self._full = True
        self.view = self._views[at]
        return True

    def clear(self) -> None:
        """Forget all readings: the next window is due after ``length`` more."""
        self._full = False
        self._until = self.length

    def resized(self, length: int, hop: int) -> Window:
        """This window with another length and hop, its newest readings kept.

        Returns:
            Itself when nothing changes, so that windows stay due when they would have been. Else a
            new one, whose next window is due as soon as it has readings enough, or, if it has
            them already, when this one's would have been, but after ``hop`` readings at most.
        """
        if (length, hop) == (self.length, self.hop):
            return self
        other = Window(length, hop, self.view.shape[1])
        for row in self._history()[-length:]:
            other.push(row)
        if other._full:
            other._until = min(self._until, hop)
        return other

    def _history(self) -> F32:
        """The readings so far, at most ``length``, oldest first."""
        filled = self.length if self._full else self.length - self._until
        return self._views[self._at][self.length - filled :]
