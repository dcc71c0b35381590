"""A broker in memory: the other implementation of :mod:`edge_agent.link`.

Everything happens inside the call that causes it, so a test owns the order of events: it may hold
acknowledgements back, lose messages, cut links, and restart the broker with or without what it
retained. Calls may come from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue

import msgspec

from edge_agent.link import Denied, Down, Event, Message, Published, Refused, Up
from edge_agent.routes import Routes, is_exact, is_topic, matches

_NOT_AUTHORISED = "Not authorized"


class Sent(msgspec.Struct, frozen=True):
    """A publish that reached the broker, allowed or not."""

    client: str
    topic: str
    payload: bytes
    retain: bool


class SimulatedBroker:
    """The broker; :meth:`link` gives connections to it.

    Args:
        protocol: 5, or 4 for MQTT 3.1.1, where a publish that is denied is acknowledged all the
            same.
        first_silence: after a restart, the first subscription to each exact topic brings no
            retained message, the second one does. Harsher than nats-server, which after a kill
            answers the first exact subscription of all with nothing.

    Attributes:
        retained: retained payloads by topic; a test may change it.
        sent: every publish that arrived, in order.
        subscriptions: every filter that was asked for, in order.
        running: False between :meth:`stop` and :meth:`start`.
        lock: held by whoever changes anything here or in a link.
    """

    def __init__(self, *, protocol: int = 5, first_silence: bool = False) -> None:
        self.protocol = protocol
        self.retained: dict[str, bytes] = {}
        self.sent: list[Sent] = []
        self.subscriptions: list[str] = []
        self.running = True
        self._first_silence = first_silence
        self._silent: set[str] | None = None  # topics asked for since the restart
        self._links: list[SimulatedLink] = []
        self._groups: dict[str, deque[SimulatedPort]] = {}
        self._denied: list[str] = []
        self._holding = False
        self._losing_n = 0
        self.lock = threading.RLock()

    def link(
        self, client_id: str = "client", *, will: tuple[str, bytes] | None = None
    ) -> SimulatedLink:
        """A new connection, to be started; the will is published, retained, when it is cut."""
        link = SimulatedLink(self, client_id, will)
        self._links.append(link)
        return link

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish as some other client would."""
        with self.lock:
            self._route(topic, payload, retain=retain)

    def cut(self, link: SimulatedLink, reason: str = "connection lost") -> None:
        """Take the network away from one link: its will is published, it sees ``Down``."""
        with self.lock:
            link.reachable = False
            if link.connected:
                link.lose(reason)
                if link.will is not None:
                    self._route(*link.will, retain=True)

    def restore(self, link: SimulatedLink) -> None:
        """Give one link its network back: it sees ``Up`` if it is started and the broker runs."""
        with self.lock:
            link.reachable = True
            link.connect()

    def stop(self, *, lose_retained: bool = False) -> None:
        """Kill the broker: every link sees ``Down``, no will is published."""
        with self.lock:
            self.running = False
            if lose_retained:
                self.retained.clear()
            for link in self._links:
                if link.connected:
                    link.lose("connection lost")

    def start(self) -> None:
        """Start the broker again: every started and reachable link sees ``Up``."""
        with self.lock:
            self.running = True
            if self._first_silence:
                self._silent = set()
            for link in self._links:
                link.connect()

    def restart(self, *, lose_retained: bool = False) -> None:
        """``stop`` and ``start``."""
        self.stop(lose_retained=lose_retained)
        self.start()

    def hold_acks(self) -> None:
        """From now on keep acknowledgements back; the messages themselves are routed."""
        self._holding = True

    def release_acks(self, n: int | None = None) -> None:
        """Send the n oldest held acknowledgements of each link; None sends all and ends it."""
        with self.lock:
            if n is None:
                self._holding = False
            for link in self._links:
                link.answer(n)

    def lose_publishes(self, n: int) -> None:
        """Let the next n publishes of links vanish: neither routed nor acknowledged."""
        self._losing_n = n

    def deny(self, topic_filter: str) -> None:
        """Refuse publishes to topics under this filter, and subscriptions to exactly it."""
        self._denied.append(topic_filter)

    def allow(self, topic_filter: str) -> None:
        """Take one :meth:`deny` back."""
        self._denied.remove(topic_filter)

    def receive(self, port: SimulatedPort, token: int, message: Sent) -> None:
        """Take a publish from a port of a link that is up."""
        if self._losing_n > 0:
            self._losing_n -= 1
            return
        self.sent.append(message)
        denied = any(matches(pattern, message.topic) for pattern in self._denied)
        if not denied:
            self._route(message.topic, message.payload, retain=message.retain)
        refused = denied and self.protocol == 5
        answer = Refused(token, _NOT_AUTHORISED) if refused else Published(token)
        port.link.answers.append((port, answer))
        if not self._holding:
            port.link.answer(None)

    def subscribe(self, port: SimulatedPort, topic_filter: str) -> None:
        """Take one subscription and answer it with what is retained."""
        self.subscriptions.append(topic_filter)
        if topic_filter in self._denied:
            port.events.put(Denied(topic_filter, _NOT_AUTHORISED))
        elif topic_filter.startswith("$share/"):
            members = self._groups.setdefault(topic_filter, deque())
            if port not in members:
                members.append(port)
        else:
            port.link.routes.add(topic_filter, port)
            self._send_retained(port.link, topic_filter)

    def unsubscribe(self, port: SimulatedPort, topic_filter: str) -> None:
        """Give one subscription of a port up."""
        port.link.routes.remove(topic_filter, port)
        if port in (members := self._groups.get(topic_filter, deque())):
            members.remove(port)

    def _send_retained(self, link: SimulatedLink, topic_filter: str) -> None:
        """Send the link what is retained under a filter; all of its ports that match get it."""
        if self._silent is not None and is_exact(topic_filter) and topic_filter not in self._silent:
            self._silent.add(topic_filter)
            return
        for topic, payload in self.retained.items():
            if matches(topic_filter, topic):
                link.deliver(Message(topic, payload, retained=True))

    def _route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Keep a retained message, and give it to every subscriber and one of each share group."""
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        message = Message(topic, payload, retained=False)
        for link in self._links:
            link.deliver(message)
        for topic_filter, members in self._groups.items():
            if members and matches(topic_filter, topic):
                members[0].events.put(message)
                members.rotate(-1)

    def forget(self, link: SimulatedLink) -> None:
        """Drop what a link that has gone had subscribed."""
        link.routes.clear()
        for members in self._groups.values():
            for port in link.ports:
                if port in members:
                    members.remove(port)


class SimulatedLink:
    """One connection, a :class:`~edge_agent.link.Link`; made by :meth:`SimulatedBroker.link`.

    Attributes:
        connected: whether it is up.
        reachable: False while it is cut.
        in_flight: (port name, token) of every publish that waits for its acknowledgement.
        in_flight_n_peak: most of them there ever were.
    """

    def __init__(
        self, broker: SimulatedBroker, client_id: str, will: tuple[str, bytes] | None
    ) -> None:
        self.broker = broker
        self.client_id = client_id
        self.will = will
        self.connected = False
        self.reachable = True
        self.in_flight: set[tuple[str, int]] = set()
        self.in_flight_n_peak = 0
        self.ports: list[SimulatedPort] = []
        self.routes: Routes[SimulatedPort] = Routes()
        self.answers: deque[tuple[SimulatedPort, Published | Refused]] = deque()
        self._started = False

    def port(self, name: str) -> SimulatedPort:
        """See :meth:`edge_agent.link.Link.port`."""
        port = SimulatedPort(self, name)
        self.ports.append(port)
        return port

    def start(self) -> None:
        """Connect at once, or say ``Down`` at once."""
        with self.broker.lock:
            self._started = True
            self.connect()
            if not self.connected:
                self._tell(Down("connection refused"))

    def stop(self, last: tuple[str, bytes] | None = None) -> None:
        """See :meth:`edge_agent.link.Link.stop`; the will is not published."""
        with self.broker.lock:
            if self.connected:
                if last is not None:
                    self.broker.publish(*last, retain=True)
                self.lose("stopped")
            self._started = False

    def connect(self) -> None:
        """Come up if that is possible now."""
        if self._started and self.reachable and self.broker.running and not self.connected:
            self.connected = True
            self._tell(Up(self.broker.protocol))

    def lose(self, reason: str) -> None:
        """Go down: what waited for an acknowledgement will not get one."""
        self.connected = False
        self.answers.clear()
        self.in_flight.clear()
        self.broker.forget(self)
        self._tell(Down(reason))

    def answer(self, n: int | None) -> None:
        """Send the n oldest acknowledgements, or all."""
        for _ in range(len(self.answers) if n is None else min(n, len(self.answers))):
            port, event = self.answers.popleft()
            self.in_flight.discard((port.name, event.token))
            port.events.put(event)

    def deliver(self, message: Message) -> None:
        """Give a message to every port with a matching filter."""
        for port in self.routes.owners(message.topic):
            port.events.put(message)

    def _tell(self, event: Up | Down) -> None:
        for port in self.ports:
            port.events.put(event)


class SimulatedPort:
    """One owner's share of a link, a :class:`~edge_agent.link.Port`."""

    def __init__(self, link: SimulatedLink, name: str) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.link = link
        self.name = name

    @property
    def connected(self) -> bool:
        """Whether the link is up at this moment."""
        return self.link.connected

    def publish(self, token: int, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """See :meth:`edge_agent.link.Port.publish`.

        Raises:
            ValueError: the token is in flight: the caller has an error.
        """
        broker, link = self.link.broker, self.link
        with broker.lock:
            if not link.connected:
                return
            if (self.name, token) in link.in_flight:
                raise ValueError(f"token {token} of port {self.name} is in flight already")
            if not is_topic(topic):
                self.events.put(Refused(token, f"{topic!r} is not a topic"))
                return
            link.in_flight.add((self.name, token))
            link.in_flight_n_peak = max(link.in_flight_n_peak, len(link.in_flight))
            broker.receive(self, token, Sent(link.client_id, topic, payload, retain))

    def subscribe(self, topics: Sequence[str]) -> None:
        """See :meth:`edge_agent.link.Port.subscribe`."""
        with self.link.broker.lock:
            for topic_filter in topics if self.link.connected else ():
                self.link.broker.subscribe(self, topic_filter)

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """See :meth:`edge_agent.link.Port.unsubscribe`."""
        with self.link.broker.lock:
            for topic_filter in topics:
                self.link.broker.unsubscribe(self, topic_filter)
