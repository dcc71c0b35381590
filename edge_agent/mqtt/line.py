"""A data line: readings in and decisions out on one socket, owned by the pipeline's own thread.

Receiving, deciding and sending in one thread costs no hand-over, and the framing is our own
(:mod:`.packets`): together that is a fifth of what a message costs by way of paho and a queue.
Control (updates, status, records) stays with :mod:`.link`.
"""

from __future__ import annotations

import logging
import secrets
import select
import ssl
import time
from collections import deque
from typing import Final, NamedTuple

from edge_agent.config import BrokerConfig
from edge_agent.link import Keep, Received
from edge_agent.mqtt import packets
from edge_agent.mqtt.dial import Dialer, Session
from edge_agent.mqtt.packets import MalformedError, Packet

log = logging.getLogger(__name__)

RECV_BYTES: Final = 64 * 1024
OUT_BYTES_MAX: Final = 1024 * 1024  # that the broker does not take: then it is not sent at once
WAITING_N_MAX: Final = 1_000  # messages of QoS 1 beyond what the broker lets be in flight
CONFIRM_NS: Final = 1_000_000_000  # for a PUBACK, before the message is kept
TOGETHER_NS: Final = 200_000  # decisions closer than this leave in one system call
CLOSE_S: Final = 0.5  # for the last acknowledgements
_NS_PER_S: Final = 1_000_000_000
_ID_MAX: Final = 65_535


class _Sent(NamedTuple):
    """A message of QoS 1 that the broker has not acknowledged."""

    topic: str
    payload: bytes
    keep: Keep
    since_ns: int


class _LostError(Exception):
    """The connection is gone."""


