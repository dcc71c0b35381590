"""The MQTT link against real brokers, and against a scripted one where a broker must misbehave."""

from __future__ import annotations

import gc
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from brokers import Broker, free_port, mosquitto
from paho.mqtt.client import CallbackAPIVersion, Client
from scripted import DISCONNECT, PUBACK, PUBLISH, SUBACK, SUBSCRIBE, ScriptedBroker

from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError
from edge_agent.link import Denied, Down, Event, Link, Message, Port, Published, Refused, Up
from edge_agent.mqtt import MqttLink
from edge_agent.mqtt.connection import RECEIVED_BYTES_MAX
from edge_agent.mqtt.mailbox import READ_AHEAD_N, UNCONFIRMED_N_MAX

pytest_plugins = ("brokers",)

WAIT_S = 20.0
QUIET_S = 0.3
E = TypeVar("E", bound=Event)


@contextmanager
def running(url: str, client_id: str = "test", **options: Any) -> Iterator[Port]:
    """The port of a started link; options of MqttLink are told from those of BrokerConfig."""
    own = {name: options.pop(name) for name in ("will", "in_flight_n_max") if name in options}
    link: Link = MqttLink(BrokerConfig(url=url, **options), client_id=client_id, **own)
    port = link.port("test")
    link.start()
    try:
        yield port
    finally:
        link.stop()


@contextmanager
def up(url: str, client_id: str = "test", **options: Any) -> Iterator[Port]:
    with running(url, client_id, **options) as port:
        until(port, Up)
        yield port


def until(port: Port, kind: type[E], accept: Callable[[E], bool] = lambda _: True) -> E:
    """The next event of a kind; others are passed over."""
    deadline = time.monotonic() + WAIT_S
    while True:
        event = port.events.get(timeout=max(0.01, deadline - time.monotonic()))
        if isinstance(event, kind) and accept(event):
            return event


def take(port: Port, n: int) -> list[Event]:
    return [port.events.get(timeout=WAIT_S) for _ in range(n)]


def subscribed(port: Port, topic: str) -> None:
    """Subscribe, and wait until the broker has: what one publishes oneself then comes back."""
    port.subscribe([topic, "probe/of/the/test"])
    port.publish(-7, "probe/of/the/test", b"")
    until(port, Message, lambda message: message.topic == "probe/of/the/test")


# Both versions


@pytest.mark.parametrize(("protocol", "level"), [("auto", 5), ("5", 5), ("3.1.1", 4)])
def test_mosquitto_speaks_both_versions(
    mosquitto_broker: Broker, protocol: str, level: int
) -> None:
    with running(mosquitto_broker.url, protocol=protocol) as port:
        assert until(port, Up).protocol == level
        assert port.connected
        port.publish(1, "a/b", b"kept", retain=True)
        assert until(port, Published).token == 1
        port.subscribe(["a/+"])
        assert until(port, Message) == Message("a/b", b"kept", retained=True)


def test_auto_lands_on_3_1_1_at_nats_and_stays_there(nats_broker: Broker) -> None:
    with running(nats_broker.url) as port:
        assert take(port, 1) == [Up(4)]
        subscribed(port, "x")
        port.publish(1, "x", b"1")
        assert until(port, Message) == Message("x", b"1", retained=False)
        nats_broker.restart()
        until(port, Down)
        assert until(port, Up) == Up(4)


def test_a_close_without_an_answer_falls_back_for_one_connection() -> None:
    with ScriptedBroker() as broker, running(broker.url) as port:
        peer = broker.accept()
        assert peer.packet().body[6] == 5
        peer.sock.close()
        second = broker.accept()
        assert second.welcome() == 4
        assert take(port, 1) == [Up(4)]
        second.sock.close()
        assert broker.accept().welcome() == 5
        until(port, Down)
        assert until(port, Up) == Up(5)


