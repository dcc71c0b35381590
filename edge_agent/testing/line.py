"""A data line to the simulated broker."""

from __future__ import annotations

from edge_agent.contract.errors import LinkError
from edge_agent.link import Denied, Keep, Message, Received, Up, take_events
from edge_agent.testing.broker import SimulatedBroker, SimulatedLink, SimulatedPort

_EVENTS_N = 1_000


class SimulatedLine:
    """A :class:`~edge_agent.link.Line` that needs no socket; the broker acknowledges at once.

    Args:
        broker: to connect to.
    """

    def __init__(self, broker: SimulatedBroker) -> None:
        self._broker = broker
        self._link: SimulatedLink | None = None
        self._port: SimulatedPort | None = None
        self._filter = ""
        self._token = 0

    def open(self, topic_filter: str) -> None:
        """See :meth:`edge_agent.link.Line.open`."""
        self._filter = topic_filter
        self._link = self._broker.link()
        self._port = self._link.port("line")
        self._link.start()

    def receive(self, wait_s: float) -> list[Received]:
        """See :meth:`edge_agent.link.Line.receive`."""
        found: list[Received] = []
        if self._port is None:
            return found
        for event in take_events(self._port.events, n_max=_EVENTS_N, wait_s=wait_s):
            if isinstance(event, Up):
                self._port.subscribe([self._filter])
            elif isinstance(event, Denied):
                raise LinkError(f"{event.topic} ({event.reason})")
            elif isinstance(event, Message):
                topic = event.topic.encode()
                found.append(Received(event.payload, event.retained, topic=topic))
        return found

    def send(self, topic: str, payload: bytes, keep: Keep | None) -> bool:  # noqa: ARG002 - never needed here
        """See :meth:`edge_agent.link.Line.send`."""
        if self._port is None or not self._port.connected:
            return False
        self._token += 1
        self._port.publish(self._token, topic, payload)
        return True

    def close(self) -> None:
        """See :meth:`edge_agent.link.Line.close`."""
        link, self._link, self._port = self._link, None, None
        if link is not None:
            link.stop()
