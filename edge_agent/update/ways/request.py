"""Requests over the broker, answered by ``edge-fleet serve``: for brokers that retain little."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import encode
from edge_agent.contract.requests import Request, decode_part
from edge_agent.contract.topics import CHUNK_BYTES, Topics
from edge_agent.link import Event, Message, Port, Up
from edge_agent.update.ways.base import Answer, Want

log = logging.getLogger(__name__)

_NAMES_N: Final = 64  # in one request


class RequestWay:
    """See :class:`.base.Way`.

    Args:
        port: of the link.
        topics: names of the topics.
        device: this device's id.
    """

    def __init__(self, port: Port, topics: Topics, device: str) -> None:
        self._port = port
        self._request, self._response = topics.request(device), topics.response(device)
        self._wants: dict[str, Want] = {}
        self._parts: dict[str, dict[int, bytes]] = {}
        self._answers: list[Answer] = []
        self._subscribed = False
        self._token = 0

    @property
    def ready(self) -> bool:
        """Whether the link is up."""
        return self._port.connected

    def ask(self, wants: Sequence[Want]) -> None:
        """Publish requests."""
        if not self._subscribed:
            self._subscribed = True
            self._port.subscribe([self._response])
        self._wants |= {want.name: want for want in wants}
        for at in range(0, len(wants), _NAMES_N):
            names = tuple(want.name for want in wants[at : at + _NAMES_N])
            self._token += 1
            self._port.publish(self._token, self._request, encode(Request(names=names)))

    def drop(self, wants: Sequence[Want]) -> None:
        """What still comes of these is ignored."""
        for want in wants:
            self._wants.pop(want.name, None)
            self._parts.pop(want.name, None)

    def take(self, event: Event) -> bool:
        """Take parts of answers."""
        match event:
            case Up():
                self._subscribed = False
                self._wants.clear()  # whoever wants them asks again
                self._parts.clear()
            case Message(topic=self._response, payload=payload):
                self._on_part(payload)
                return True
        return False

    def answers(self) -> list[Answer]:
        """What has come."""
        answers, self._answers = self._answers, []
        return answers

    def news(self) -> bool:
        """It cannot tell."""
        return False

    def close(self) -> None:
        """Nothing is held."""

    def _on_part(self, payload: bytes) -> None:
        try:
            part, content = decode_part(payload)
        except LinkError as exc:
            log.warning("an answer is ignored: %s", exc)
            return
        want = self._wants.get(part.name)
        if want is None or not self._fits(want, part.part, part.parts):
            return
        parts = self._parts.setdefault(part.name, {})
        if part.parts:
            parts[part.part] = content
        if len(parts) < part.parts:
            return
        data = b"".join(parts[number] for number in sorted(parts)) if part.parts else None
        self._answers.append(Answer(want, data))
        self.drop([want])

    @staticmethod
    def _fits(want: Want, part: int, parts: int) -> bool:
        """Whether a part can belong to what is wanted: hostile answers must not fill the memory."""
        return not parts or (0 <= part < parts <= want.bytes // CHUNK_BYTES * 2 + 2)
