"""What a stolen credential reaches on the shipped brokers: a device's own topics, no other's."""

import socket
import ssl
import time

import paho.mqtt.client as paho
import pytest
from access import BASE, CONFIGS, DEADLINE_S, OPERATORS, TOPICS, Client, members
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent.address import parse_url, read_password
from edge_agent.fleet.access.book import Book, Given, nats_users
from edge_agent.mqtt.tls import tls_context

DIGEST = "ab" * 32
OWN = {  # of pi-1, whose credential was stolen: topic -> whether it is retained
    TOPICS.status("pi-1"): True,
    TOPICS.records("pi-1", "live"): False,
    TOPICS.records("pi-1", "backlog"): False,
    TOPICS.request("pi-1"): False,
    TOPICS.bench("pi-1", "motion"): True,
}
FOR_IT = {
    TOPICS.status("pi-1"),
    TOPICS.ack("pi-1"),
    TOPICS.response("pi-1"),
    TOPICS.truth("pi-1"),
    TOPICS.desired_for_device("pi-1", "motion"),
    TOPICS.desired_for_group("kitchen", "motion"),
    TOPICS.desired_for_group("cellar", "motion"),
    TOPICS.blob(DIGEST),
    TOPICS.trust_index(),
}
OTHERS_ALONE = {  # it may neither read nor write these
    TOPICS.status("pi-2"),
    TOPICS.records("pi-2", "live"),
    TOPICS.records("pi-2", "backlog"),
    TOPICS.ack("pi-2"),
    TOPICS.request("pi-2"),
    TOPICS.bench("pi-2", "motion"),
    TOPICS.response("pi-2"),
    TOPICS.truth("pi-2"),
    TOPICS.desired_for_device("pi-2", "motion"),
    "edge/probe/1",
    "edge/else",
    "other/device/pi-1/status",
    "alarms/pi-2/door",
    "sensors/pi-2/door",
}
NOT_TO_WRITE = OTHERS_ALONE | (FOR_IT - {TOPICS.status("pi-1")})
WILDCARDS = [
    "#",
    "+/#",
    "edge/#",
    "edge/device/#",
    "edge/device/+/status",
    "edge/device/+/records/+",
    "edge/device/pi-2/#",
    "edge/device/+/ack",
    "edge/desired/#",
    "edge/desired/device/#",
    "edge/desired/device/+/+",
    "edge/+/+/+/+",
    "$share/thieves/edge/#",
    "$share/thieves/edge/device/+/status",
    "$SYS/#",
    "$MQTT/#",
    "$MQTT/sub/#",
    "$MQTT/rmsgs/#",
    "$JS/#",
    "_INBOX/#",
]


class World:
    """A broker that is there for all tests of this module which do not end it."""

    def __init__(self, found, broker, protocol):
        self.found, self.broker, self.protocol = found, broker, protocol
        self.number = 0

    def client(self, user):
        return Client(self.found.settings(user, protocol=self.protocol), name=user)

    def fresh(self):
        """A payload that nobody has sent before."""
        self.number += 1
        return f"message {self.number}".encode()


@pytest.fixture(
    scope="module",
    params=[
        ("mosquitto", "mtls", "5"),
        ("mosquitto", "password", "3.1.1"),
        ("nats", "mtls", "3.1.1"),
        ("nats", "password", "3.1.1"),
    ],
    ids="-".join,
)
def world(request, tmp_path_factory):
    kind, how, protocol = request.param
    with members(tmp_path_factory.mktemp(kind), kind, how) as (found, broker):
        yield World(found, broker, protocol)


def test_a_device_reads_and_writes_what_is_its_own(world):
    with world.client("admin") as admin, world.client("pi-1") as device:
        admin.subscribe("edge/#")
        for topic, retain in OWN.items():
            payload = world.fresh()
            assert device.publish(topic, payload, retain=retain)
            admin.hear(payload)
        device.subscribe(*FOR_IT)
        for topic in FOR_IT:
            payload = world.fresh()
            assert admin.publish(topic, payload)
            device.hear(payload)
        assert device.denied == []


def test_what_is_retained_for_a_device_reaches_it(world):
    retained = {
        TOPICS.desired_for_device("pi-1", "motion"): world.fresh(),
        TOPICS.blob(DIGEST): world.fresh(),
    }
    with world.client("publisher") as publisher, world.client("pi-1") as device:
        for topic, payload in retained.items():
            assert publisher.publish(topic, payload, retain=True)
        for topic, payload in retained.items():
            device.find(topic, payload)
        assert {message.topic for message in device.messages} == set(retained)
        assert all(message.retained for message in device.messages)


def test_a_stolen_device_writes_nowhere_else(world):
    evil, end = world.fresh(), world.fresh()
    with world.client("admin") as admin, world.client("pi-1") as thief:
        admin.subscribe("#")
        silent = [thief.publish(topic, evil, retain=True) for topic in sorted(NOT_TO_WRITE)]
        thief.publish("$SYS/broker/version", evil)
        thief.publish("$MQTT/rmsgs/edge", evil)
        assert any(silent) == (world.protocol == "3.1.1")  # version 5 says that it is refused
        assert thief.publish(TOPICS.status("pi-1"), end, retain=True)
        admin.hear(end)
        assert evil not in {message.payload for message in admin.messages}
    with world.client("admin") as later:
        later.find("#", end)  # as retained: so would be the others
        later.publish("edge/else", b"last")
        later.hear(b"last")
        assert evil not in {message.payload for message in later.messages}


