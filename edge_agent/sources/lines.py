"""Bytes as they come, cut into lines."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.sources.inbox import Inbox


class Lines:
    """Puts whole lines into an inbox, and counts those that are too long or half. One thread.

    Args:
        inbox: of the readings, one a line.
        bytes_max: a longer line is left out and counted as torn.
        mend: turns a line into the JSON that it means.
    """

    def __init__(
        self, inbox: Inbox, bytes_max: int, *, mend: Callable[[bytes], bytes] | None = None
    ) -> None:
        self._inbox = inbox
        self._bytes_max = bytes_max
        self._mend = mend
        self.begin()

    def begin(self, *, within: bool = False) -> None:
        """Start anew; ``within`` a line whose rest is of no use and will be counted as torn."""
        self._partial = b""
        self._skipping = within  # up to the next end of a line

    def feed(self, chunk: bytes) -> None:
        """Take the lines that a chunk ends, and keep the begin of the next."""
        lines = (self._partial + chunk).split(b"\n")
        self._partial = lines.pop()
        for line in lines:
            if self._skipping or len(line) > self._bytes_max:
                self._skipping = False
                self._inbox.torn()
            elif line.strip():
                self._inbox.take(self._mend(line) if self._mend else line)
        if len(self._partial) > self._bytes_max:
            self.begin(within=True)

    def cut(self) -> None:
        """What comes next does not continue what came before: a line that was begun is torn."""
        if self._partial or self._skipping:
            self._inbox.torn()
        self.begin()
