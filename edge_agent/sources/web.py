"""A small web server that takes bodies by POST, in threads of its own. Imported when it is used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

_CONNECTIONS_N_MAX: Final = 32
_TIMEOUT_S: Final = 10.0  # for each wait for a sender
_CLOSE_S: Final = 5.0
_LENGTH_DIGITS_MAX: Final = 18

Allowed = Callable[[str], bool]
Take = Callable[[bytes], tuple[int, str]]


class Listener:
    """Listens from its making until ``close``.

    Args:
        host: address to listen at.
        port: 0 takes a free one.
        bytes_max: largest body.
        allowed: whether the text of an ``Authorization`` header will do; empty if there is none.
        take: what to do with a body; gives status and reason. One thread for each connection.

    Raises:
        OSError: the address cannot be had.

    Attributes:
        port: that it listens at.
    """

    def __init__(
        self, host: str, port: int, *, bytes_max: int, allowed: Allowed, take: Take
    ) -> None:
        class Handler(_Handler):
            rule = _Rule(bytes_max, allowed, take)

        self._server = _Server((host, port), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; requests that are under way end by themselves within their time."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_CLOSE_S)


class _Rule:
    """What every request is treated by."""

    def __init__(self, bytes_max: int, allowed: Allowed, take: Take) -> None:
        self.bytes_max = bytes_max
        self.allowed = allowed
        self.take = take


class _Server(ThreadingHTTPServer):
    """A thread for each connection, as many as are allowed; one more is hung up on."""

    daemon_threads = True
    block_on_close = False  # a sender that hangs must not keep the source from closing

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._room = threading.BoundedSemaphore(_CONNECTIONS_N_MAX)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that went away in the middle is its own affair."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # sensors may keep their connection
    timeout = _TIMEOUT_S
    rule: _Rule

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) <= _LENGTH_DIGITS_MAX):
            self._answer(HTTPStatus.LENGTH_REQUIRED, "a Content-Length is needed")
        elif not self.rule.allowed(self.headers.get("Authorization", "")):
            self._answer(HTTPStatus.UNAUTHORIZED, "the bearer token is missing or wrong")
        elif int(length) > self.rule.bytes_max:
            self._answer(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {self.rule.bytes_max} bytes"
            )
        else:
            self._take(int(length))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing: the counts are in the status."""

    def _take(self, length: int) -> None:
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        status, reason = self.rule.take(body)
        self._answer(status, reason, hang_up=False)

    def _answer(self, status: int, reason: str, *, hang_up: bool = True) -> None:
        """Answer; hang up where a body was left unread."""
        self.send_response(status)
        text = f"{reason}\n".encode() if reason else b""
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
        if hang_up:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)
