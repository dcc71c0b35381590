"""A client of the test's own, which hears what the programs say over the broker."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from queue import Empty
from types import TracebackType
from typing import Self

from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import Status, decode
from edge_agent.contract.topics import Topics
from edge_agent.link import Message, Published, Up
from edge_agent.mqtt import MqttLink

from .processes import wait_for

TOPICS = Topics("edge")


class Ears:
    """Subscribes to filters at every connection, and can publish.

    Nothing is taken in between two calls, so a test that looks seldom hears late, not less.
    """

    def __init__(self, broker: BrokerConfig, filters: Sequence[str] = ()) -> None:
        self._link = MqttLink(broker, client_id=f"ears-{secrets.token_hex(4)}")
        self._port = self._link.port("ears")
        self._filters = list(filters)
        self._messages: list[Message] = []
        self._unanswered: set[int] = set()
        self._token = 0

    def __enter__(self) -> Self:
        self._link.start()
        wait_for(self._is_up, "a connection of the test's own")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._link.stop()

    @property
    def messages(self) -> list[Message]:
        """Everything heard so far."""
        self._take_in()
        return self._messages

    def payloads(self, topic: str) -> list[bytes]:
        return [message.payload for message in self.messages if message.topic == topic]

    def statuses(self, device: str = "pi-1") -> list[Status]:
        """Every status that was heard, oldest first."""
        return [decode(payload, Status) for payload in self.payloads(TOPICS.status(device))]

    def status(self, device: str = "pi-1") -> Status:
        """The newest one.

        Raises:
            LinkError: none was heard yet.
        """
        if found := self.statuses(device):
            return found[-1]
        raise LinkError(f"{device} has not said anything")

    def publish(self, messages: Iterable[tuple[str, bytes]], *, retain: bool = False) -> None:
        """Publish (topic, payload) pairs; the broker has acknowledged them on return."""
        for topic, payload in messages:
            wait_for(lambda: len(self._open()) < 10, "acknowledgements of the broker")
            self._token += 1
            self._unanswered.add(self._token)
            self._port.publish(self._token, topic, payload, retain=retain)
        wait_for(lambda: not self._open(), "acknowledgements of the broker")

    def _open(self) -> set[int]:
        self._take_in()
        return self._unanswered

    def _is_up(self) -> bool:
        self._take_in()
        return self._port.connected

    def _take_in(self) -> None:
        while True:
            try:
                event = self._port.events.get_nowait()
            except Empty:
                return
            if isinstance(event, Up) and self._filters:
                self._port.subscribe(self._filters)
            elif isinstance(event, Message):
                self._messages.append(event)
            elif isinstance(event, Published):
                self._unanswered.discard(event.token)
