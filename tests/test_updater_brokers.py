"""Updates over real brokers, with the broker or the agent killed in the middle.

Run as a program, this file is the agent that is killed: it updates one stand-in pipeline.
"""

import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import brokers
import pytest
from bundles import make_bundle

from edge_agent.clock import SystemClock
from edge_agent.config import BrokerConfig, TrialConfig, UpdateConfig
from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.chunks import cut
from edge_agent.contract.messages import Desired, encode
from edge_agent.contract.topics import Topics
from edge_agent.health import Health
from edge_agent.link import Published, Up
from edge_agent.mqtt import MqttLink
from edge_agent.update.states import TRIES
from edge_agent.update.store import Store
from edge_agent.update.updater import Updater

pytest_plugins = ("brokers",)

TOPICS = Topics("edge")
DESIRED = TOPICS.desired_for_device("pi-1", "motion")
DEADLINE_S = 60.0
WINDOW_N = 10
AT_ONCE = TrialConfig(seconds=0, windows_min=0)


class Pipe:
    """Stands in for a pipeline that takes every model at once."""

    name, batch_n = "motion-1", 1

    def misfit(self, manifest):
        return None

    def swap(self, model):
        taken = threading.Event()
        taken.set()
        return taken

    def accompany(self, shadow):
        pass

    def health(self):
        return Health()


@contextmanager
def updating(url, folder, report):
    """An updater on a thread of its own; connected on entry."""
    link = MqttLink(BrokerConfig(url=url), client_id=f"agent-{secrets.token_hex(4)}")
    updater = Updater(
        store=Store(folder),
        trust=folder.parent / "trust",
        port=link.port("update"),
        topics=TOPICS,
        device="pi-1",
        groups=("hall",),
        targets={"motion": [Pipe()]},
        report=report,
        config=UpdateConfig(unsigned=True, answer_s=1.0, trial=AT_ONCE),
        clock=SystemClock(),
    )
    stop = threading.Event()
    thread = threading.Thread(target=updater.run, args=(stop,))
    thread.start()
    link.start()
    try:
        yield updater
    finally:
        stop.set()
        thread.join()
        link.stop()


def publish(broker, messages):
    """Publish retained messages; the broker has acknowledged them on return."""
    link = MqttLink(BrokerConfig(url=broker.url), client_id=f"operator-{secrets.token_hex(4)}")
    port = link.port("publish")
    link.start()
    waiting, unacknowledged = list(enumerate(messages.items())), set()
    try:
        while not isinstance(port.events.get(timeout=DEADLINE_S), Up):
            pass
        while waiting or unacknowledged:
            while waiting and len(unacknowledged) < WINDOW_N:
                token, (topic, payload) = waiting.pop()
                unacknowledged.add(token)
                port.publish(token, topic, payload, retain=True)
            event = port.events.get(timeout=DEADLINE_S)
            assert isinstance(event, Published), event
            unacknowledged.remove(event.token)
    finally:
        link.stop()


def blobs(data):
    return {TOPICS.blob(digest): blob for digest, blob in cut(data).blobs.items()}


def desired(data, revision):
    whole = cut(data)
    message = Desired(
        revision=revision,
        model="motion",
        version=parse_bundle(data).manifest.version,
        sha256=whole.payload.sha256,
        bytes=len(data),
        payloads=(whole.payload,),
    )
    return {DESIRED: encode(message)}


def wait(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(params=["mosquitto", "nats"])
def broker(request, tmp_path):
    with getattr(brokers, request.param)(tmp_path) as running:
        yield running


def test_a_model_of_megabytes_arrives(tmp_path, broker):
    data = make_bundle(version="1.1.0", padding=2_000_000)
    publish(broker, blobs(data) | desired(data, 5))
    records = []
    with updating(broker.url, tmp_path / "store", records.append):
        wait(lambda: records and records[-1].state in {"committed", "refused"})
    assert records[-1].state == "committed"
    assert Store(tmp_path / "store").pointer("motion").current.version == "1.1.0"


def test_the_first_agent_after_a_restart_of_nats_still_finds_its_state(tmp_path):
    data = make_bundle(version="1.1.0", padding=200_000)
    with brokers.nats(tmp_path) as broker:
        publish(broker, blobs(data) | desired(data, 5))
        broker.terminate()
        broker.restart()
        records = []
        with updating(broker.url, tmp_path / "store", records.append):
            wait(lambda: records and records[-1].state in {"committed", "refused"})
    assert records[-1].state == "committed"


def test_a_broker_that_is_killed_and_lost_everything_is_seeded_again(tmp_path, mosquitto_broker):
    broker = mosquitto_broker
    data = make_bundle(version="1.1.0", padding=2_000_000)
    parts = list(blobs(data).items())
    records = []
    with updating(broker.url, tmp_path / "store", records.append) as updater:
        publish(broker, dict(parts[: len(parts) // 2]) | desired(data, 5))
        wait(lambda: any("waiting for" in report.reason for report in updater.reports()))
        broker.kill()
        broker.restart()
        publish(broker, dict(parts) | desired(data, 5))
        wait(lambda: records[-1].state in {"committed", "refused"})
    assert [r.state for r in records if r.state != "fetching"][-2:] == ["trial", "committed"]


def test_an_agent_that_is_killed_at_any_moment_ends_with_the_new_model(tmp_path, broker):
    """Killed again and again on the way from 1.0.0 to 1.1.0: one of the two always loads."""
    data = make_bundle(version="1.1.0", padding=6_000_000)
    folder = tmp_path / "store"
    store = Store(folder)
    store.install(make_bundle(version="1.0.0"))
    publish(broker, blobs(data) | desired(data, 5))
    moments = random.Random(4)
    for _ in range(TRIES["probing"] - 1):  # one more in that state, and it would be refused
        with agent(broker.url, folder) as child:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(moments.uniform(0.0, 0.4))  # the moment of the kill is what varies
            os.kill(child.pid, signal.SIGKILL)
        current = Store(folder).pointer("motion").current
        assert store.read(current.sha256).manifest.version in {"1.0.0", "1.1.0"}
    with agent(broker.url, folder) as child:
        wait(lambda: store.pointer("motion").current.version == "1.1.0")
        os.kill(child.pid, signal.SIGKILL)
    pointer = store.pointer("motion")
    assert store.read(pointer.current.sha256).digest == cut(data).payload.sha256
    assert pointer.previous.version == "1.0.0"


@contextmanager
def agent(url, folder):
    command = [sys.executable, __file__, url, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


if __name__ == "__main__":
    with updating(sys.argv[1], Path(sys.argv[2]), lambda _: None):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        threading.Event().wait(DEADLINE_S)
