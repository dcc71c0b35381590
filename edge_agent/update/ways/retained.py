"""Retained messages: one upload on the broker serves every device, the operator may be offline.

A blob has a topic of its own, subscribed exactly: wildcards over many retained messages lose some.
The metadata are blobs too. One retained message, the index, says which blobs make up which file;
it is a hint that nobody trusts, it answers at once that a file does not exist, and its change is
the sign that there are new metadata.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import decode
from edge_agent.contract.requests import TrustIndex
from edge_agent.contract.topics import CHUNK_BYTES, Topics
from edge_agent.link import Event, Message, Port, Up
from edge_agent.update.ways.base import Answer, Blob, File, Want

log = logging.getLogger(__name__)

_PARTS_N: Final = 8  # parts of files that are subscribed at once


class RetainedWay:
    """See :class:`.base.Way`.

    Args:
        port: of the link.
        topics: names of the topics.
    """

    def __init__(self, port: Port, topics: Topics) -> None:
        self._port, self._topics = port, topics
        self._index: TrustIndex | None = None
        self._listens = self._news = False
        self._blobs: dict[str, Blob] = {}  # asked for, by digest
        self._files: dict[str, File] = {}  # asked for, by file name
        self._parts: dict[str, bytes] = {}  # of files, by digest
        self._asked: set[str] = set()  # parts that are subscribed
        self._answers: list[Answer] = []

    @property
    def ready(self) -> bool:
        """Whether the link is up."""
        return self._port.connected

    def ask(self, wants: Sequence[Want]) -> None:
        """Subscribe what is wanted; files when the index says what they are made of."""
        blobs = [want for want in wants if isinstance(want, Blob)]
        self._blobs |= {want.sha256: want for want in blobs}
        self._subscribe([want.sha256 for want in blobs])
        for want in wants:
            if isinstance(want, File):
                if self._index is None or want.file in self._files:
                    self._subscribe_index()
                    self._asked.clear()
                self._files[want.file] = want
        self._serve_files()

    def drop(self, wants: Sequence[Want]) -> None:
        """Unsubscribe."""
        topics = []
        for want in wants:
            if isinstance(want, File):
                self._files.pop(want.file, None)
            elif self._blobs.pop(want.sha256, None) is not None:
                topics.append(self._topics.blob(want.sha256))
        if topics:
            self._port.unsubscribe(topics)

    def take(self, event: Event) -> bool:
        """Take the index, and blobs that somebody waits for."""
        match event:
            case Up():
                self._listens = False
                self._asked.clear()
                self._blobs.clear()  # whoever wants them asks again
            case Message(topic=topic, payload=payload):
                if topic == self._topics.trust_index():
                    self._on_index(payload)
                    return True
                if topic.startswith(self._topics.blob("")):
                    self._on_blob(topic.removeprefix(self._topics.blob("")), payload)
                    return True
        return False

    def answers(self) -> list[Answer]:
        """What has come."""
        answers, self._answers = self._answers, []
        return answers

    def news(self) -> bool:
        """Whether the index has changed; listens for it from the first call on."""
        if self.ready and not self._listens:
            self._subscribe_index()
        news, self._news = self._news, False
        return news

    def close(self) -> None:
        """Nothing is held."""

    def _on_index(self, payload: bytes) -> None:
        try:
            index = decode(payload, TrustIndex)
        except LinkError as exc:
            log.warning("the index of the signed metadata is ignored: %s", exc)
            return
        self._news |= index != self._index
        self._index, self._parts = index, {}
        self._asked.clear()
        self._serve_files()

    def _on_blob(self, digest: str, payload: bytes) -> None:
        if (want := self._blobs.get(digest)) is not None:
            self._answers.append(Answer(want, payload))
        elif any(digest in self._parts_of(file) for file in self._files.values()):
            self._parts[digest] = payload
            self._asked.discard(digest)
            self._port.unsubscribe([self._topics.blob(digest)])
            self._serve_files()

    def _serve_files(self) -> None:
        """Answer for every file that is whole or unknown to the index; ask for the others."""
        if self._index is None:
            return
        for want in list(self._files.values()):
            entry = self._index.files.get(want.file)
            if entry is not None and len(entry.blobs) * CHUNK_BYTES > want.bytes + CHUNK_BYTES:
                entry = None  # more than may be read: as good as absent
            if entry is None:
                self._answers.append(Answer(want, None))
            elif not self._missing(want):
                data = b"".join(self._parts[digest] for digest in entry.blobs)
                self._answers.append(Answer(want, data))
            else:
                self._ask_parts(want)
                continue
            del self._files[want.file]

    def _ask_parts(self, want: File) -> None:
        free = max(0, _PARTS_N - len(self._asked))
        digests = [digest for digest in self._missing(want) if digest not in self._asked][:free]
        self._asked.update(digests)
        self._subscribe(digests)

    def _parts_of(self, want: File) -> tuple[str, ...]:
        entry = self._index.files.get(want.file) if self._index else None
        return entry.blobs if entry else ()

    def _missing(self, want: File) -> list[str]:
        return [digest for digest in self._parts_of(want) if digest not in self._parts]

    def _subscribe(self, digests: Sequence[str]) -> None:
        if digests:
            self._port.subscribe([self._topics.blob(digest) for digest in digests])

    def _subscribe_index(self) -> None:
        self._listens = True
        self._port.subscribe([self._topics.trust_index()])