def test_a_forced_version_that_the_broker_does_not_speak_is_named(nats_broker: Broker) -> None:
    with running(nats_broker.url, protocol="5") as port:
        assert "`protocol`" in until(port, Down).reason


def test_something_that_is_not_a_broker_is_named() -> None:
    with ScriptedBroker() as broker, running(broker.url, protocol="5") as port:
        broker.accept().sock.close()
        assert "is it an MQTT broker?" in until(port, Down).reason


# What becomes of a publish


def test_more_publishes_than_the_cap_are_all_confirmed(mosquitto_broker: Broker) -> None:
    with up(mosquitto_broker.url) as port:
        for token in range(200):
            port.publish(token, "t", b"x" * 100)
        assert take(port, 200) == [Published(token) for token in range(200)]


def test_no_more_than_the_cap_is_on_the_wire() -> None:
    with ScriptedBroker() as broker, running(broker.url, in_flight_n_max=3) as port:
        peer = broker.accept()
        peer.welcome()
        until(port, Up)
        for token in range(8):
            port.publish(token, "t", b"")
        waiting = [peer.packet() for _ in range(3)]
        for acknowledged in range(5):
            assert peer.is_quiet(QUIET_S if acknowledged == 0 else 0.02)
            peer.send(PUBACK, waiting.pop(0).mid)
            waiting.append(peer.packet())
            assert until(port, Published).token == acknowledged


def test_a_lower_limit_of_the_broker_is_kept() -> None:
    receive_maximum_3 = b"\x21\x00\x03"
    with ScriptedBroker() as broker, running(broker.url) as port:
        peer = broker.accept()
        peer.welcome(properties=receive_maximum_3)
        until(port, Up)
        for token in range(5):
            port.publish(token, "t", b"")
        assert [peer.packet().kind for _ in range(2)] == [PUBLISH, PUBLISH]
        assert peer.is_quiet(QUIET_S)


@pytest.mark.parametrize(("protocol", "verdict"), [("5", Refused), ("3.1.1", Published)])
def test_a_publish_that_the_broker_denies(
    tmp_path: Path, protocol: str, verdict: type[Event]
) -> None:
    with (
        mosquitto(tmp_path, acl="topic readwrite free/#\n") as broker,
        up(broker.url, protocol=protocol) as port,
    ):
        port.publish(1, "denied/x", b"")
        port.publish(2, "free/x", b"")
        denied, allowed = take(port, 2)
        assert isinstance(denied, verdict)
        assert allowed == Published(2)


def test_nothing_published_before_down_is_sent_after_it() -> None:
    with ScriptedBroker() as broker, running(broker.url, in_flight_n_max=2) as port:
        peer = broker.accept()
        peer.welcome()
        until(port, Up)
        for token in range(5):
            port.publish(token, "old", b"")
        assert peer.packet().kind == PUBLISH
        peer.sock.close()
        until(port, Down)
        port.publish(9, "while down", b"")
        peer = broker.accept()
        peer.welcome()
        until(port, Up)
        port.publish(10, "new", b"")
        assert peer.packet().body[2:5] == b"new"
        assert peer.is_quiet(QUIET_S)


def test_paho_says_no_connection_for_a_message_that_arrives(mosquitto_broker: Broker) -> None:
    """Why the return code of paho's publish() counts for nothing here."""
    confirmed: list[int] = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_publish = lambda *arguments: confirmed.append(arguments[2])
    info = client.publish("t", b"arrives", qos=1, retain=True)
    assert info.rc == 4
    client.connect("127.0.0.1", mosquitto_broker.port)
    deadline = time.monotonic() + WAIT_S
    while not confirmed and time.monotonic() < deadline:
        client.loop(0.05)
    client.disconnect()
    assert confirmed == [info.mid]
    with up(mosquitto_broker.url) as port:
        port.subscribe(["t"])
        assert until(port, Message).payload == b"arrives"


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0b", "x" * 70_000])
def test_what_no_broker_takes_is_refused_and_the_connection_lives(
    mosquitto_broker: Broker, topic: str
) -> None:
    with up(mosquitto_broker.url) as port:
        port.publish(1, topic, b"")
        port.publish(2, "fine", b"")
        refused, published = take(port, 2)
        assert isinstance(refused, Refused)
        assert published == Published(2)


