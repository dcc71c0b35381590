"""A data line against real brokers, and against one that does what no real one does on demand."""

from __future__ import annotations

import time

import brokers
import pytest
from scripted import CONNACK, PUBACK, PUBLISH, SUBACK, SUBSCRIBE, Peer, ScriptedBroker

from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError, LinkError
from edge_agent.link import Message, Up
from edge_agent.mqtt import MqttLink
from edge_agent.mqtt.line import MqttLine

pytest_plugins = ("brokers",)
DEADLINE_S = 20.0
PINGREQ = 0xC0


class Kept:
    """What a line could not deliver."""

    def __init__(self):
        self.messages = []

    def __call__(self, topic, payload):
        self.messages.append((topic, payload))


@pytest.fixture
def scripted():
    with ScriptedBroker() as broker:
        yield broker


@pytest.fixture
def line(scripted):
    line = MqttLine(BrokerConfig(url=scripted.url, protocol="5"))
    line.open("s/+")
    yield line
    line.close()


def greet(broker: ScriptedBroker, line: MqttLine, *, properties: bytes = b"") -> Peer:
    """Accept the line's connection and its subscription; it may still have to notice a loss."""
    until(lambda: broker.is_asked() or line.receive(0.05) is None)
    peer = broker.accept()
    peer.welcome(properties=properties)
    packet = peer.packet()
    assert packet.kind == SUBSCRIBE
    peer.send(SUBACK, packet.mid + b"\0\1")
    until(lambda: line.receive(0.05) == [] and line.send("t", b"up", None))
    line.receive(0.0)
    assert peer.packet().kind == PUBLISH
    return peer


def until(condition):
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_both_ways_over_a_real_broker_and_its_restart(kind, tmp_path):
    with getattr(brokers, kind)(tmp_path) as broker:
        config = BrokerConfig(url=broker.url)
        other = MqttLink(config, client_id="other")
        port = other.port("other")
        other.start()
        line, kept = MqttLine(config), Kept()
        line.open("lab/+")
        try:
            assert isinstance(port.events.get(timeout=DEADLINE_S), Up)
            port.subscribe(["out"])
            for attempt in (b"first", b"second"):
                until(lambda: _arrives(line, port, attempt))  # noqa: B023 - called at once
                assert line.send("out", b"0" + attempt, None)
                assert line.send("out", b"1" + attempt, kept)
                line.receive(0.0)
                until(lambda: _last(port) == b"1" + attempt)  # noqa: B023 - called at once
                if attempt == b"first":
                    broker.restart()
                    until(lambda: line.receive(0.01) is None or isinstance(_event(port), Up))
                    port.subscribe(["out"])
        finally:
            line.close()
            other.stop()
        assert kept.messages == []


def _arrives(line, port, payload):
    port.publish(1, "lab/x", payload)
    return payload in [message.payload for message in line.receive(0.1)]


def _event(port):
    return port.events.get(timeout=DEADLINE_S)


def _last(port):
    event = _event(port)
    return event.payload if isinstance(event, Message) else None


def test_what_is_not_acknowledged_is_kept_when_the_connection_ends(scripted, line):
    peer, kept = greet(scripted, line), Kept()
    assert line.send("t", b"a", kept)
    assert line.send("t", b"b", kept)
    line.receive(0.0)
    packets = [peer.packet(), peer.packet()]
    peer.send(PUBACK, packets[0].mid)
    peer.sock.close()
    until(lambda: line.receive(0.05) == [] and kept.messages)
    assert kept.messages == [("t", b"b")]
    assert not line.send("t", b"c", kept)
    greet(scripted, line)


def test_what_is_not_acknowledged_in_time_is_kept_while_the_connection_stays(scripted, line):
    peer, kept = greet(scripted, line), Kept()
    assert line.send("t", b"a", kept)
    until(lambda: line.receive(0.1) == [] and kept.messages)
    peer.send(PUBACK, peer.packet().mid)  # late: it is kept, and may come twice
    line.receive(0.1)
    assert kept.messages == [("t", b"a")]


def test_what_the_broker_refuses_is_kept(scripted, line):
    peer, kept = greet(scripted, line), Kept()
    assert line.send("t", b"a", kept)
    line.receive(0.0)
    peer.send(PUBACK, peer.packet().mid + b"\x87\0")
    until(lambda: line.receive(0.05) == [] and kept.messages)
    assert kept.messages == [("t", b"a")]


