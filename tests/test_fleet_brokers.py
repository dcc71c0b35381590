"""Publishing and collecting over real brokers that are killed in the middle."""

import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from queue import Empty

import brokers
import msgspec
import pytest
from bundles import make_bundle

from edge_agent.config import BrokerConfig
from edge_agent.contract.chunks import cut
from edge_agent.contract.messages import Ack, Batch, Decision, Desired, decode, encode, with_seq
from edge_agent.contract.topics import Topics
from edge_agent.encoding import compress
from edge_agent.fleet.parcel import Target, read_parcel
from edge_agent.fleet.publish import Publisher
from edge_agent.fleet.session import open_session
from edge_agent.link import Message, Published, Up
from edge_agent.mqtt import MqttLink

pytest_plugins = ("brokers",)

TOPICS = Topics("edge")
DEADLINE_S = 60.0
BUNDLE = make_bundle(padding=4_000_000)
WHOLE = cut(compress(BUNDLE), "zstd")
BLOBS = {TOPICS.blob(digest): data for digest, data in WHOLE.blobs.items()}


@pytest.fixture(params=["mosquitto", "nats"])
def broker(request, tmp_path):
    with getattr(brokers, request.param)(tmp_path) as running:
        yield running


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def retained(broker, topics):
    with open_session(BrokerConfig(url=broker.url)) as session:
        session.connect(DEADLINE_S)
        return session.ask(topics, 4.0)


def test_a_broker_killed_in_the_middle_of_a_publish_ends_up_with_everything(broker, tmp_path):
    path = tmp_path / "motion.bundle"
    path.write_bytes(BUNDLE)
    steps = []

    def kill_half_way(done, total):
        steps.append(done)
        if len(steps) == 2:
            assert 0 < done < total
            broker.restart(kill=True)

    with open_session(BrokerConfig(url=broker.url)) as session:
        report = Publisher(
            session,
            TOPICS,
            read_parcel(path),
            Target.parse("pi-1"),
            wait_s=0,
            connect_s=DEADLINE_S,
            tell=lambda _: None,
            progress=kill_half_way,
        ).run()
    assert report.reconnects >= 1
    assert retained(broker, list(BLOBS)) == BLOBS
    topic = TOPICS.desired_for_device("pi-1", "motion")
    assert decode(retained(broker, [topic])[topic], Desired).sha256 == report.sha256


class Sender:
    """A small device: numbers its records and sends them until they are acknowledged."""

    def __init__(self, broker, device="pi-1"):
        self.device = device
        self.boot = secrets.token_hex(4)
        self.link = MqttLink(BrokerConfig(url=broker.url), client_id=f"test-{self.boot}")
        self.port = self.link.port("test")
        self.unconfirmed = {}
        self.sent_n = 0
        self.published = 0
        self._token = 0
        self._again = 0.0

    def __enter__(self):
        self.link.start()
        return self

    def __exit__(self, *_):
        self.link.stop()

    def add(self, count):
        for _ in range(count):
            self.sent_n += 1
            record = Decision(t=1.0, pipeline="p", model="1", reading=self.sent_n, score=0.5)
            self.unconfirmed[self.sent_n] = with_seq(self.sent_n, encode(record))

    def step(self):
        """Take in what came; send everything unconfirmed again when it is time."""
        try:
            event = self.port.events.get(timeout=0.02)
            if isinstance(event, Up):
                self.port.subscribe([TOPICS.ack(self.device)])
                self._again = 0.0
            elif isinstance(event, Published):
                self.published = event.token
            elif isinstance(event, Message):
                self._confirm(decode(event.payload, Ack))
        except Empty:
            pass
        if self.port.connected and time.monotonic() > self._again:
            self.send()
            self._again = time.monotonic() + 0.5

    def send(self):
        waiting = sorted(self.unconfirmed)
        for at in range(0, len(waiting), 20):
            bodies = [msgspec.Raw(self.unconfirmed[seq]) for seq in waiting[at : at + 20]]
            payload = encode(Batch(device=self.device, boot=self.boot, records=bodies))
            self._token += 1
            self.port.publish(self._token, TOPICS.records(self.device, "live"), payload)

    def until(self, condition):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"{len(self.unconfirmed)} records are unconfirmed"
            self.step()

    def _confirm(self, ack):
        if ack.boot == self.boot:
            for seq in [seq for seq in self.unconfirmed if covers(ack, seq)]:
                del self.unconfirmed[seq]


