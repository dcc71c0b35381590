"""What an action is. A new one is one file here and one line in ``actions/__init__.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

from edge_agent.contract.messages import Decision

Send = Callable[[str, bytes], None]
"""Hands a payload for a topic to the outbox; it takes microseconds and needs no connection."""

Direct = Callable[[str, bytes, Send | None], bool]
"""Sends a payload to a topic at once; see :meth:`edge_agent.link.Line.send`."""


class Action(Protocol):
    """Does something when a decision has fired.

    Attributes:
        blocking: True runs it on the action worker, whose queue is bounded; False runs it in the
            pipeline's thread, so it must take microseconds.
    """

    blocking: ClassVar[bool]

    def fire(self, decision: Decision) -> None:
        """Act on one fired decision.

        Raises:
            EdgeError: it did not work; it is counted and logged by the caller, nothing stops.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds. May be called twice.

        A blocking action may still be in ``fire``, on another thread: it should end that at once.
        """
        ...
