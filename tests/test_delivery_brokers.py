"""The uplink over real brokers, with a small collector that may be slow, and kill -9."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import Empty

import brokers
import msgspec
import pytest
from outboxes import decision

from edge_agent.clock import SystemClock
from edge_agent.config import BrokerConfig, OutboxConfig, UplinkConfig
from edge_agent.contract.messages import Ack, Batch, decode, encode
from edge_agent.contract.topics import Topics
from edge_agent.link import Message, Up
from edge_agent.mqtt import MqttLink
from edge_agent.spans import Spans
from edge_agent.uplink.uplink import Uplink

TOPICS = Topics("edge")
DEADLINE_S = 40.0


class Agent:
    """What a real agent does with its uplink: one thread, one link."""

    def __init__(self, path: Path, broker: brokers.Broker, **uplink: object) -> None:
        config = msgspec.convert(uplink, UplinkConfig)
        self.uplink = Uplink(
            path,
            topics=TOPICS,
            device="pi",
            outbox=OutboxConfig(flush_s=0.02),
            uplink=config,
            clock=SystemClock(),
        )
        client_id = f"pi-{self.uplink.boot}"
        self._link = MqttLink(BrokerConfig(url=broker.url, keepalive_s=5), client_id=client_id)
        self.uplink.attach(self._link.port("uplink"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.uplink.run, args=(self._stop,))
        self._thread.start()
        self._link.start()

    def offer(self, n: int) -> None:
        for reading in range(n):
            self.uplink.offer(decision(reading))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        self.uplink.close(2)
        self._link.stop()


class Collector:
    """Takes batches from the broker and acknowledges what it has, ``lag_s`` late."""

    def __init__(self, broker: brokers.Broker, *, lag_s: float = 0.0, answers: bool = True) -> None:
        self.arrived: list[tuple[str, str, int]] = []  # class, boot, seq: first arrivals only
        self.up = threading.Event()
        self._lag_s, self._answers = lag_s, answers
        self._have: dict[str, Spans] = {}
        self._link = MqttLink(
            BrokerConfig(url=broker.url, keepalive_s=5), client_id=f"c-{secrets.token_hex(4)}"
        )
        self._port = self._link.port("collector")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._link.start()

    def count(self, boot: str) -> int:
        return self._have.get(boot, Spans()).count

    def of(self, record_class: str) -> list[int]:
        return [seq for way, _, seq in list(self.arrived) if way == record_class]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        self._link.stop()

    def _run(self) -> None:
        token = 0
        while not self._stop.is_set():
            try:
                event = self._port.events.get(timeout=0.1)
            except Empty:
                continue
            if isinstance(event, Up):
                self._port.subscribe([TOPICS.records("pi", "+")])
                self.up.set()
            if isinstance(event, Message):
                self._stop.wait(self._lag_s)
                boot = self._store(event)
                if self._answers:
                    (first, last), *rest = self._have[boot]
                    ranges = rest if first == 1 else [(first, last), *rest]
                    through = last if first == 1 else 0
                    ack = Ack(boot=boot, through=through, ranges=tuple(ranges[-64:]))
                    token += 1
                    self._port.publish(token, TOPICS.ack("pi"), encode(ack))

    def _store(self, event: Message) -> str:
        batch = decode(event.payload, Batch)
        have = self._have.setdefault(batch.boot, Spans())
        for raw in batch.records:
            seq = msgspec.json.decode(raw)["seq"]
            before = have.count
            have.add(seq, seq)
            if have.count > before:
                self.arrived.append((event.topic.rsplit("/", 1)[1], batch.boot, seq))
        return batch.boot


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=["mosquitto", "nats"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[brokers.Broker]:
    with getattr(brokers, request.param)(tmp_path) as running:
        yield running


def wait(what: str, done: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, f"not in {DEADLINE_S} s: {what}"
        time.sleep(0.02)


def test_an_outage_ends_with_the_backlog_in_order_and_live_beside_it(
    broker: brokers.Broker, tmp_path: Path, stack: ExitStack
) -> None:
    broker.kill()
    agent = Agent(tmp_path / "outbox.db", broker, confirm="collector")
    stack.callback(agent.close)
    agent.offer(5000)
    wait("all on disk", lambda: agent.uplink.status().seq_last == 5001)
    broker.start()
    collector = Collector(broker)
    stack.callback(collector.close)
    boot = agent.uplink.boot
    wait("the backlog begins", lambda: collector.of("backlog"))
    for _ in range(30):
        agent.offer(2)
        time.sleep(0.02)  # the pace of a sensor
    wait("all has arrived", lambda: collector.count(boot) == 5061)
    wait("all is confirmed", lambda: agent.uplink.status().records == 0)
    live, backlog = collector.of("live"), collector.of("backlog")
    assert live == sorted(live)
    assert backlog == sorted(backlog)
    assert live


def test_a_broker_killed_under_a_slow_collector_loses_nothing(
    broker: brokers.Broker, tmp_path: Path, stack: ExitStack
) -> None:
    agent = Agent(tmp_path / "outbox.db", broker, confirm="collector", resend_s=1, batch_bytes=2048)
    stack.callback(agent.close)
    collector = Collector(broker, lag_s=0.005)
    stack.callback(collector.close)
    wait("the collector is there", collector.up.is_set)
    boot = agent.uplink.boot
    for turn in range(3):
        agent.offer(1500)
        wait("some have arrived", lambda: collector.count(boot) > turn * 1500 + 300)  # noqa: B023 - used at once
        broker.restart()
    wait("all has arrived", lambda: collector.count(boot) == 4501)
    wait("all is confirmed", lambda: agent.uplink.status().records == 0)


def test_without_a_collector_records_settle_and_a_subscriber_has_seen_them(
    tmp_path: Path, stack: ExitStack
) -> None:
    broker = stack.enter_context(brokers.mosquitto(tmp_path))
    listener = Collector(broker, answers=False)
    stack.callback(listener.close)
    wait("the listener is there", listener.up.is_set)
    agent = Agent(tmp_path / "outbox.db", broker, settle_s=1)
    stack.callback(agent.close)
    agent.offer(500)
    wait("all has arrived", lambda: listener.count(agent.uplink.boot) == 501)
    wait("all has settled", lambda: agent.uplink.status().records == 0)


def test_a_restarted_agent_sends_the_rest_of_its_earlier_boot(
    tmp_path: Path, stack: ExitStack
) -> None:
    broker = stack.enter_context(brokers.mosquitto(tmp_path))
    first = Agent(tmp_path / "outbox.db", broker, confirm="collector")
    first.offer(700)
    wait("all on disk", lambda: first.uplink.status().seq_last == 701)
    first.close()
    collector = Collector(broker)
    stack.callback(collector.close)
    wait("the collector is there", collector.up.is_set)
    second = Agent(tmp_path / "outbox.db", broker, confirm="collector")
    stack.callback(second.close)
    wait("the first boot", lambda: collector.count(first.uplink.boot) == 701)
    wait("the second boot", lambda: collector.count(second.uplink.boot) == 1)
    wait("all is confirmed", lambda: second.uplink.status().records == 0)
    boots = [boot for way, boot, _ in collector.arrived if way == "backlog"]
    assert boots == sorted(boots, key=[first.uplink.boot, second.uplink.boot].index)
