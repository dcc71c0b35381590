"""Keeps a broker supplied with a signed repository: answers requests, mends what it has lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_agent.contract.topics import Topics
from edge_agent.fleet.parcel import trust_files
from edge_agent.fleet.respond import Responder
from edge_agent.fleet.seed import put_index, seed
from edge_agent.fleet.session import ConnectionLostError, Session
from edge_agent.fleet.trust.repository import Repository

_ANSWER_S: Final = 3.0
_TURN_S: Final = 0.5
_KEPT: Final = "on-broker"  # in the repository: digests that this computer has put out


class Depot:
    """Works until it is told to stop. Used by one thread.

    Args:
        session: entered.
        topics: names of the topics.
        folder: of the repository; read anew at every look, since other commands change it.
        every_s: seconds between two looks at what the broker holds.
        connect_s: how long the broker may be away.
        tell: takes one sentence for people.
    """

    def __init__(
        self,
        session: Session,
        topics: Topics,
        folder: Path,
        *,
        every_s: float,
        connect_s: float,
        tell: Callable[[str], None],
    ) -> None:
        self._session, self._topics, self._folder = session, topics, folder
        self._every_s, self._connect_s, self._tell = every_s, connect_s, tell
        self._repository = Repository(folder)
        self._responder = Responder(session, topics, self._read)

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set.

        Raises:
            LinkError: the broker stays away, refuses, or does not keep what it acknowledges.
        """
        while not stop.is_set():
            self._session.connect(self._connect_s)
            try:
                self._responder.listen()
                self._serve(stop)
            except ConnectionLostError as exc:
                self._tell(f"{exc}: connecting again")

    def _serve(self, stop: threading.Event) -> None:
        due = 0.0
        while not stop.is_set():
            if time.monotonic() >= due:
                self.supply()
                due = time.monotonic() + self._every_s
            self._responder.step(_TURN_S)

    def supply(self) -> None:
        """Make the broker hold what is current, and nothing that is obsolete.

        Raises:
            ConnectionLostError, LinkError: as of :func:`.seed.seed`.
        """
        self._repository = repository = Repository(self._folder)
        trust = trust_files(repository.files())
        wanted = repository.blobs() | trust.blobs
        seeded = seed(
            self._session, self._topics, wanted, answer_s=_ANSWER_S, progress=lambda *_: None
        )
        put_index(self._session, self._topics, trust.index, _ANSWER_S)
        if seeded.uploaded:
            self._tell(
                f"{seeded.uploaded} of {len(wanted)} blobs were not on the broker: put again"
            )
        self._clean(set(wanted))

    def _read(self, name: str) -> bytes | None:
        """From the repository as it was at the last look."""
        return self._repository.read(name)

    def _clean(self, wanted: set[str]) -> None:
        """Take away what was put out earlier and is needed no more."""
        kept = self._folder / _KEPT
        before = set(kept.read_text("ascii").split()) if kept.exists() else set()
        kept.write_text("\n".join(sorted(before | wanted)), "ascii")
        if gone := before - wanted:
            empty = [(self._topics.blob(digest), b"") for digest in sorted(gone)]
            self._session.publish(empty, retain=True)
            self._tell(f"{len(gone)} obsolete blobs were taken off the broker")
        kept.write_text("\n".join(sorted(wanted)), "ascii")
