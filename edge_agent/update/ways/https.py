"""A web server with the files of a repository, as ``edge-fleet export`` writes them.

Chunks are asked for as ranges of the payload's one file. A server that ignores ranges is asked for
each blob's own file instead.
"""

from __future__ import annotations

import http.client
import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Final
from urllib.parse import urlsplit

from edge_agent.address import web_url_fault
from edge_agent.contract.errors import ConfigError
from edge_agent.link import Event
from edge_agent.update.ways.base import Answer, Blob, Want

log = logging.getLogger(__name__)

_ERROR_BYTES: Final = 16 * 1024  # of a page that says what is wrong
_TIMEOUT_S: Final = 20.0
_PAUSE_S: Final = 5.0  # after an error
_IDLE_S: Final = 1.0  # how soon the thread sees that it is to end


class HttpsWay:
    """See :class:`.base.Way`. One thread of its own downloads, over one connection.

    Args:
        url: ``https://HOST[:PORT]/PATH``; plain ``http`` only to this machine.
        ca_file: PEM file to check the server by; the system's store when None.
        wake: called from the thread when there is an answer; must not wait.

    Raises:
        ConfigError: the URL or the file cannot be used.
    """

    def __init__(self, url: str, ca_file: str | None, wake: Callable[[], None]) -> None:
        parts = urlsplit(url)
        if (fault := web_url_fault(url)) or parts.hostname is None:
            raise ConfigError(fault or url)
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path.rstrip("/")
        self._tls = _context(ca_file) if parts.scheme == "https" else None
        self._wake = wake
        self._wants: SimpleQueue[Want] = SimpleQueue()
        self._given: SimpleQueue[Answer] = SimpleQueue()
        self._wanted: set[str] = set()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._ranges = True

    @property
    def ready(self) -> bool:
        """Always: trying is how one finds out."""
        return not self._over.is_set()

    def ask(self, wants: Sequence[Want]) -> None:
        """Queue what is not queued yet."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="https", daemon=True)
            self._thread.start()
        for want in wants:
            if want.name not in self._wanted:
                self._wanted.add(want.name)
                self._wants.put(want)

    def drop(self, wants: Sequence[Want]) -> None:
        """These are skipped when their turn comes."""
        self._wanted.difference_update(want.name for want in wants)

    def take(self, event: Event) -> bool:
        """It knows no link."""
        del event
        return False

    def answers(self) -> list[Answer]:
        """What was downloaded."""
        found: list[Answer] = []
        while True:
            try:
                answer = self._given.get_nowait()
            except Empty:
                return found
            if answer.want.name in self._wanted:
                self._wanted.discard(answer.want.name)
                found.append(answer)

    def news(self) -> bool:
        """It cannot tell; the updater looks from time to time."""
        return False

    def close(self) -> None:
        """End the thread after the request that it is at."""
        self._over.set()

    # --- the thread ---

    def _work(self) -> None:
        """Download one thing after the other; a failure is tried again after a pause."""
        connection: http.client.HTTPConnection | None = None
        while not self._over.is_set():
            try:
                want = self._wants.get(timeout=_IDLE_S)
            except Empty:
                continue
            while want.name in self._wanted and not self._over.is_set():
                connection = connection or self._connect()
                try:
                    answer = Answer(want, self._get(connection, want))
                except (OSError, http.client.HTTPException) as exc:
                    log.warning("https://%s%s: %s: tried again", self._host, self._path, exc)
                    connection.close()
                    connection = None
                    self._over.wait(_PAUSE_S)
                    continue
                self._given.put(answer)
                self._wake()
                break
        if connection is not None:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=_TIMEOUT_S, context=self._tls
        )

    def _get(self, connection: http.client.HTTPConnection, want: Want) -> bytes | None:
        """One thing, or None when the server says that there is none."""
        if isinstance(want, Blob) and want.payload and self._ranges:
            last = want.offset + want.bytes - 1
            headers = {"Range": f"bytes={want.offset}-{last}"}
            connection.request("GET", f"{self._path}/payload/{want.payload}", headers=headers)
            response = connection.getresponse()
            if response.status == http.client.PARTIAL_CONTENT:
                return _body(response, want)
            self._ranges = response.status == http.client.NOT_FOUND
            connection.close()  # the rest of the answer may be the whole payload
        connection.request("GET", f"{self._path}/{want.name}")
        response = connection.getresponse()
        if response.status == http.client.OK:
            return _body(response, want)
        response.read(_ERROR_BYTES)
        if response.read(1):
            connection.close()  # its page has no end
        if response.status in (http.client.NOT_FOUND, http.client.FORBIDDEN, http.client.GONE):
            return None
        raise http.client.HTTPException(f"status {response.status}")


def _body(response: http.client.HTTPResponse, want: Want) -> bytes:
    """At most one byte more than may be there, so that whoever checks sees it."""
    data = response.read(want.bytes + 1)
    if response.read(1):
        response.close()
    return data


def _context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise ConfigError(f"{ca_file}: {exc.strerror or exc}: give a PEM file") from exc
