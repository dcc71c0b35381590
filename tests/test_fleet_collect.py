"""The collector acknowledges what is stored, nothing else, and always again."""

import json

import msgspec
import pytest

from edge_agent.contract.errors import LinkError, StorageError
from edge_agent.contract.messages import (
    Ack,
    Batch,
    Decision,
    OutboxStatus,
    Status,
    decode,
    encode,
    with_seq,
)
from edge_agent.contract.topics import Topics
from edge_agent.fleet.collect import Collector, report
from edge_agent.fleet.sinks import open_sink
from edge_agent.testing.broker import SimulatedBroker
from edge_agent.testing.clock import FakeClock

TOPICS = Topics("edge")


def batch(*seqs, device="pi-1", boot="b1", records=None):
    bodies = records or [
        with_seq(seq, encode(Decision(t=1.0, pipeline="p", model="1", reading=seq, score=0.5)))
        for seq in seqs
    ]
    return encode(Batch(device=device, boot=boot, records=[msgspec.Raw(body) for body in bodies]))


class Bench:
    """A collector on a simulated broker, and what a device would see."""

    def __init__(self, path, broker=None, *, sink=None, **options):
        self.broker = broker or SimulatedBroker()
        self.clock = FakeClock()
        self.link = self.broker.link("collector")
        self.sink = sink or open_sink(str(path))
        self.collector = Collector(
            self.link.port("collector"),
            TOPICS,
            self.sink,
            share="work",
            clock=self.clock,
            **options,
        )
        self.link.start()
        self.rounds()

    def rounds(self, count=4):
        for _ in range(count):
            self.collector.step(0.0)

    def send(self, payload, *, device="pi-1", record_class="live"):
        self.broker.publish(TOPICS.records(device, record_class), payload)

    def acks(self, device="pi-1"):
        topic = TOPICS.ack(device)
        return [decode(sent.payload, Ack) for sent in self.broker.sent if sent.topic == topic]


class FullDisk:
    """A sink whose disk is full until it is not."""

    def __init__(self, sink):
        self.sink = sink
        self.full = True

    def store(self, rows, *, received_t, seen=None):
        if self.full:
            raise StorageError("disk full")
        return self.sink.store(rows, received_t=received_t, seen=seen)

    def tallies(self):
        return self.sink.tallies()

    def close(self):
        self.sink.close()


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "records.db")
    yield made
    made.sink.close()


def test_a_stored_batch_is_acknowledged(bench):
    bench.send(batch(1, 2, 3))
    bench.rounds()
    assert bench.acks() == [Ack(boot="b1", through=3)]
    assert bench.collector.report().received == 3


def test_messages_that_wait_are_stored_in_one_commit_with_one_acknowledgement(bench):
    for seq in range(1, 40):
        bench.send(batch(seq))
    bench.collector.step(0.0)
    assert bench.acks() == [Ack(boot="b1", through=39)]


def test_one_commit_takes_a_bounded_group(tmp_path):
    bench = Bench(tmp_path / "records.db", group_n_max=10)
    for seq in range(1, 26):
        bench.send(batch(seq))
    bench.collector.step(0.0)
    assert bench.acks() == [Ack(boot="b1", through=10)]
    bench.collector.finish(1.0)
    assert bench.acks()[-1].through == 25


def test_refused_acknowledgements_are_said_once_a_connection(bench, caplog):
    bench.broker.deny(TOPICS.ack("+"))
    for connection in (1, 2):
        for seq in range(3):
            bench.send(batch(seq + 1))
            bench.rounds()
        assert caplog.text.count("acknowledgements are refused: Not authorized") == connection
        bench.broker.restart()
        bench.rounds()


def test_duplicates_are_acknowledged_again_since_acknowledgements_get_lost(bench):
    bench.broker.deny(TOPICS.ack("+"))
    bench.send(batch(1, 2))
    bench.rounds()
    bench.broker.allow(TOPICS.ack("+"))
    bench.send(batch(1, 2), record_class="backlog")
    bench.rounds()
    assert bench.acks()[-1] == Ack(boot="b1", through=2)
    found = bench.collector.report()
    assert (found.received, found.duplicates) == (2, 2)


def test_nothing_is_acknowledged_that_was_not_stored(tmp_path):
    sink = FullDisk(open_sink(str(tmp_path / "records.db")))
    bench = Bench(None, sink=sink)
    bench.send(batch(1, 2))
    with pytest.raises(StorageError):
        bench.rounds()
    assert bench.acks() == []
    sink.full = False
    bench.send(batch(1, 2))
    bench.rounds()
    assert bench.acks() == [Ack(boot="b1", through=2)]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b'{"device":"pi-1","boot":"b1"}',
        b'{"schema":99,"device":"pi-1","boot":"b1","records":[]}',
        b"[" * 100_000,
        b'{"device":"pi-1","boot":"b1","records":[' + b"[" * 99_999 + b"]" * 100_000 + b"}",
        batch(1, device="pi-2"),
        batch(1, boot=""),
        batch(1, boot="../../x"),
        batch(records=[b'{"seq":0,"kind":"x","t":1}']),
        batch(records=[b'{"seq":9007199254740993,"kind":"x","t":1}']),
        batch(records=[b'{"seq":"1","kind":"x","t":1}']),
        b'{"device":"pi-1","boot":"b1","records":[{"seq":1,"kind":"x","t":1,"a":"\xff"}]}',
    ],
)
def test_what_cannot_be_read_is_counted_and_survived(bench, payload):
    bench.send(payload)
    bench.send(batch(1))
    bench.rounds()
    assert bench.collector.report().malformed == 1
    assert bench.acks() == [Ack(boot="b1", through=1)]


