"""What the agent needs of a broker connection; :mod:`edge_agent.mqtt` has the real one.

One link is shared by several owners, each on its own thread. An owner takes a :class:`Port`
before the link starts; what happens to that owner's publishes and subscriptions comes out of its
port's queue, and connection changes come out of every port's queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol

import msgspec


class Up(msgspec.Struct, frozen=True):
    """Connected. Nothing that an earlier connection subscribed or published holds any more.

    Attributes:
        protocol: 5 or 4 (MQTT 3.1.1).
    """

    protocol: int


class Down(msgspec.Struct, frozen=True):
    """Disconnected, or an attempt to connect failed; the link keeps trying by itself."""

    reason: str


class Published(msgspec.Struct, frozen=True):
    """The broker has taken the message (PUBACK). That says nothing about what it keeps."""

    token: int


class Refused(msgspec.Struct, frozen=True):
    """The broker refused the message (MQTT 5 reason code of 128 and above)."""

    token: int
    reason: str


class Denied(msgspec.Struct, frozen=True):
    """The broker refused a subscription; nothing will come for this filter on this connection."""

    topic: str
    reason: str


class Message(msgspec.Struct, frozen=True):
    """A message arrived on a subscription of this port.

    Attributes:
        retained: the broker had kept it; False for one published while we were subscribed.
    """

    topic: str
    payload: bytes
    retained: bool


Event = Up | Down | Published | Refused | Denied | Message


class Port(Protocol):
    """One owner's share of the link. Every call may be made from any thread and never waits.

    Whoever subscribes keeps reading ``events``: while a port that has subscribed leaves very many
    unread, the link fetches nothing more from the broker, for any port.
    """

    events: SimpleQueue[Event]

    @property
    def connected(self) -> bool:
        """Whether the link is up at this moment."""
        ...

    def publish(self, token: int, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send with QoS 1. ``Published`` or ``Refused`` with this token follows, or ``Down``.

        The caller keeps to its in-flight cap, chooses tokens that are not in flight, and sends
        again after ``Down``: the link holds nothing back for it. A new token for each publish is
        best, since one made while a ``Down`` and an ``Up`` are still unread is answered after both.
        """
        ...

    def subscribe(self, topics: Sequence[str]) -> None:
        """Ask for these filters at QoS 1. Subscribing again asks for retained messages again."""
        ...

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Give filters up; messages already on their way may still come."""
        ...


def take_events(events: SimpleQueue[Event], *, n_max: int, wait_s: float = 0.0) -> Iterator[Event]:
    """What waits in a port's queue, at most ``n_max``; only the first is waited for.

    The bound is needed: more may arrive all the time.
    """
    with suppress(Empty):
        yield events.get(timeout=wait_s) if wait_s > 0 else events.get_nowait()
        for _ in range(n_max - 1):
            yield events.get_nowait()


class Link(Protocol):
    """A connection that keeps itself up between ``start`` and ``stop``."""

    def port(self, name: str) -> Port:
        """A new port, to be taken before ``start``; ``name`` is for log messages."""
        ...

    def start(self) -> None:
        """Begin to connect, in the background."""
        ...

    def stop(self, last: tuple[str, bytes] | None = None) -> None:
        """Publish ``last`` (topic, payload) retained if connected, then disconnect in order.

        Waits at most 2 s.
        """
        ...


Keep = Callable[[str, bytes], None]
"""Takes a topic and a payload that could not be delivered at once."""


class Received(NamedTuple):
    """A message of a line's one subscription.

    Attributes:
        payload: of the message.
        retained: the broker had kept it.
        packet_id: 0 at QoS 0; otherwise the line acknowledges it.
        topic: as it came, UTF-8.
    """

    payload: bytes
    retained: bool
    packet_id: int = 0
    topic: bytes = b""


class Line(Protocol):
    """A connection of one thread's own, for data: one subscription in, messages out at once.

    Every call comes from the same thread.
    """

    def open(self, topic_filter: str) -> None:
        """Begin to connect, in the background, and subscribe at QoS 1.

        Raises:
            ConfigError: the connection is configured wrongly.
        """
        ...

    def receive(self, wait_s: float) -> Sequence[Received]:
        """Send what waits, and give what has come, waiting for it at most ``wait_s``.

        A lost connection is made again by itself; until then nothing comes.

        Raises:
            LinkError: the broker denies the subscription; the line is to be closed.
        """
        ...

    def send(self, topic: str, payload: bytes, keep: Keep | None) -> bool:
        """Send at once, or together with what is sent within the same moment.

        Args:
            topic: to publish to.
            payload: of the message.
            keep: sends at QoS 1; called, later and from the same thread, if the broker does not
                acknowledge the message in time. None sends at QoS 0.

        Returns:
            False when it was not taken: there is no connection, or the broker does not keep up.
        """
        ...

    def close(self) -> None:
        """Disconnect in order; what is not acknowledged is kept. Waits at most 1 s."""
        ...