def test_a_stolen_device_hears_nothing_of_others(world):
    secret, end = world.fresh(), world.fresh()
    with world.client("admin") as admin, world.client("pi-1") as thief:
        before = world.fresh()
        for topic in sorted(OTHERS_ALONE):
            assert admin.publish(topic, before, retain=True)
        thief.subscribe(*WILDCARDS, *OTHERS_ALONE)
        with world.client("pi-2") as victim:
            for topic in (TOPICS.status("pi-2"), TOPICS.records("pi-2", "live")):
                assert victim.publish(topic, secret)
        for topic in sorted(OTHERS_ALONE):
            assert admin.publish(topic, secret)
        thief.subscribe(TOPICS.ack("pi-1"))
        assert admin.publish(TOPICS.ack("pi-1"), end)
        thief.hear(end)
        heard = {message.payload for message in thief.messages}
        assert {before, secret}.isdisjoint(heard)
        assert thief.topics <= FOR_IT


def test_a_stolen_device_leaves_no_will_in_the_name_of_others(world):
    with world.client("admin") as admin:
        admin.subscribe("edge/#")
        will = world.fresh()
        dies_with_a_will(world, TOPICS.status("pi-2"), will)  # refused or ignored
        own = world.fresh()
        dies_with_a_will(world, TOPICS.status("pi-1"), own)
        admin.hear(own)
        assert will not in {message.payload for message in admin.messages}


def dies_with_a_will(world, topic, payload):
    """Connect as pi-1 and vanish without a word."""
    settings = world.found.settings("pi-1")
    version_5 = world.protocol == "5"
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"dies-{payload.decode().replace(' ', '-')}",
        protocol=MQTTProtocolVersion.MQTTv5 if version_5 else MQTTProtocolVersion.MQTTv311,
    )
    client.tls_set_context(tls_context(settings))
    if settings.username:
        client.username_pw_set(settings.username, read_password(settings))
    client.will_set(topic, payload, qos=1, retain=True)
    answers = []
    client.on_connect = lambda *arguments: answers.append(arguments[3])
    address = parse_url(settings.url)
    client.connect(address.host, address.port)
    deadline = time.monotonic() + DEADLINE_S
    while not answers and client.socket() is not None:
        assert time.monotonic() < deadline
        client.loop(0.05)
    if client.socket() is not None:
        client.socket().shutdown(socket.SHUT_RDWR)


def test_a_viewer_writes_nothing(world):
    evil, end = world.fresh(), world.fresh()
    with world.client("admin") as admin, world.client("viewer") as viewer:
        admin.subscribe("edge/#")
        viewer.subscribe("edge/device/+/status", "edge/device/+/records/+")
        for topic in sorted(OTHERS_ALONE | FOR_IT | set(OWN)):
            viewer.publish(topic, evil, retain=True)
        assert admin.publish(TOPICS.status("pi-2"), end)
        viewer.hear(end)
        admin.hear(end)
        assert evil not in {message.payload for message in admin.messages}


def test_a_collector_neither_orders_nor_speaks_for_devices(world):
    evil, end = world.fresh(), world.fresh()
    mine = {TOPICS.ack("pi-1"), TOPICS.ack("pi-2"), "edge/probe/1"}
    with world.client("admin") as admin, world.client("collector") as collector:
        admin.subscribe("edge/#")
        for topic in sorted((OTHERS_ALONE | FOR_IT | set(OWN)) - mine):
            collector.publish(topic, evil, retain=True)
        assert collector.publish(TOPICS.ack("pi-2"), end)
        admin.hear(end)
        assert evil not in {message.payload for message in admin.messages}


def test_a_publisher_does_not_speak_for_devices(world):
    evil, end = world.fresh(), world.fresh()
    with world.client("admin") as admin, world.client("publisher") as publisher:
        admin.subscribe("edge/#")
        for topic in sorted({*OWN, TOPICS.ack("pi-1"), TOPICS.records("pi-2", "live")}):
            publisher.publish(topic, evil, retain=True)
        assert publisher.publish(TOPICS.trust_index(), end, retain=True)
        admin.hear(end)
        assert evil not in {message.payload for message in admin.messages}


def test_topics_of_ones_own_are_allowed_as_the_comment_says(tmp_path):
    with members(tmp_path, "mosquitto", "mtls") as (found, broker):
        world = World(found, broker, "5")
        with world.client("admin") as admin, world.client("pi-1") as device:
            admin.subscribe("alarms/#")
            assert device.publish("alarms/pi-1/door", b"mine")
            assert not device.publish("alarms/pi-2/door", b"not mine")
            device.subscribe("sensors/#")
            assert admin.publish("sensors/pi-2/door", b"not for it")
            assert admin.publish("sensors/pi-1/door", b"for it")
            device.hear(b"for it")
            admin.hear(b"mine")
        assert device.topics == {"sensors/pi-1/door"}
        assert admin.topics == {"alarms/pi-1/door"}


def test_nobody_comes_in_without_a_credential(world):
    address = parse_url(world.found.url)
    settings = world.found.settings("pi-1", cert_file=None, key_file=None, username=None)
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    client.tls_set_context(tls_context(settings))
    answers = []
    client.on_connect = lambda *arguments: answers.append(arguments[3])
    try:
        client.connect(address.host, address.port)
        deadline = time.monotonic() + DEADLINE_S
        while client.socket() is not None and not answers:
            assert time.monotonic() < deadline
            client.loop(0.05)
    except (ssl.SSLError, ConnectionError):
        pass  # refused before MQTT was spoken
    assert not [answer for answer in answers if not answer.is_failure]


def test_the_example_for_nats_is_what_provisioning_writes():
    users = ("pi-kitchen", *OPERATORS)
    rendered = nats_users(Book(given={user: Given(serial="1") for user in users}))
    shipped = (CONFIGS / "nats-users.conf").read_text()
    assert (
        "".join(s for s in shipped.splitlines(keepends=True) if not s.startswith("#")) == rendered
    )
    assert BASE["device"] not in rendered
