"""Answers devices that ask for blobs and metadata over the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import decode
from edge_agent.contract.names import name_fault
from edge_agent.contract.requests import Part, Request, encode_part
from edge_agent.contract.topics import CHUNK_BYTES, Topics
from edge_agent.fleet.session import Session
from edge_agent.link import Message

_HEAD_BYTES: Final = 1024  # at least what stands before the bytes of a part
_NAMES_MAX: Final = 64  # of one request
_EVERYBODY: Final = "+"

Read = Callable[[str], bytes | None]
"""The bytes of a thing by its path below a repository; None when there is no such thing."""


class Responder:
    """Answers requests that come over a session. Used by one thread.

    Args:
        session: connected.
        topics: names of the topics.
        read: gives what is asked for.
    """

    def __init__(self, session: Session, topics: Topics, read: Read) -> None:
        self._session, self._topics, self._read = session, topics, read
        self.answered = 0

    def listen(self) -> None:
        """Subscribe to the requests of every device; again after every reconnect."""
        self._session.subscribe([self._topics.request(_EVERYBODY)])

    def step(self, seconds: float) -> None:
        """Wait for one request at most, and answer it.

        Raises:
            ConnectionLostError: the broker is gone.
        """
        message = self._session.receive(seconds)
        if message is not None:
            self._session.publish(self._answers(message), retain=False)

    def _answers(self, message: Message) -> Iterator[tuple[str, bytes]]:
        device = self._topics.device_of(message.topic)
        if device is None or name_fault("device", device):
            return
        try:
            names = decode(message.payload, Request).names[:_NAMES_MAX]
        except LinkError:
            return  # from outside: whoever asks so is not answered
        topic = self._topics.response(device)
        for name in names:
            self.answered += 1
            yield from ((topic, part) for part in parts_of(name, self._read(name)))


def parts_of(name: str, data: bytes | None) -> Iterator[bytes]:
    """The messages that answer for one thing."""
    if data is None:
        yield encode_part(Part(name=name, parts=0), b"")
        return
    size = CHUNK_BYTES - _HEAD_BYTES
    count = max(1, -(-len(data) // size))
    for number in range(count):
        piece = data[number * size : (number + 1) * size]
        yield encode_part(Part(name=name, part=number, parts=count), piece)
