"""A synchronous view of a broker connection, for commands that ask and answer in turn."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from queue import Empty
from typing import Final, Self

from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import LinkError
from edge_agent.link import Denied, Down, Link, Message, Published, Refused, Up
from edge_agent.mqtt import MqttLink

FILTERS_MAX: Final = 8
"""Topics asked for at once: the strictest hosted brokers allow no more in one SUBSCRIBE."""

_ASKS: Final = 2  # NATS answers the first exact subscription after a restart with nothing
_INBOX_N_MAX: Final = 10_000  # beyond it the oldest go: what is shown live may have gaps
_PUBACK_S: Final = 30.0


class ConnectionLostError(LinkError):
    """The connection went away in the middle; connect again and start over."""


class Session:
    """One owner of a link, which it starts and stops. Used by one thread.

    Args:
        link: not started yet.
        in_flight_n_max: publishes that may wait for the broker's acknowledgement.
    """

    def __init__(self, link: Link, *, in_flight_n_max: int = 10) -> None:
        self._link = link
        self._port = link.port("fleet")
        self._in_flight_n_max = in_flight_n_max
        self._in_flight: set[int] = set()
        self._tokens = count(1)
        self._inbox: deque[Message] = deque(maxlen=_INBOX_N_MAX)
        self._up = False
        self._reason = "no answer"

    def __enter__(self) -> Self:
        self._link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._link.stop()

    def connect(self, seconds: float) -> None:
        """Wait until the link is up; what an earlier connection subscribed is gone.

        Raises:
            LinkError: not connected in time, with the last reason.
        """
        deadline = time.monotonic() + seconds
        self._inbox.clear()
        while not self._up:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LinkError(
                    f"no connection to the broker within {seconds:g} s: {self._reason} "
                    "(give its address by --broker)"
                )
            try:
                self._step(left)
            except ConnectionLostError:
                continue  # the link tries again by itself until our deadline

    def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for live and retained messages, which :meth:`receive` gives."""
        self._port.subscribe(filters)

    def receive(self, seconds: float) -> Message | None:
        """The next message; None when none came in time.

        Raises:
            ConnectionLostError: the broker is gone.
        """
        deadline = time.monotonic() + seconds
        while not self._inbox:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._step(left)
        return self._inbox.popleft()

    def ask(self, topics: Sequence[str], seconds: float) -> dict[str, bytes]:
        """Read retained messages by their exact topics, in windows, each asked for twice.

        Args:
            topics: without wildcards.
            seconds: how long one window may take when something in it is absent.

        Returns:
            Payloads by topic; a topic that nothing is retained on is left out.

        Raises:
            ConnectionLostError: the broker is gone.
        """
        answers: dict[str, bytes] = {}
        for at in range(0, len(topics), FILTERS_MAX):
            window = topics[at : at + FILTERS_MAX]
            for _ in range(_ASKS):
                missing = [topic for topic in window if topic not in answers]
                if missing:
                    answers |= self._ask_once(missing, seconds / _ASKS)
        return answers

    def ask_all(self, filters: Sequence[str], seconds: float) -> dict[str, bytes]:
        """Read whatever is retained under wildcards, asking twice.

        Args:
            filters: topic filters.
            seconds: the longest that it may take; half of it when nothing comes.

        Raises:
            ConnectionLostError: the broker is gone.
        """
        answers: dict[str, bytes] = {}
        for _ in range(_ASKS):
            deadline = time.monotonic() + seconds / _ASKS
            with self._subscribed(filters):
                while left := max(0.0, deadline - time.monotonic()):
                    message = self.receive(min(left, seconds / _ASKS / 2))
                    if message is None:
                        break
                    answers[message.topic] = message.payload
        return answers

    def publish(self, messages: Iterable[tuple[str, bytes]], *, retain: bool) -> None:
        """Publish (topic, payload) pairs in a bounded window, until all are acknowledged.

        Raises:
            ConnectionLostError: the broker is gone.
            LinkError: the broker refuses a message, or leaves it without an answer.
        """
        self._in_flight.clear()
        for topic, payload in messages:
            self._wait_in_flight(self._in_flight_n_max - 1)
            token = next(self._tokens)
            self._in_flight.add(token)
            self._port.publish(token, topic, payload, retain=retain)
        self._wait_in_flight(0)

    # --- helpers ---------------------------------------------------------------------------------

    def _ask_once(self, topics: Sequence[str], seconds: float) -> dict[str, bytes]:
        answers: dict[str, bytes] = {}
        others: list[Message] = []  # of other subscriptions: kept for whoever made them
        with self._subscribed(topics):
            deadline = time.monotonic() + seconds
            while len(answers) < len(topics):
                message = self.receive(deadline - time.monotonic())
                if message is None:
                    break
                if message.topic not in topics:
                    others.append(message)
                elif message.retained:
                    answers[message.topic] = message.payload
        self._inbox.extendleft(reversed(others))
        return answers

    @contextmanager
    def _subscribed(self, topics: Sequence[str]) -> Iterator[None]:
        self._port.subscribe(topics)
        yield
        # Not after an error: then the connection, and the subscription with it, is gone.
        self._port.unsubscribe(topics)

    def _wait_in_flight(self, allowed: int) -> None:
        deadline = time.monotonic() + _PUBACK_S
        while len(self._in_flight) > allowed:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LinkError(
                    f"the broker has not acknowledged a message for {_PUBACK_S:g} s: "
                    "check its access rules and its limit on message size"
                )
            self._step(left)

    def _step(self, seconds: float) -> None:
        """Take in one event, or none within ``seconds``."""
        try:
            event = self._port.events.get(timeout=max(0.0, seconds))
        except Empty:
            return
        match event:
            case Up():
                self._up = True
            case Down(reason):
                self._up = False
                self._reason = reason
                raise ConnectionLostError(f"the broker is gone: {reason}")
            case Published(token):
                self._in_flight.discard(token)
            case Refused(token, reason):
                raise LinkError(f"the broker refuses it: {reason}: check its access rules")
            case Denied(topic, reason):
                raise LinkError(f"the broker forbids to read {topic}: {reason}: allow it")
            case Message():
                self._inbox.append(event)


def open_session(config: BrokerConfig) -> Session:
    """A session over MQTT with a client id of its own."""
    return Session(MqttLink(config, client_id=f"edge-fleet-{secrets.token_hex(6)}"))
