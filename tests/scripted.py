"""A broker whose every byte a test chooses: for what a real one does not do on demand."""

from __future__ import annotations

import select
import socket
from types import TracebackType
from typing import NamedTuple, Self

TIMEOUT_S = 20.0
CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 0x10, 0x20, 0x30, 0x40, 0x80, 0x90
DISCONNECT = 0xE0


class Packet(NamedTuple):
    """One MQTT packet: the upper half of its first byte, and what follows the length."""

    kind: int
    body: bytes

    @property
    def mid(self) -> bytes:
        """The packet id of a PUBLISH of QoS 1, or of a SUBSCRIBE."""
        start = 0 if self.kind == SUBSCRIBE else 2 + int.from_bytes(self.body[:2], "big")
        return self.body[start : start + 2]


class Peer:
    """The broker's side of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT_S)
        self.sock = sock

    def packet(self) -> Packet:
        """The next packet.

        Raises:
            EOFError: the client has closed.
            TimeoutError: nothing came.
        """
        first, length, shift = self._bytes(1)[0], 0, 0
        while True:
            byte = self._bytes(1)[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return Packet(first & 0xF0, self._bytes(length))

    def is_quiet(self, seconds: float) -> bool:
        """Whether the client sends nothing for a while."""
        self.sock.settimeout(seconds)
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(TIMEOUT_S)

    def welcome(self, *, properties: bytes = b"") -> int:
        """Take the CONNECT, accept it, and give its protocol level, 5 or 4."""
        level = self.packet().body[6]
        tail = bytes([len(properties)]) + properties if level == 5 else b""
        self.send(CONNACK, b"\0\0" + tail)
        return level

    def send(self, kind: int, body: bytes) -> None:
        """Send a short packet."""
        self.sock.sendall(bytes([kind, len(body)]) + body)

    def _bytes(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            if not (piece := self.sock.recv(n - len(data))):
                raise EOFError
            data += piece
        return data


class ScriptedBroker:
    """Listens on a free port of 127.0.0.1; the test accepts each connection itself."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT_S)
        self._peers: list[Peer] = []
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"

    def is_asked(self) -> bool:
        """Whether a connection waits to be accepted."""
        return bool(select.select([self._listener], [], [], 0.0)[0])

    def accept(self) -> Peer:
        """The next connection."""
        peer = Peer(self._listener.accept()[0])
        self._peers.append(peer)
        return peer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._listener.close()
        for peer in self._peers:
            peer.sock.close()