class MqttLine:
    """See :class:`~edge_agent.link.Line`. It connects, and connects again, in the background.

    Args:
        broker: what to connect to.
    """

    def __init__(self, broker: BrokerConfig) -> None:
        self._broker = broker
        self._dialer: Dialer | None = None
        self._session: Session | None = None
        self._poller = select.poll()
        self._out = bytearray()
        self._in_flight: dict[int, _Sent] = {}
        self._given_up: set[int] = set()  # kept, but the broker still has their ids
        self._waiting: deque[_Sent] = deque()
        self._last_id = 0
        self._since_ns = self._sent_ns = self._received_ns = self._pinged_ns = 0

    def open(self, topic_filter: str) -> None:
        """See :meth:`edge_agent.link.Line.open`."""
        client_id = f"edge-data-{secrets.token_hex(5)}"
        self._dialer = Dialer(self._broker, client_id, topic_filter)
        self._dialer.begin()

    def receive(self, wait_s: float) -> list[Received]:
        """See :meth:`edge_agent.link.Line.receive`."""
        session, early = self._session, None
        if session is None:
            if self._dialer is None or (session := self._dialer.take(wait_s)) is None:
                return []
            self._adopt(session)
            early = session.early
        try:
            return self._take(self._pull(session, wait_s) if early is None else early)
        except (_LostError, MalformedError, OSError) as exc:
            self._lose(session, exc)
            return []

    def send(self, topic: str, payload: bytes, keep: Keep | None) -> bool:
        """See :meth:`edge_agent.link.Line.send`."""
        session = self._session
        size = len(payload) + len(topic) + packets.HEADER_BYTES_MAX
        if session is None or len(self._out) + size > OUT_BYTES_MAX:
            return False
        if size > session.limits.packet_bytes_max or (session.limits.qos_max == 0 and keep):
            return False
        now = time.monotonic_ns()
        if keep is None:
            self._out += packets.publish(topic.encode(), payload, protocol=session.protocol)
        elif len(self._waiting) < WAITING_N_MAX:
            self._waiting.append(_Sent(topic, payload, keep, now))
            self._pump(session)
        else:
            return False
        if now - self._sent_ns > TOGETHER_NS:
            self._try_flush(session, now)
        return True

    def close(self) -> None:
        """See :meth:`edge_agent.link.Line.close`."""
        session, dialer = self._session, self._dialer
        self._dialer = None
        if dialer is not None:
            dialer.stop()
        if session is None:
            return
        try:
            self._finish(session)
        except (_LostError, MalformedError, OSError) as exc:
            log.debug("the data connection ended early: %s", exc)
        self._forget(session)

    # --- one connection --------------------------------------------------------------------------

    def _adopt(self, session: Session) -> None:
        self._session = session
        self._poller.register(session.sock, select.POLLIN)
        now = time.monotonic_ns()
        self._since_ns = self._sent_ns = self._received_ns = self._pinged_ns = now
        log.info("data connection to %s is up", self._broker.url)

    def _pull(self, session: Session, wait_s: float) -> list[Packet]:
        """Send what waits, then give what has come, waiting for it at most ``wait_s``."""
        sock, now = session.sock, time.monotonic_ns()
        if self._out:
            self._flush(session, now)
        self._look_after(session, now)
        if not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            # A broker that takes nothing is not read from: it has to wait, not our memory to grow.
            reading = select.POLLIN if len(self._out) <= OUT_BYTES_MAX else 0
            self._poller.modify(sock, reading | (select.POLLOUT if self._out else 0))
            ready = self._poller.poll(wait_s * 1000)
            if not ready or ready[0][1] == select.POLLOUT:
                return []
        try:
            data = sock.recv(RECV_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return []
        if not data:
            raise _LostError("the broker closed the connection")
        self._received_ns = time.monotonic_ns()
        return session.splitter.feed(data)

    def _take(self, arrived: list[Packet]) -> list[Received]:
        """Messages go to the caller, acknowledgements are dealt with here."""
        messages: list[Received] = []
        for packet in arrived:
            if isinstance(packet, Received):
                if packet.packet_id:
                    self._out += packets.puback(packet.packet_id)
                messages.append(packet)
            elif packet.kind == packets.PUBACK:
                self._confirm(*packets.acknowledged(packet.body))
            elif packet.kind == packets.DISCONNECT:
                raise _LostError("the broker said goodbye")
        if self._waiting and self._session is not None:
            self._pump(self._session)
        return messages

    def _confirm(self, packet_id: int, code: int) -> None:
        self._given_up.discard(packet_id)
        sent = self._in_flight.pop(packet_id, None)
        if sent is not None and code >= packets.FAILURE:
            sent.keep(sent.topic, sent.payload)  # the uplink says what the broker refuses

    def _pump(self, session: Session) -> None:
        """Let messages of QoS 1 leave, as many as the broker takes unacknowledged."""
        most = session.limits.receive_max - len(self._given_up)
        while self._waiting and len(self._in_flight) < most:
            sent = self._waiting.popleft()
            packet_id = self._next_id()
            self._in_flight[packet_id] = sent
            self._out += packets.publish(
                sent.topic.encode(), sent.payload, protocol=session.protocol, packet_id=packet_id
            )

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % _ID_MAX + 1
            if self._last_id not in self._in_flight and self._last_id not in self._given_up:
                return self._last_id

    def _look_after(self, session: Session, now: int) -> None:
        """Keep the connection alive, and keep what was not acknowledged in time."""
        if now - self._received_ns > 1.5 * session.keepalive_s * _NS_PER_S:
            raise _LostError("nothing came within the keep-alive time")
        if now - self._pinged_ns > session.keepalive_s * _NS_PER_S / 2:
            self._pinged_ns = now
            self._out += packets.PINGREQ
            self._flush(session, now)
        oldest = next(iter(self._in_flight.values()), None) or next(iter(self._waiting), None)
        if oldest is not None and now - oldest.since_ns > CONFIRM_NS:
            self._given_up.update(self._in_flight)
            self._keep_all()

    def _try_flush(self, session: Session, now: int) -> None:
        """As :meth:`_flush`; that a connection is lost is found, and said, by the next receive."""
        try:
            self._flush(session, now)
        except OSError as exc:
            log.debug("sending: %s", exc)

    def _flush(self, session: Session, now: int) -> None:
        """Give the socket what it takes."""
        try:
            del self._out[: session.sock.send(self._out)]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        self._sent_ns = now

    def _finish(self, session: Session) -> None:
        """Let the last messages leave and be acknowledged, for a moment."""
        until = time.monotonic() + CLOSE_S
        while (self._out or self._in_flight or self._waiting) and time.monotonic() < until:
            self._take(self._pull(session, CLOSE_S / 10))
        self._out += packets.GOODBYE
        self._flush(session, time.monotonic_ns())

    def _lose(self, session: Session, why: Exception) -> None:
        log.warning("data connection lost: %s", why)
        held_s = (time.monotonic_ns() - self._since_ns) / _NS_PER_S
        self._forget(session)
        if self._dialer is not None:
            self._dialer.begin_again(held_s)

    def _forget(self, session: Session) -> None:
        """Close the socket; what the broker has not acknowledged is kept."""
        self._poller.unregister(session.sock)
        session.sock.close()
        self._session = None
        self._out.clear()
        self._given_up.clear()
        self._keep_all()

    def _keep_all(self) -> None:
        for sent in (*self._in_flight.values(), *self._waiting):
            sent.keep(sent.topic, sent.payload)
        self._in_flight.clear()
        self._waiting.clear()
