"""One connection by paho-mqtt, from connecting to its end, all in the link's thread.

paho serves as codec and protocol state only: this thread owns its client, socket and callbacks,
and does one thing after another. So no callback runs beside a ``publish`` that has not returned its
id yet, and an exception anywhere, paho's own included, comes out of :meth:`Connection.serve`.

A connection has a new client and a clean start: whatever was published or subscribed before is
gone and cannot be sent late. Publishes beyond the in-flight cap wait here, not in paho, and only a
PUBACK makes ``Published``, whatever paho's ``publish`` returned.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import time
from collections import deque
from typing import Any, Final, NamedTuple

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.address import Address, read_password
from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError
from edge_agent.link import Denied, Message, Published, Refused
from edge_agent.mqtt.mailbox import Mailbox, MqttPort, Publish, Subscribe, Unsubscribe
from edge_agent.mqtt.reasons import Ended, describe, refusal
from edge_agent.mqtt.reconnect import MQTT_3_1_1, MQTT_5, Outcome
from edge_agent.mqtt.tls import tls_context
from edge_agent.routes import Routes, is_topic

log = logging.getLogger(__name__)

FILTERS_PER_SUBSCRIBE: Final = 8  # hosted brokers close the connection beyond this
RECEIVED_BYTES_MAX: Final = 4 * 1024 * 1024  # a message; MQTT 5 brokers drop what is larger
CONNECT_S: Final = 5.0  # for TCP, and again for TLS
CONNACK_S: Final = 10.0
LAST_S: Final = 1.0  # for the acknowledgement of the last message
FLUSH_S: Final = 0.5  # for the DISCONNECT to leave
TICK_S: Final = 1.0  # paho's keep-alive, 5 s at least, is looked after this often
BEHIND_S: Final = 0.02  # between two looks at a port that is behind
_NAMES: Final = {MQTT_5: "5", MQTT_3_1_1: "3.1.1"}
_LOST: Final = "connection lost"
_PLAINER: Final = {  # what paho calls the ends that it finds itself
    "Unspecified error": _LOST,
    "Keep alive timeout": "nothing came within the keep-alive time",
    "Normal disconnection": "stopped",
}
_HEADER_BYTES: Final = 16  # at least what PUBLISH has beside topic and payload


class Profile(NamedTuple):
    """What every connection of a link has in common."""

    config: BrokerConfig
    address: Address
    client_id: str
    will: tuple[str, bytes] | None
    in_flight_n_max: int


class Connection:
    """One attempt, and if the broker agrees one connection.

    Args:
        profile: what to connect to, and as whom.
        protocol: 5 or 4 (3.1.1).
        mailbox: where commands come from and events go.
    """

    def __init__(self, profile: Profile, protocol: int, mailbox: Mailbox) -> None:
        self._profile = profile
        self._protocol = protocol
        self._mailbox = mailbox
        self._up_since_s: float | None = None
        self._ended: Ended | None = None
        self._routes: Routes[MqttPort] = Routes()
        self._waiting: deque[Publish] = deque()
        self._in_flight: dict[int, Publish] = {}
        self._in_flight_n_max = profile.in_flight_n_max
        self._packet_bytes_max: int | None = None
        self._subscribing: dict[int, Subscribe] = {}
        self._last_mid: int | None = None

    def held_s(self) -> float:
        """How long it has been up."""
        return 0.0 if self._up_since_s is None else time.monotonic() - self._up_since_s

    def serve(self) -> Ended:
        """Connect, and serve the ports until the connection ends or the link is stopped."""
        try:
            client = self._connect()
        except ConfigError as exc:  # a file that was there at the start has gone
            return Ended(Outcome.UNREACHABLE, str(exc))
        except (OSError, ValueError) as exc:  # ValueError: a host name that cannot be one
            return Ended(Outcome.UNREACHABLE, describe(exc, self._profile.address))
        try:
            return self._serve(client)
        finally:
            if (sock := client.socket()) is not None:
                sock.close()

    def _connect(self) -> Client:
        """A new client on a new socket; its CONNECT is on its way."""
        config, address, client_id, will, in_flight_n_max = self._profile
        version_5 = self._protocol == MQTT_5
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if version_5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if version_5 else True,  # a new client of version 5 starts clean
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(in_flight_n_max + 1)  # one more for the last message
        client.connect_timeout = CONNECT_S
        if config.username is not None:
            client.username_pw_set(config.username, read_password(config))
        if address.tls:
            client.tls_set_context(tls_context(config))
        if will is not None:
            client.will_set(*will, qos=1, retain=True)
        client.on_socket_open = _send_at_once
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        limits = None
        if version_5:
            # paho leaves this one function without annotations.
            limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            limits.MaximumPacketSize = RECEIVED_BYTES_MAX
        client.connect(address.host, address.port, config.keepalive_s, properties=limits)
        return client

    def _serve(self, client: Client) -> Ended:
        poller = select.poll()
        poller.register(self._mailbox, select.POLLIN)
        deadline_s = time.monotonic() + CONNACK_S
        while self._ended is None and not self._mailbox.stopping.is_set():
            self._round(client, poller, TICK_S)
            if self._up_since_s is None and time.monotonic() > deadline_s:
                reason = f"did not answer within {CONNACK_S:g} s"
                return Ended(Outcome.SILENT, f"{self._profile.address} {reason}")
        if self._ended is None:
            self._leave(client, poller)
        return self._ended or Ended(Outcome.LOST, "stopped")

    def _round(self, client: Client, poller: select.poll, tick_s: float) -> None:
        """Do what ports ask for, wait up to ``tick_s`` for the network, read, write, keep alive."""
        self._obey(client)
        sock: Any = client.socket()
        if sock is None:
            self._ended = self._ended or Ended(Outcome.LOST, _LOST)
            return
        behind = self._mailbox.behind()  # then the broker has to wait, not our memory to grow
        decrypted = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0 and not behind
        reading = 0 if behind else select.POLLIN
        poller.register(sock, reading | (select.POLLOUT if client.want_write() else 0))
        timeout_s = 0.0 if decrypted else min(tick_s, BEHIND_S) if behind else tick_s
        ready = dict(poller.poll(timeout_s * 1000))
        if self._mailbox.fileno() in ready:
            self._mailbox.drain()
        flags = ready.get(sock.fileno(), 0)
        if decrypted or flags & ~select.POLLOUT:
            client.loop_read()
        if flags & select.POLLOUT:
            client.loop_write()
        if not behind:
            client.loop_misc()

    def _leave(self, client: Client, poller: select.poll) -> None:
        """Publish the last message, wait a little for its acknowledgement, and disconnect."""
        last = self._mailbox.last
        if self._up_since_s is not None and last is not None:
            self._last_mid = client.publish(*last, qos=1, retain=True).mid
            deadline_s = time.monotonic() + LAST_S
            while self._ended is None and self._last_mid is not None:
                if (left_s := deadline_s - time.monotonic()) <= 0:
                    break
                self._round(client, poller, left_s)
        client.disconnect()
        deadline_s = time.monotonic() + FLUSH_S
        while self._ended is None and (left_s := deadline_s - time.monotonic()) > 0:
            self._round(client, poller, left_s)

    def _obey(self, client: Client) -> None:
        """Do what ports have asked for; publishes only up to the in-flight cap."""
        for command in self._mailbox.take():
            if isinstance(command, Publish):
                self._waiting.append(command)
            elif isinstance(command, Subscribe):
                self._subscribe(client, command)
            else:
                self._unsubscribe(client, command)
        while self._waiting and len(self._in_flight) < self._in_flight_n_max:
            self._publish(client, self._waiting.popleft())

    def _publish(self, client: Client, publish: Publish) -> None:
        try:
            self._require_sendable(publish)
            # Its return code is no verdict: messages with code 4 (no connection) do arrive.
            info = client.publish(publish.topic, publish.payload, qos=1, retain=publish.retain)
        except ValueError as exc:
            self._mailbox.finish(publish, Refused(publish.token, str(exc)))
        else:
            self._in_flight[info.mid] = publish

    def _require_sendable(self, publish: Publish) -> None:
        """Refuse what would make the broker close the connection, now and at every attempt."""
        if not is_topic(publish.topic):
            raise ValueError(
                f"{publish.topic!r} is not a topic: it may not be empty or have + or #"
            )
        size = len(publish.payload) + len(publish.topic.encode()) + _HEADER_BYTES
        if self._packet_bytes_max is not None and size > self._packet_bytes_max:
            raise ValueError(f"the broker takes at most {self._packet_bytes_max} bytes a message")

    def _subscribe(self, client: Client, command: Subscribe) -> None:
        command.port.subscribed = True
        for start in range(0, len(command.topics), FILTERS_PER_SUBSCRIBE):
            part = Subscribe(command.port, command.topics[start : start + FILTERS_PER_SUBSCRIBE])
            for topic_filter in part.topics:
                self._routes.add(topic_filter, part.port)
            try:
                _, mid = client.subscribe([(topic_filter, 1) for topic_filter in part.topics])
            except ValueError as exc:
                for topic_filter in part.topics:
                    self._deny(part.port, topic_filter, str(exc))
            else:
                if mid is not None:
                    self._subscribing[mid] = part

    def _unsubscribe(self, client: Client, command: Unsubscribe) -> None:
        """Give filters up at the broker too, but for those that another port holds."""
        free = [topic for topic in command.topics if self._routes.remove(topic, command.port)]
        for start in range(0, len(free), FILTERS_PER_SUBSCRIBE):
            client.unsubscribe(free[start : start + FILTERS_PER_SUBSCRIBE])

    def _deny(self, port: MqttPort, topic_filter: str, reason: str) -> None:
        log.warning("subscription to %s denied: %s", topic_filter, reason)
        self._routes.remove(topic_filter, port)
        port.events.put(Denied(topic_filter, reason))

    # Callbacks, called by paho inside _round. They only queue events and note what happened.

    def _on_connect(
        self,
        _client: Client,
        _data: Any,
        _flags: ConnectFlags,
        code: ReasonCode,
        answer: Properties | None,
    ) -> None:
        if code.is_failure:
            self._ended = refusal(code, self._profile.address)
            return
        receive_max = getattr(answer, "ReceiveMaximum", None)
        if receive_max is not None:  # less one, for the last message
            self._in_flight_n_max = max(1, min(self._in_flight_n_max, receive_max - 1))
        self._packet_bytes_max = getattr(answer, "MaximumPacketSize", None)
        self._up_since_s = time.monotonic()
        log.info("connected to %s by MQTT %s", self._profile.address, _NAMES[self._protocol])
        self._mailbox.go_up(self._protocol)

    def _on_disconnect(
        self, _client: Client, _data: Any, flags: DisconnectFlags, code: ReasonCode, _: Any
    ) -> None:
        if self._ended is not None:
            return
        name = code.getName()
        what = _PLAINER.get(name, name)
        if self._up_since_s is None:
            reason = f"{self._profile.address}: {what} before any answer: is it an MQTT broker?"
            self._ended = Ended(Outcome.SILENT, reason)
        elif flags.is_disconnect_packet_from_server:
            self._ended = Ended(Outcome.LOST, f"the broker closed the connection: {name}")
        else:
            self._ended = Ended(Outcome.LOST, what)

    def _on_publish(
        self, _client: Client, _data: Any, mid: int, code: ReasonCode, _: Properties
    ) -> None:
        if mid == self._last_mid:
            self._last_mid = None
        publish = self._in_flight.pop(mid, None)
        if publish is None:
            return
        token = publish.token
        event = Refused(token, code.getName()) if code.is_failure else Published(token)
        self._mailbox.finish(publish, event)

    def _on_subscribe(
        self, client: Client, _data: Any, mid: int, codes: list[ReasonCode], _: Properties
    ) -> None:
        part = self._subscribing.pop(mid, None)
        if part is None:
            return
        _acknowledge_at_once(client.socket())
        for topic_filter, code in zip(part.topics, codes, strict=False):
            if code.is_failure:
                self._deny(part.port, topic_filter, code.getName())

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # nobody can have subscribed to exactly this
            log.warning("message dropped: its topic is not UTF-8")
            return
        event = Message(topic, bytes(message.payload), retained=message.retain)
        for port in self._routes.owners(topic):
            port.events.put(event)


def _send_at_once(_client: Client, _data: Any, sock: Any) -> None:
    """Set TCP_NODELAY, which paho does not: a windowed pull of 5 MB is 20 times faster."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _acknowledge_at_once(sock: Any) -> None:
    """Acknowledge a SUBACK by TCP now, not 40 ms later: the retained messages wait for that.

    A broker that does not set TCP_NODELAY, as mosquitto by default, sends nothing small while
    something small is unacknowledged. Linux alone has the option, and forgets it by itself.
    """
    if hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