def test_no_more_is_in_flight_than_the_broker_takes_and_no_packet_too_large(scripted, line):
    limits = b"\x21\x00\x01\x27\x00\x00\x00\x40"  # one in flight, 64 bytes
    peer, kept = greet(scripted, line, properties=limits), Kept()
    assert not line.send("t", b"x" * 64, kept)
    assert line.send("t", b"a", kept)
    assert line.send("t", b"b", kept)
    line.receive(0.0)
    first = peer.packet()
    assert first.body.endswith(b"a")
    assert peer.is_quiet(0.1)
    peer.send(PUBACK, first.mid)
    until(lambda: line.receive(0.05) == [] and not peer.is_quiet(0.05))
    second = peer.packet()
    assert second.body.endswith(b"b")
    peer.send(PUBACK, second.mid)
    line.receive(1.0)
    assert kept.messages == []


def test_a_broker_without_qos_1_gets_nothing_that_is_to_be_confirmed(scripted, line):
    peer, kept = greet(scripted, line, properties=b"\x24\x00"), Kept()
    assert not line.send("t", b"a", kept)
    assert line.send("t", b"b", None)
    line.receive(0.0)
    assert peer.packet().body.endswith(b"b")


def test_a_broker_that_says_goodbye_with_its_answer_is_left(scripted, line):
    peer = scripted.accept()
    peer.welcome()
    peer.sock.sendall(b"\x90\x04" + peer.packet().mid + b"\0\1\xe0\0")
    greet(scripted, line)


def test_readings_of_qos_1_are_acknowledged(scripted, line):
    peer = greet(scripted, line)
    peer.send(PUBLISH | 2, b"\x00\x03s/1\x00\x09\x00[1]")
    (message,) = line.receive(DEADLINE_S)
    assert (message.payload, message.retained) == (b"[1]", False)
    line.receive(0.0)
    assert peer.packet() == (PUBACK, b"\x00\x09")


def test_the_connection_is_kept_alive_and_given_up_when_nothing_comes(scripted, line):
    peer = greet(scripted, line, properties=b"\x13\x00\x01")  # the broker asks for 1 s
    until(lambda: line.receive(0.1) == [] and not peer.is_quiet(0.01))
    assert peer.packet().kind == PINGREQ
    until(lambda: line.receive(0.1) == [] and not line.send("t", b"", None))
    greet(scripted, line)


def test_a_broker_that_breaks_the_rules_is_left(scripted, line):
    peer = greet(scripted, line)
    peer.sock.sendall(b"\x30\xff\xff\xff\xff\xff")
    until(lambda: line.receive(0.05) == [] and not line.send("t", b"", None))
    greet(scripted, line)


def test_a_broker_that_answers_nonsense_is_left(scripted, line):
    peer = scripted.accept()
    peer.packet()
    peer.send(CONNACK, b"\0")
    greet(scripted, line)


def test_a_denied_subscription_is_said(scripted, line):
    peer = scripted.accept()
    peer.welcome()
    peer.send(SUBACK, peer.packet().mid + b"\0\x87")
    with pytest.raises(LinkError, match=r"s/\+ \(reason code 0x87\)"):
        line.receive(DEADLINE_S)


def test_a_broker_of_3_1_1_is_met_in_its_version(scripted):
    line = MqttLine(BrokerConfig(url=scripted.url))
    line.open("s/+")
    peer = scripted.accept()
    assert peer.packet().body[6] == 5
    peer.send(CONNACK, b"\0\1")  # "unacceptable protocol version"
    peer = scripted.accept()
    assert peer.welcome() == 4
    peer.send(SUBACK, peer.packet().mid + b"\1")
    until(lambda: line.receive(0.05) == [] and line.send("t", b"a", None))
    line.receive(0.0)
    assert peer.packet() == (PUBLISH, b"\0\1ta")
    line.close()


def test_a_line_that_is_down_takes_nothing_and_may_be_closed_at_any_time():
    line = MqttLine(BrokerConfig(url="mqtt://127.0.0.1:1"))
    line.close()
    line.open("s")
    assert not line.send("t", b"a", None)
    assert line.receive(0.0) == []
    line.close()
    line.close()
    assert line.receive(0.0) == []


def test_a_password_that_is_not_there_is_a_config_error():
    config = BrokerConfig(url="mqtt://127.0.0.1:1", username="me", password_file="/nowhere")
    with pytest.raises(ConfigError, match="nowhere"):
        MqttLine(config).open("s")