def test_the_readable_records_of_a_batch_are_kept(bench):
    good = b'{"seq":1,"kind":"x","t":1}'
    bench.send(batch(records=[b'{"seq":0,"kind":"x","t":1}', good, b"3"]))
    bench.rounds()
    found = bench.collector.report()
    assert (found.malformed, found.received) == (2, 1)


def test_a_record_with_line_breaks_stays_one_line(tmp_path):
    bench = Bench(tmp_path / "records.jsonl")
    body = b'{\n "seq": 1,\n "kind": "x",\n "t": 1, "text": "a\\nb"}'
    bench.broker.publish(
        TOPICS.records("pi-1", "live"), b'{"device":"pi-1","boot":"b1","records":[' + body + b"]}"
    )
    bench.rounds()
    (line,) = (tmp_path / "records.jsonl").read_text().splitlines()
    assert json.loads(line)["record"] == json.loads(body)


def test_a_status_tells_what_is_missing(bench):
    outbox = OutboxStatus(records=3, file_bytes=1, seq_last=5, oldest_t=1.0, dropped=0)
    said = Status(device="pi-1", boot="b1", host="h", agent="1", online=True, outbox=outbox)
    bench.broker.publish(TOPICS.status("pi-1"), encode(said), retain=True)
    bench.send(batch(1, 2))
    bench.rounds()
    (device,) = bench.collector.report().devices
    assert (device.produced, device.received, device.missing) == (5, 2, 3)
    assert report(bench.sink).missing == 3


def test_collectors_with_files_of_their_own_divide_the_work(tmp_path):
    broker = SimulatedBroker()
    benches = [Bench(tmp_path / f"{name}.jsonl", broker) for name in "ab"]
    for seq in range(1, 11):
        benches[0].send(batch(seq))
    for bench in benches:
        bench.rounds()
    received = [bench.collector.report().received for bench in benches]
    assert received == [5, 5]
    acked = set()
    for ack in benches[0].acks():
        acked |= set(range(1, ack.through + 1))
        acked |= {seq for first, last in ack.ranges for seq in range(first, last + 1)}
    assert acked == set(range(1, 11))


def test_without_shared_subscriptions_every_collector_reads_everything(tmp_path):
    broker = SimulatedBroker()
    broker.lose_publishes(2)  # both probes vanish, as on a broker that does not share
    bench = Bench(tmp_path / "records.db", broker)
    assert bench.collector.report().shared is None
    for _ in range(2):
        bench.clock.advance(2.0)
        bench.rounds()
    assert bench.collector.report().shared is False
    bench.send(batch(1))
    bench.rounds()
    assert bench.acks() == [Ack(boot="b1", through=1)]


def test_one_lost_probe_does_not_decide(tmp_path):
    broker = SimulatedBroker()
    broker.lose_publishes(1)
    bench = Bench(tmp_path / "records.db", broker)
    bench.clock.advance(2.0)
    bench.rounds()
    assert bench.collector.report().shared is True


def test_a_denied_share_falls_back_to_a_plain_subscription(tmp_path):
    broker = SimulatedBroker()
    broker.deny(f"$share/work/{TOPICS.records('+', '+')}")
    bench = Bench(tmp_path / "records.db", broker)
    bench.send(batch(1))
    bench.rounds()
    assert bench.acks() == [Ack(boot="b1", through=1)]


def test_a_collector_that_may_not_read_says_so(tmp_path):
    broker = SimulatedBroker()
    broker.deny(TOPICS.status("+"))
    with pytest.raises(LinkError, match="forbids to read edge/device/"):
        Bench(tmp_path / "records.db", broker)


def test_after_a_restart_of_the_broker_it_listens_again(bench):
    bench.broker.restart(lose_retained=True)
    bench.rounds()
    bench.send(batch(1))
    bench.rounds()
    assert bench.acks() == [Ack(boot="b1", through=1)]


def test_a_silent_first_answer_is_asked_for_again(tmp_path):
    broker = SimulatedBroker(first_silence=True)
    bench = Bench(tmp_path / "records.db", broker)
    broker.restart()
    bench.rounds()
    asked = broker.subscriptions.count(TOPICS.status("+"))
    bench.clock.advance(5.0)
    bench.rounds()
    assert broker.subscriptions.count(TOPICS.status("+")) == asked + 1


def test_finish_waits_for_the_brokers_word_within_its_bound(bench):
    bench.broker.hold_acks()
    for device in range(30):
        bench.send(batch(1, device=f"pi-{device}"), device=f"pi-{device}")
    bench.collector.step(0.0)
    assert len([sent for sent in bench.broker.sent if sent.topic.endswith("/ack")]) == 10
    bench.broker.release_acks()
    bench.collector.finish(5.0)
    assert len([sent for sent in bench.broker.sent if sent.topic.endswith("/ack")]) == 30


def test_idle_time_counts_from_the_last_record(bench):
    bench.clock.advance(7.0)
    assert bench.collector.idle_s() == 7.0
    bench.send(batch(1))
    bench.rounds()
    bench.clock.advance(1.0)
    assert bench.collector.idle_s() == 1.0