def test_a_message_larger_than_the_broker_takes_is_refused(tmp_path: Path) -> None:
    with mosquitto(tmp_path, extra="max_packet_size 2000") as broker, up(broker.url) as port:
        port.publish(1, "t", b"x" * 2000)
        port.publish(2, "t", b"x" * 1000)
        refused, published = take(port, 2)
        assert isinstance(refused, Refused)
        assert "2000 bytes" in refused.reason
        assert published == Published(2)


def test_publish_never_waits_and_what_may_wait_is_bounded() -> None:
    with ScriptedBroker() as broker, running(broker.url) as port:
        peer = broker.accept()
        peer.welcome()
        until(port, Up)
        chunk = b"x" * 48 * 1024
        for token in range(UNCONFIRMED_N_MAX + 1):  # nobody reads the socket meanwhile
            port.publish(token, "t", chunk)
        assert until(port, Refused).token == UNCONFIRMED_N_MAX
        for token in range(20):
            packet = peer.packet()
            assert packet.body.endswith(chunk)
            peer.send(PUBACK, packet.mid)
            assert until(port, Published).token == token


# Subscriptions


def test_every_port_with_a_matching_filter_gets_a_message(mosquitto_broker: Broker) -> None:
    link = MqttLink(BrokerConfig(url=mosquitto_broker.url), client_id="two")
    first, second = link.port("first"), link.port("second")
    link.start()
    try:
        for port in (first, second):
            until(port, Up)
            subscribed(port, "t/x")
        first.unsubscribe(["t/x"])
        subscribed(first, "other/+")
        second.publish(1, "t/x", b"1")
        second.publish(2, "other/x", b"2")
        assert until(second, Message, lambda event: event.topic == "t/x").payload == b"1"
        heard = until(first, Message, lambda event: event.topic != "probe/of/the/test")
        assert heard == Message("other/x", b"2", retained=False)
    finally:
        link.stop()