def covers(ack, seq):
    return seq <= ack.through or any(first <= seq <= last for first, last in ack.ranges)


@contextmanager
def collector(broker, target, *options):
    """``edge-fleet collect`` as a process of its own, ended by its id."""
    command = [sys.executable, "-m", "edge_agent.fleet", "collect", "--to", str(target)]
    process = subprocess.Popen(
        [*command, "--broker", broker.url, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()


def end(process):
    """Ask a collector to end; its last line."""
    process.terminate()
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    head, _, body = out.splitlines()[-1].partition(" ")
    assert head == "RESULT"
    return json.loads(body)


def stored(path):
    """How often each (boot, seq) is in a record file."""
    if path.suffix == ".db":
        with closing(sqlite3.connect(path)) as db:
            return Counter(db.execute("SELECT boot, seq FROM records"))
    lines = map(json.loads, path.read_text().splitlines())
    return Counter((line["boot"], line["record"]["seq"]) for line in lines)


@pytest.mark.parametrize("names", [("all.db", "all.db"), ("a.jsonl", "b.jsonl")])
def test_one_of_two_collectors_is_killed_and_nothing_is_lost(broker, tmp_path, stack, names):
    one, two = (tmp_path / name for name in names)
    with Sender(broker) as sender, collector(broker, one) as victim:
        sender.add(400)
        sender.until(lambda: not sender.unconfirmed)
        survivor = stack.enter_context(collector(broker, two))
        sender.add(2000)
        sender.send()
        sender.until(lambda: len(sender.unconfirmed) < 1500)
        victim.kill()
        sender.add(600)
        sender.until(lambda: not sender.unconfirmed)
        result = end(survivor)
    if one == two:
        assert (result["received"], result["missing"]) == (3000, 0)
    else:
        whole = one.read_bytes()
        one.write_bytes(whole[: whole.rfind(b"\n") + 1])  # the kill may have torn the last line
    everything = stored(one) | stored(two)
    assert sorted(everything) == [(sender.boot, seq) for seq in range(1, 3001)]
    assert set(everything.values()) == {1}


def test_a_killed_broker_with_a_lagging_collector_loses_nothing(mosquitto_broker, tmp_path):
    broker, path = mosquitto_broker, tmp_path / "records.db"
    with collector(broker, path) as process, Sender(broker) as sender:
        sender.add(100)
        sender.until(lambda: not sender.unconfirmed)
        os.kill(process.pid, signal.SIGSTOP)  # it lags: what the broker holds for it will be lost
        sender.add(3000)
        sender.send()
        sender.until(lambda: sender.published == sender._token)  # acknowledged by the broker
        broker.restart(kill=True)
        os.kill(process.pid, signal.SIGCONT)
        sender.add(100)
        sender.until(lambda: not sender.unconfirmed)
        result = end(process)
    assert (result["produced"], result["received"], result["missing"]) == (3200, 3200, 0)


def test_a_collector_started_again_goes_on_where_its_file_ends(broker, tmp_path):
    path = tmp_path / "records.jsonl"
    with Sender(broker) as sender:
        for _ in range(2):
            sender.add(500)
            with collector(broker, path) as process:
                sender.until(lambda: not sender.unconfirmed)
                result = end(process)
    assert (result["received"], result["missing"]) == (1000, 0)
    assert set(stored(path).values()) == {1}


def test_a_collector_ends_by_itself_when_nothing_comes(mosquitto_broker, tmp_path):
    with (
        collector(mosquitto_broker, tmp_path / "r.db", "--until-idle", "1.5") as process,
        Sender(mosquitto_broker) as sender,
    ):
        sender.add(50)
        sender.until(lambda: not sender.unconfirmed)
        out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1].removeprefix("RESULT "))["received"] == 50
