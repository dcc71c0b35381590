"""Connects a data line in the background: address, TCP, TLS, CONNECT and SUBSCRIBE take their time.

The thread lives only while there is no connection. What it hands over is a socket that nobody
else holds, so the pipeline's thread owns the connection from then on.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from paho.mqtt.client import convert_connack_rc_to_reason_code
from paho.mqtt.enums import ConnackCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.address import parse_url, read_password
from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError, LinkError
from edge_agent.mqtt import packets
from edge_agent.mqtt.connection import CONNACK_S, CONNECT_S, RECEIVED_BYTES_MAX
from edge_agent.mqtt.packets import Control, Limits, MalformedError, Packet, Splitter
from edge_agent.mqtt.reasons import Ended, describe, refusal
from edge_agent.mqtt.reconnect import MQTT_5, Outcome, Reconnect
from edge_agent.mqtt.tls import tls_context

log = logging.getLogger(__name__)

_RECV_BYTES: Final = 64 * 1024
_ANSWER_BYTES_MAX: Final = 4 * RECEIVED_BYTES_MAX  # that may come before an answer


class Session(NamedTuple):
    """A connection that has subscribed, on a non-blocking socket.

    Attributes:
        early: packets that came together with the broker's answers.
    """

    sock: socket.socket
    splitter: Splitter
    early: list[Packet]
    protocol: int
    limits: Limits
    keepalive_s: int


class Dialer:
    """Tries until there is a session or a reason to give up.

    Args:
        broker: what to connect to; its password and TLS files are read at every attempt.
        client_id: must differ from that of every other client of the broker.
        topic_filter: to subscribe to.

    Raises:
        ConfigError: the URL, the password or the TLS files cannot be used.
    """

    def __init__(self, broker: BrokerConfig, client_id: str, topic_filter: str) -> None:
        self._broker, self._client_id, self._filter = broker, client_id, topic_filter
        self._address = parse_url(broker.url)
        read_password(broker)
        if self._address.tls:
            tls_context(broker)
        self._reconnect = Reconnect(broker.protocol)
        self._stop = threading.Event()
        self._found: SimpleQueue[Session | LinkError] = SimpleQueue()

    # --- the owner's thread ---

    def begin(self, pause_s: float = 0.0) -> None:
        """Start to connect, after a pause."""
        body = threading.Thread(target=self._run, args=(pause_s,), name="dial", daemon=True)
        body.start()

    def begin_again(self, held_s: float) -> None:
        """Start to connect after a session of so many seconds was lost."""
        self.begin(self._reconnect.pause_s(Outcome.LOST, held_s) or 0.0)

    def take(self, wait_s: float) -> Session | None:
        """The session, once there is one.

        Raises:
            LinkError: the broker denies the subscription; nothing is tried any more.
        """
        try:
            found = self._found.get(timeout=wait_s)
        except Empty:
            return None
        if isinstance(found, LinkError):
            raise found
        return found

    def stop(self) -> None:
        """Give up; a session that comes too late is closed by the thread that made it."""
        self._stop.set()
        with contextlib.suppress(Empty):
            while True:
                found = self._found.get_nowait()
                if isinstance(found, Session):
                    found.sock.close()

    # --- the thread ---

    def _run(self, pause_s: float) -> None:
        said = ""
        while not self._stop.wait(pause_s):
            ended = self._attempt()
            if ended is None:
                return
            if ended.reason != said:  # of attempts that fail alike only the first stands out
                log.warning("no data connection: %s", ended.reason)
            said = ended.reason
            pause_s = self._reconnect.pause_s(ended.outcome, 0.0) or 0.0

    def _attempt(self) -> Ended | None:
        """One attempt; None when it gave a session, or a reason to give up."""
        try:
            with contextlib.ExitStack() as undo:
                sock = self._open(undo)
                found = self._greet(sock)
                if isinstance(found, Session):
                    undo.pop_all()
        except MalformedError as exc:
            return Ended(Outcome.SILENT, f"{self._address}: {exc}: is it an MQTT broker?")
        except EOFError:
            return Ended(Outcome.SILENT, f"{self._address}: closed before any answer")
        except ConfigError as exc:  # a file that was there at the start has gone
            return Ended(Outcome.UNREACHABLE, str(exc))
        except (OSError, ValueError) as exc:  # ValueError: a host name that cannot be one
            return Ended(Outcome.UNREACHABLE, describe(exc, self._address))
        if isinstance(found, Ended):
            return found
        self._found.put(found)
        if self._stop.is_set():
            self.stop()  # nobody may be left to take it
        return None

    def _open(self, undo: contextlib.ExitStack) -> socket.socket:
        """A connected socket that sends at once; handed to ``undo`` for closing."""
        host, port, tls = self._address
        sock = undo.enter_context(socket.create_connection((host, port), timeout=CONNECT_S))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            sock = tls_context(self._broker).wrap_socket(sock, server_hostname=host)
            undo.enter_context(sock)
        sock.settimeout(CONNACK_S)
        return sock

    def _greet(self, sock: socket.socket) -> Session | Ended | LinkError:
        """CONNECT and SUBSCRIBE, each with its answer."""
        protocol, broker = self._reconnect.protocol, self._broker
        splitter = Splitter(protocol, bytes_max=RECEIVED_BYTES_MAX)
        early: list[Packet] = []
        hello = packets.connect(
            self._client_id,
            protocol=protocol,
            keepalive_s=broker.keepalive_s,
            bytes_max=RECEIVED_BYTES_MAX,
            username=broker.username,
            password=read_password(broker),
        )
        body = _ask(sock, hello, packets.CONNACK, splitter, early)
        code, limits = packets.connack(body, protocol=protocol)
        if code:
            return refusal(_reason(code, protocol), self._address)
        wish = packets.subscribe(self._filter, protocol=protocol)
        code = packets.suback(_ask(sock, wish, packets.SUBACK, splitter, early))
        if code >= packets.FAILURE:
            return LinkError(f"{self._filter} (reason code 0x{code:02x})")
        sock.settimeout(0)
        keepalive_s = limits.keepalive_s or broker.keepalive_s
        return Session(sock, splitter, early, protocol, limits, keepalive_s)


def _ask(
    sock: socket.socket, question: bytes, kind: int, splitter: Splitter, early: list[Packet]
) -> bytes:
    """Send a packet and wait for its answer; what comes after the answer goes to ``early``."""
    sock.sendall(question)
    until, left = time.monotonic() + CONNACK_S, _ANSWER_BYTES_MAX
    while True:
        for number, packet in enumerate(early):
            if isinstance(packet, Control) and packet.kind == kind:
                del early[number]
                return packet.body
        sock.settimeout(max(0.01, until - time.monotonic()))
        if not (data := sock.recv(_RECV_BYTES)):
            raise EOFError
        left -= len(data)
        if left < 0 or time.monotonic() > until:
            raise MalformedError("everything but an answer")
        early += splitter.feed(data)


def _reason(code: int, protocol: int) -> ReasonCode:
    """A refusing CONNACK's code with its name; one that no version knows counts as unspecified."""
    try:
        if (
            protocol != MQTT_5 or code < packets.FAILURE
        ):  # a broker of 3.1.1 answers so to version 5
            return convert_connack_rc_to_reason_code(ConnackCode(code))
        return ReasonCode(PacketTypes.CONNACK, identifier=code)
    except (KeyError, ValueError):
        return ReasonCode(PacketTypes.CONNACK, "Unspecified error")