def test_one_subscribe_packet_holds_at_most_eight_filters() -> None:
    with ScriptedBroker() as broker, running(broker.url, protocol="3.1.1") as port:
        peer = broker.accept()
        peer.welcome()
        until(port, Up)
        port.subscribe([f"t/{number:02}" for number in range(19)])
        counts = []
        for _ in range(3):
            packet = peer.packet()
            assert packet.kind == SUBSCRIBE
            counts.append((len(packet.body) - 2) // len(b"\0\x04t/00\x01"))
        assert counts == [8, 8, 3]


def test_a_subscription_that_the_broker_refuses_is_said() -> None:
    with ScriptedBroker() as broker, running(broker.url, protocol="3.1.1") as port:
        peer = broker.accept()
        peer.welcome()
        until(port, Up)
        port.subscribe(["good", "bad"])
        peer.send(SUBACK, peer.packet().mid + b"\x01\x80")
        assert until(port, Denied).topic == "bad"
        port.subscribe(["a/#/b"])
        assert until(port, Denied).topic == "a/#/b"
        for topic in (b"bad", b"good"):
            peer.send(PUBLISH, struct.pack("!H", len(topic)) + topic)
        assert until(port, Message).topic == "good"


def test_a_port_that_is_behind_makes_the_broker_wait_and_loses_nothing(tmp_path: Path) -> None:
    total = 3 * READ_AHEAD_N
    with (
        mosquitto(tmp_path, extra="max_queued_messages 0") as broker,
        up(broker.url, "slow") as slow,
        up(broker.url, "fast") as fast,
    ):
        subscribed(slow, "t")
        for start in range(0, total, 500):
            for number in range(start, start + 500):
                fast.publish(number, "t", str(number).encode())
            assert len(take(fast, 500)) == 500
        poll_until(lambda: slow.events.qsize() >= READ_AHEAD_N)
        assert slow.events.qsize() < 2 * READ_AHEAD_N
        found = [until(slow, Message, lambda event: event.topic == "t") for _ in range(total)]
        assert [int(message.payload) for message in found] == list(range(total))


def test_a_message_beyond_all_measure_is_left_at_the_broker(mosquitto_broker: Broker) -> None:
    with up(mosquitto_broker.url) as port:
        subscribed(port, "t")
        port.publish(1, "t", b"x" * RECEIVED_BYTES_MAX)
        port.publish(2, "t", b"small")
        assert until(port, Message).payload == b"small"


# Ends, and new beginnings


def test_a_broker_killed_and_restarted_is_found_again(mosquitto_broker: Broker) -> None:
    with up(mosquitto_broker.url) as port:
        subscribed(port, "t")
        mosquitto_broker.kill()
        assert until(port, Down) == Down("connection lost")
        assert not port.connected
        assert "does the broker run?" in until(port, Down).reason
        mosquitto_broker.start()
        assert until(port, Up) == Up(5)
        port.publish(1, "t", b"nobody renewed the subscription")
        assert take(port, 1) == [Published(1)]
        subscribed(port, "t")


def test_the_will_is_published_when_the_process_is_killed(mosquitto_broker: Broker) -> None:
    code = """
import sys, time
from edge_agent.config import BrokerConfig
from edge_agent.mqtt import MqttLink
link = MqttLink(BrokerConfig(url=sys.argv[1]), client_id="dies", will=("status", b"gone"))
port = link.port("a")
link.start()
port.events.get(timeout=20)
port.publish(1, "status", b"here", retain=True)
time.sleep(60)
"""
    with up(mosquitto_broker.url) as port:
        subscribed(port, "status")
        child = subprocess.Popen([sys.executable, "-c", code, mosquitto_broker.url])
        try:
            assert until(port, Message).payload == b"here"
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait(WAIT_S)
        assert until(port, Message).payload == b"gone"
        port.subscribe(["status"])
        assert until(port, Message) == Message("status", b"gone", retained=True)


def test_stop_leaves_the_last_message_and_no_will(mosquitto_broker: Broker) -> None:
    config = BrokerConfig(url=mosquitto_broker.url)
    link = MqttLink(config, client_id="ends", will=("status", b"gone"))
    port = link.port("a")
    link.start()
    until(port, Up)
    link.stop(("status", b"stopped in order"))
    assert take(port, 1) == [Down("stopped")]
    link.stop()
    with up(mosquitto_broker.url) as watcher:
        watcher.subscribe(["status"])
        assert until(watcher, Message).payload == b"stopped in order"


def test_a_link_may_be_stopped_before_it_was_started_or_up() -> None:
    config = BrokerConfig(url=f"mqtt://127.0.0.1:{free_port()}")
    MqttLink(config, client_id="a").stop()
    with running(config.url) as port:
        until(port, Down)


def test_a_packet_that_cannot_be_read_ends_the_connection_and_not_the_link() -> None:
    with ScriptedBroker() as broker, running(broker.url) as port:
        peer = broker.accept()
        peer.welcome()
        until(port, Up)
        peer.send(PUBLISH, b"\xff\xff")  # a topic of 65,535 bytes in a packet of two
        assert until(port, Down).reason == "Protocol error"
        broker.accept().welcome()
        until(port, Up)


def test_an_error_that_nobody_foresaw_ends_the_connection_and_not_the_link(
    mosquitto_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with up(mosquitto_broker.url) as port:
        port.publish(1, "t", cast("bytes", object()))
        assert "TypeError" in until(port, Down).reason
        until(port, Up)
        port.publish(2, "t", b"")
        assert until(port, Published).token == 2
    assert "Traceback" in caplog.text


def test_the_reason_that_a_broker_gives_for_closing_is_handed_on() -> None:
    with ScriptedBroker() as broker, running(broker.url) as port:
        peer = broker.accept()
        peer.welcome()
        peer.send(DISCONNECT, b"\x8e")
        reason = until(port, Down).reason
        assert reason == "the broker closed the connection: Session taken over"


def test_a_topic_that_is_not_utf_8_costs_that_message_only() -> None:
    with ScriptedBroker() as broker, running(broker.url, protocol="3.1.1") as port:
        peer = broker.accept()
        peer.welcome()
        until(port, Up)
        port.subscribe(["t"])
        peer.send(SUBACK, peer.packet().mid + b"\x01")
        peer.send(PUBLISH, b"\x00\x01\xff")
        peer.send(PUBLISH, b"\x00\x01tfine")
        assert until(port, Message) == Message("t", b"fine", retained=False)


def test_small_packets_are_sent_at_once(mosquitto_broker: Broker) -> None:
    with up(mosquitto_broker.url):
        sockets = [
            found
            for found in gc.get_objects()
            if isinstance(found, socket.socket) and peer_port(found) == mosquitto_broker.port
        ]
        assert len(sockets) == 1
        assert sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


# TLS, passwords


def test_tls_with_a_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("correct horse\nsecond line\n")
    with mosquitto(tmp_path, tls=True, users={"device": "correct horse"}) as broker:
        assert broker.certificates is not None
        options = {"ca_file": str(broker.certificates.ca), "username": "device"}
        password_file = str(tmp_path / "password")
        with up(broker.url, password_file=password_file, **options) as port:
            for token in range(20):
                port.publish(token, "t", b"x" * 40_000)
            assert take(port, 20) == [Published(token) for token in range(20)]
            subscribed(port, "t")
            port.publish(1, "t", b"y" * 40_000)
            assert until(port, Message).payload == b"y" * 40_000


def test_a_wrong_password_is_a_reason_that_does_not_tell_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "password").write_text("battery staple")
    config = {"username": "device", "password_file": str(tmp_path / "password")}
    with mosquitto(tmp_path, users={"device": "correct horse"}) as broker:
        for protocol in ("5", "3.1.1"):
            with running(broker.url, protocol=protocol, **config) as port:
                reason = until(port, Down).reason
                assert "check username" in reason
                assert "battery" not in reason
    assert "battery" not in caplog.text


def test_a_certificate_that_is_not_trusted_is_named(tmp_path: Path) -> None:
    with mosquitto(tmp_path, tls=True) as broker, running(broker.url) as port:
        assert "check ca_file" in until(port, Down).reason


def test_tls_to_a_port_without_it_is_named(mosquitto_broker: Broker) -> None:
    with running(mosquitto_broker.url.replace("mqtt:", "mqtts:")) as port:
        assert "TLS" in until(port, Down).reason


def test_client_certificates(tmp_path: Path) -> None:
    with mosquitto(tmp_path, tls=True, client_certificates=True) as broker:
        files = broker.certificates
        assert files is not None
        with running(broker.url, ca_file=str(files.ca)) as port:
            until(port, Down)
        pair = {"cert_file": str(files.client_cert), "key_file": str(files.client_key)}
        with up(broker.url, ca_file=str(files.ca), **pair) as port:
            assert port.connected


@pytest.mark.parametrize("field", ["ca_file", "cert_file"])
def test_tls_files_that_cannot_be_used_are_errors_at_once(tmp_path: Path, field: str) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    for name in (str(broken), str(tmp_path / "absent.pem")):
        config = BrokerConfig(url="mqtts://127.0.0.1", **{field: name})
        with pytest.raises(ConfigError, match=f"broker {field}: {name}"):
            MqttLink(config, client_id="a")


def peer_port(sock: socket.socket) -> int | None:
    try:
        return int(sock.getpeername()[1])
    except (OSError, IndexError):
        return None


def poll_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
