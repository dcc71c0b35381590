"""The uplink over a simulated broker and a clock that the test owns."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from outboxes import MIB, decision, kept, metrics, open_outbox

from edge_agent.config import OutboxConfig, UplinkConfig
from edge_agent.contract.errors import StorageError
from edge_agent.contract.messages import Ack, Batch, decode, encode
from edge_agent.contract.topics import Topics
from edge_agent.spans import Spans
from edge_agent.testing.broker import SimulatedBroker
from edge_agent.testing.clock import FakeClock
from edge_agent.uplink.uplink import Uplink

TOPICS = Topics("edge")
LIVE, BACKLOG, ACK = TOPICS.records("pi", "live"), TOPICS.records("pi", "backlog"), TOPICS.ack("pi")


class Rig:
    """An uplink, its broker, its clock, and what has arrived."""

    def __init__(
        self,
        path: Path,
        *,
        protocol: int = 5,
        queue_n_max: int = 20_000,
        bytes_max: int = 16 * MIB,
        **uplink: object,
    ):
        self.path = path
        self.clock = FakeClock()
        self.broker = SimulatedBroker()
        self.config = msgspec.convert(uplink, UplinkConfig)
        self.bounds = OutboxConfig(queue_n_max=queue_n_max, bytes_max=bytes_max)
        self.begin()

    def begin(self) -> None:
        self.uplink = Uplink(
            self.path,
            topics=TOPICS,
            device="pi",
            outbox=self.bounds,
            uplink=self.config,
            clock=self.clock,
        )
        self.link = self.broker.link("pi")
        self.uplink.attach(self.link.port("uplink"))

    def offer(self, n: int, *, fired: bool = False) -> None:
        for reading in range(n):
            self.uplink.offer(decision(reading, fired=fired))
        self.turn()

    def turn(self, seconds: float = 0.25, rounds: int = 2) -> None:
        """Let time pass, with rounds before and after."""
        for _ in range(rounds):
            self.uplink.step()
            self.uplink.step()  # takes the answers to what the first one sent
            self.clock.advance(seconds)
        self.uplink.step()

    def arrived(self, topic: str, boot: str | None = None) -> list[int]:
        """Seqs in the order in which they came."""
        found = []
        for sent in self.broker.sent:
            if sent.topic == topic:
                batch = decode(sent.payload, Batch)
                assert batch.device == "pi"
                if boot in (None, batch.boot):
                    found += [msgspec.json.decode(raw)["seq"] for raw in batch.records]
        return found

    def ack(self, through: int, *ranges: tuple[int, int], boot: str | None = None) -> None:
        ack = Ack(boot=boot or self.uplink.boot, through=through, ranges=ranges)
        self.broker.publish(ACK, encode(ack))
        self.uplink.step()

    @property
    def records(self) -> int:
        return self.uplink.status().records


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**options: object) -> Rig:
        made.append(Rig(tmp_path / "outbox.db", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for rig in made:
        rig.uplink._outbox.close()


# --- order and bounds ---


def test_live_goes_at_once_and_the_backlog_in_order_behind_it(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.offer(1000)
    rig.link.start()
    rig.uplink.offer(decision(0))
    rig.turn(rounds=20)
    assert rig.arrived(LIVE) == [1002]
    assert rig.arrived(BACKLOG) == list(range(1, 1002))


def test_with_both_waiting_live_goes_first(make: Callable[..., Rig]) -> None:
    rig = make(in_flight_n_max=2)
    rig.offer(1000)
    rig.broker.hold_acks()
    rig.link.start()
    rig.turn()
    rig.offer(1)
    sent = [sent.topic for sent in rig.broker.sent]
    assert sent == [BACKLOG, LIVE]  # the second place is kept for live records
    rig.offer(1)
    rig.broker.release_acks(1)
    rig.turn()
    assert [sent.topic for sent in rig.broker.sent][2] == LIVE
    assert rig.link.in_flight_n_peak == 2


def test_records_of_an_earlier_boot_come_first_each_in_its_own_batches(
    make: Callable[..., Rig],
) -> None:
    rig = make()
    rig.offer(300)
    first = rig.uplink.boot
    rig.uplink.close(0)
    rig.begin()
    rig.offer(5)
    rig.link.start()
    rig.turn(rounds=20)
    boots = [decode(sent.payload, Batch).boot for sent in rig.broker.sent]
    assert boots == sorted(boots, key=[first, rig.uplink.boot].index)
    assert rig.arrived(BACKLOG, first) == list(range(1, 302))
    assert rig.arrived(BACKLOG, rig.uplink.boot) == list(range(1, 7))


def test_messages_keep_to_their_size_and_the_rate(make: Callable[..., Rig]) -> None:
    rig = make(batch_bytes=2048, backlog_n_per_s=100)
    rig.offer(2000)
    rig.link.start()
    before = len(rig.arrived(BACKLOG))
    rig.turn(seconds=0.02, rounds=500)
    assert 950 <= len(rig.arrived(BACKLOG)) - before <= 1050  # 10 s at 100/s
    assert max(len(sent.payload) for sent in rig.broker.sent) <= 2048


def test_nothing_is_published_while_the_link_is_down(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.offer(10)
    rig.link.start()
    rig.turn()
    rig.broker.cut(rig.link)
    rig.offer(10)
    assert len(rig.arrived(BACKLOG)) == 11
    rig.broker.restore(rig.link)
    rig.turn(rounds=6)
    assert rig.arrived(BACKLOG)[11:] == list(range(1, 22))


def test_an_uplink_without_a_broker_keeps_everything(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.uplink.attach(None)
    rig.offer(10)
    assert rig.records == 11
    assert rig.broker.sent == []


# --- confirmation by the broker ---


def test_records_settle_after_the_puback_and_not_before(make: Callable[..., Rig]) -> None:
    rig = make(confirm="broker", settle_s=60)
    rig.link.start()
    rig.broker.hold_acks()
    rig.offer(5)
    rig.turn(seconds=10, rounds=2)
    rig.broker.release_acks()
    rig.turn(seconds=29, rounds=2)
    assert rig.records == 6
    rig.turn(seconds=2, rounds=1)
    assert rig.records == 0
    assert rig.broker.subscriptions == []


def test_what_has_not_settled_is_sent_again_after_every_reconnect(
    make: Callable[..., Rig],
) -> None:
    rig = make(confirm="broker")
    rig.link.start()
    rig.offer(5)
    rig.turn(seconds=50, rounds=1)
    rig.broker.restart()
    rig.turn(seconds=50, rounds=1)
    assert rig.records == 6
    assert rig.arrived(BACKLOG)[-6:] == [1, 2, 3, 4, 5, 6]
    rig.turn(seconds=11, rounds=1)
    assert rig.records == 0


def test_a_puback_that_never_comes_counts_as_lost(make: Callable[..., Rig]) -> None:
    rig = make(confirm="broker")
    rig.link.start()
    rig.turn()
    rig.broker.lose_publishes(1)
    rig.offer(3)
    assert rig.arrived(LIVE) == []
    rig.turn(seconds=16, rounds=2)
    assert rig.arrived(BACKLOG) == [1, 2, 3, 4]


# --- confirmation by a collector ---


def test_only_a_collector_lets_records_go(make: Callable[..., Rig]) -> None:
    rig = make(confirm="collector", resend_s=1000)
    rig.link.start()
    rig.offer(20)
    rig.turn(seconds=100)
    assert rig.records == 21
    rig.ack(5, (8, 9), (30, 40))
    assert rig.records == 14
    rig.ack(21, boot="00000000")
    assert rig.records == 14
    rig.ack(400)
    assert rig.records == 0


def test_auto_waits_for_the_broker_until_a_collector_has_answered_once(
    make: Callable[..., Rig],
) -> None:
    rig = make(settle_s=10)
    rig.link.start()
    rig.offer(5)
    rig.turn(seconds=6)
    assert rig.records == 0
    rig.offer(5)
    rig.ack(7)
    rig.turn(seconds=60)
    assert rig.records == 4
    rig.uplink.close(0)
    rig.begin()  # and remembers it
    rig.link.start()
    rig.turn(seconds=60)
    assert rig.records == 5


def test_without_answers_little_is_sent_again_and_ever_more_rarely(
    make: Callable[..., Rig],
) -> None:
    rig = make(confirm="collector", resend_s=5)
    rig.offer(3000)
    rig.link.start()
    rig.turn(seconds=0.5, rounds=240)
    arrived = rig.arrived(BACKLOG)
    assert max(arrived) == 200  # one window, from the lowest on
    assert 5 <= arrived.count(1) <= 8  # after 5, 10, 20, 30, 30... s


def test_the_window_opens_with_answers_up_to_its_bound(make: Callable[..., Rig]) -> None:
    rig = make(confirm="collector", unconfirmed_n_max=1000, backlog_n_per_s=100_000)
    rig.offer(5000)
    rig.link.start()
    most = 0
    for _ in range(60):
        rig.turn(seconds=0.1, rounds=1)
        arrived = rig.arrived(BACKLOG)
        waiting = len(arrived) - (5001 - rig.records)
        most = max(most, waiting)
        rig.ack(max(arrived))
    assert rig.records == 0
    assert 900 <= most <= 1000
    assert rig.arrived(BACKLOG) == list(range(1, 5002))


def test_whoever_collects_first_gets_the_lowest_records_first(make: Callable[..., Rig]) -> None:
    rig = make(confirm="collector", resend_s=5, batch_bytes=1024)
    rig.offer(1000)
    rig.link.start()
    rig.turn()  # a collector that came now would have to wait for what it missed
    first = rig.arrived(BACKLOG)
    assert first == list(range(1, len(first) + 1))
    assert len([sent for sent in rig.broker.sent if sent.topic == BACKLOG]) == 1
    rig.ack(len(first))
    rig.turn()
    assert rig.arrived(BACKLOG)[: 3 * len(first)] == list(range(1, 3 * len(first) + 1))


def test_an_old_answer_that_covers_a_part_does_not_open_the_window(
    make: Callable[..., Rig],
) -> None:
    rig = make(confirm="collector", resend_s=5, batch_bytes=1024)
    rig.offer(1000)
    rig.link.start()
    rig.turn()
    first = rig.arrived(BACKLOG)
    rig.ack(1)  # stored on the connection before: the rest of the message may be lost
    rig.turn(seconds=1)
    assert rig.arrived(BACKLOG) == first
    rig.turn(seconds=5)
    assert rig.arrived(BACKLOG)[len(first)] == 2


def test_a_collector_in_place_of_one_that_died_gets_the_backlog_in_order(
    make: Callable[..., Rig],
) -> None:
    rig = make(confirm="collector", resend_s=5, backlog_n_per_s=1000)
    rig.offer(5000)
    rig.link.start()
    for _ in range(10):
        rig.turn(seconds=0.1, rounds=1)
        rig.ack(confirmed := max(rig.arrived(BACKLOG)))  # and then it died
    rig.turn(seconds=0.1, rounds=20)
    assert max(rig.arrived(BACKLOG)) <= confirmed + 400  # a fraction of a second's worth
    rig.broker.sent.clear()
    rig.offer(1)  # for the new one, which answers what it gets
    for _ in range(80):
        rig.turn(seconds=0.1, rounds=1)
        if fresh := rig.arrived(LIVE):
            rig.ack(confirmed, (min(fresh), max(fresh)))
        if rig.arrived(BACKLOG):
            break
    first = rig.arrived(BACKLOG)
    assert first == list(range(confirmed + 1, confirmed + 1 + len(first)))


def test_records_that_are_still_queued_count_as_kept(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.turn()
    before = rig.records
    rig.uplink.offer(decision(1))
    assert rig.records == before + 1
    rig.turn()
    assert rig.records == before + 1


def test_a_gap_is_sent_again_though_later_records_are_confirmed(make: Callable[..., Rig]) -> None:
    rig = make(confirm="collector", resend_s=5)
    rig.link.start()
    rig.offer(1)
    rig.ack(2)
    for _ in range(2):
        rig.offer(3)
    rig.ack(2, (6, 8))  # 3 to 5 never came
    for turn in range(12):  # 6 s
        rig.offer(1)
        rig.ack(2, (6, 9 + turn))
    assert rig.arrived(BACKLOG) == [1, 3, 4, 5]  # 1 was appended before the link came up
    rig.ack(5)
    assert rig.records == 0


def test_a_slow_collector_is_soon_not_sent_things_twice(make: Callable[..., Rig]) -> None:
    rig = make(confirm="collector", resend_s=5)
    rig.link.start()
    rig.turn(seconds=0.5)
    rig.ack(1)
    offered = 1
    for turn in range(60):  # a record a second, each answered 12 s later
        if turn == 30:
            rig.broker.sent.clear()
        rig.offer(1)
        rig.turn(seconds=0.25, rounds=2)
        offered += 1
        if offered > 12:
            rig.ack(offered - 12)
    assert rig.arrived(LIVE) == list(range(32, 62))
    assert rig.arrived(BACKLOG) == []


def test_everything_comes_again_until_a_collector_that_lost_it_has_it(
    make: Callable[..., Rig],
) -> None:
    rig = make(confirm="collector", resend_s=5)
    rig.offer(800)
    rig.link.start()
    have, n = Spans(), 0
    for turn in range(400):
        rig.turn(seconds=0.25, rounds=1)
        seqs = rig.arrived(LIVE) + rig.arrived(BACKLOG)
        for index in range(n, len(seqs)):
            if (index // 50) % 3 != turn % 2:  # loses a third and more, in runs
                have.add(seqs[index], seqs[index])
        n = len(seqs)
        if have:
            (first, last), *rest = have
            rig.ack(last if first == 1 else 0, *(rest if first == 1 else have))
        rig.broker.sent, n = [], 0
        if turn % 50 == 0:
            rig.uplink.offer(decision(turn))
    rig.turn(seconds=6, rounds=4)
    assert have.count >= 800
    assert rig.records <= 8


def test_a_malformed_or_foreign_acknowledgement_changes_nothing(
    make: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    rig = make(confirm="collector")
    rig.link.start()
    rig.offer(3)
    for payload in (b"", b"{}", b"\xff", b'{"boot":1}', b'{"boot":"x","through":9}'):
        rig.broker.publish(ACK, payload)
    rig.ack(0, (5, 2), (-9, 0), (0, -1))
    assert rig.records == 4
    assert [r.message for r in caplog.records if "ignored" in r.message][1:] == []


def test_the_acknowledgement_topic_is_subscribed_on_every_connection(
    make: Callable[..., Rig],
) -> None:
    rig = make()
    rig.link.start()
    rig.turn()
    rig.broker.restart()
    rig.turn()
    assert rig.broker.subscriptions == [ACK, ACK]


# --- refusals ---


def test_a_refused_live_topic_leaves_the_backlog_open(
    make: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    rig = make(confirm="broker", settle_s=1)
    rig.broker.deny(LIVE)
    rig.link.start()
    rig.turn()
    for _ in range(4):
        rig.offer(2)
    rig.turn(seconds=1, rounds=4)
    assert rig.arrived(BACKLOG) == list(range(1, 10))
    assert rig.records == 0
    rig.turn(seconds=16)
    rig.offer(1)
    assert len([s for s in rig.broker.sent if s.topic == LIVE]) == 2  # once every 30 s
    assert len([r for r in caplog.records if "refuses" in r.message]) == 1


def test_a_refused_backlog_is_kept_and_tried_again(make: Callable[..., Rig]) -> None:
    rig = make(confirm="broker", settle_s=1)
    rig.broker.deny(BACKLOG)
    rig.offer(3)
    rig.link.start()
    rig.turn(seconds=1)
    rig.offer(2)
    rig.turn(seconds=5, rounds=3)
    assert rig.arrived(LIVE) == [5, 6]
    assert rig.records == 4
    assert len([s for s in rig.broker.sent if s.topic == BACKLOG]) == 1
    rig.broker.allow(BACKLOG)
    rig.turn(seconds=10, rounds=4)
    assert rig.records == 0


def test_a_refused_topic_of_the_users_does_not_block_another(make: Callable[..., Rig]) -> None:
    rig = make(confirm="broker", settle_s=5)
    rig.broker.deny("secret/door")
    rig.link.start()
    for number in range(100):
        rig.uplink.send("secret/door" if number % 2 else "open/door", b"%d" % number)
    rig.turn(seconds=1, rounds=10)
    came = [int(sent.payload) for sent in rig.broker.sent if sent.topic == "open/door"]
    assert came == list(range(0, 100, 2))
    assert rig.records == 50
    rig.broker.allow("secret/door")
    rig.turn(seconds=16, rounds=2)
    rig.turn(seconds=1, rounds=20)
    assert rig.records == 0


def test_messages_of_the_users_are_kept_over_an_outage_and_a_restart(
    make: Callable[..., Rig],
) -> None:
    rig = make(confirm="collector")
    rig.uplink.send("door", b"open")
    rig.turn()
    rig.uplink.close(0)
    rig.begin()
    rig.link.start()
    rig.turn()
    assert [sent.payload for sent in rig.broker.sent if sent.topic == "door"] == [b"open"]
    rig.broker.restart()
    rig.turn(seconds=61, rounds=1)
    assert [sent.payload for sent in rig.broker.sent if sent.topic == "door"] == [b"open"] * 2
    assert rig.records == 2  # the Started records wait for a collector


# --- what does not fit ---


def test_offers_beyond_the_queue_are_counted_and_said(make: Callable[..., Rig]) -> None:
    rig = make(queue_n_max=10)
    rig.link.start()
    rig.offer(25)
    rig.turn()
    assert rig.uplink.status().dropped == 15
    said = [sent.payload for sent in rig.broker.sent if b'"ledger"' in sent.payload]
    assert b'"count":15,"reason":"queue full"' in said[0]
    assert sorted(rig.arrived(LIVE) + rig.arrived(BACKLOG)) == list(range(1, 13))


def test_a_half_full_queue_is_committed_before_its_time(make: Callable[..., Rig]) -> None:
    rig = make(queue_n_max=10)
    for reading in range(4):
        rig.uplink.offer(decision(reading))
    rig.uplink.step()
    assert rig.uplink.status().seq_last == 1
    rig.uplink.offer(decision(4))
    rig.uplink.step()
    assert rig.uplink.status().seq_last == 6


def test_what_is_larger_than_a_publish_is_counted_and_said(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.link.start()
    rig.uplink.send("t", bytes(50_000))
    rig.turn()
    said = [sent.payload for sent in rig.broker.sent if b'"ledger"' in sent.payload]
    assert b'"count":1,"reason":"record too large"' in said[0]


def test_what_the_cap_dropped_is_said_when_the_link_is_back(make: Callable[..., Rig]) -> None:
    rig = make(confirm="broker", settle_s=5, bytes_max=MIB)
    for _ in range(10):
        rig.offer(1500, fired=True)  # rows of their own: others would fit, packed
    status = rig.uplink.status()
    assert status.dropped > 0
    assert status.file_bytes <= MIB
    rig.link.start()
    rig.turn(seconds=1, rounds=60)
    arrived = Spans.of(rig.arrived(LIVE) + rig.arrived(BACKLOG))
    (raw,) = [
        msgspec.json.decode(raw)
        for sent in rig.broker.sent
        for raw in decode(sent.payload, Batch).records
        if b'"ledger"' in bytes(raw)
    ]
    dropped = Spans(map(tuple, raw["ranges"]))
    assert dropped.count == raw["count"] == status.dropped
    assert arrived.count + dropped.count == rig.uplink.status().seq_last
    assert rig.records == 0


# --- faults ---


def test_a_full_disk_keeps_records_in_memory_and_is_got_over(make: Callable[..., Rig]) -> None:
    rig = make(queue_n_max=40, confirm="collector")
    rig.link.start()
    rig.offer(10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    wal = rig.path.with_name("outbox.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal, hard))
    try:
        rig.offer(50)
        fault = rig.uplink.status().fault
        for _ in range(32):  # acknowledgements do not put the next attempt off
            rig.turn(seconds=0.5, rounds=1)
            rig.ack(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "space" in fault
    assert rig.uplink.status().seq_last == 11
    rig.turn(seconds=16)
    status = rig.uplink.status()
    assert (status.fault, status.dropped) == ("", 10)
    assert status.seq_last == 52  # with the ledger record
    rig.ack(52)
    assert rig.records == 0


def test_a_damaged_file_is_replaced_and_the_boot_goes_on(make: Callable[..., Rig]) -> None:
    rig = make(confirm="broker")
    rig.offer(3000, fired=True)
    rig.uplink.close(0)
    with rig.path.open("r+b") as file:
        file.seek(30 * 4096)
        file.write(b"\xff" * 4096 * 30)
    rig.begin()
    boot = rig.uplink.boot
    rig.link.start()
    rig.turn(seconds=1, rounds=5)
    rig.offer(3)
    rig.turn(seconds=1, rounds=5)
    assert rig.uplink.boot == boot
    assert rig.uplink.status().fault == ""
    said = [sent.payload for sent in rig.broker.sent if b"outbox was corrupt" in sent.payload]
    assert said
    assert len(list(rig.path.parent.glob("*.corrupt-*"))) >= 1


# --- thread and end ---


def test_close_commits_and_sends_what_was_offered_last(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.link.start()
    rig.turn()
    for reading in range(500):
        rig.uplink.offer(decision(reading))
    rig.uplink.close(5)
    assert rig.arrived(LIVE) == list(range(2, 502))


def test_close_without_a_link_keeps_what_was_offered_last(make: Callable[..., Rig]) -> None:
    rig = make()
    for reading in range(500):
        rig.uplink.offer(decision(reading))
    rig.uplink.close(5)
    outbox = open_outbox(rig.path)
    assert len(kept(outbox)) == 502
    outbox.close()


def test_close_says_when_the_disk_refuses_the_last_records(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.offer(1)
    rig.uplink.offer(decision(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    wal = rig.path.with_name("outbox.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal, hard))
    failure = ""
    try:
        rig.uplink.close(0)
    except StorageError as exc:
        failure = str(exc)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "1 records are lost" in failure


def test_its_thread_sleeps_wakes_for_offers_and_ends(make: Callable[..., Rig]) -> None:
    rig = make()
    stop = threading.Event()
    thread = threading.Thread(target=rig.uplink.run, args=(stop,))
    thread.start()
    rig.link.start()
    for group in range(5):
        for reading in range(100):
            rig.uplink.offer(metrics() if reading % 2 else decision(reading))
        deadline = time.monotonic() + 10
        while rig.uplink.status().seq_last < 1 + 100 * (group + 1) and time.monotonic() < deadline:
            rig.clock.advance(0.01)
            time.sleep(0.001)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    rig.uplink.close(1)
    assert sorted({*rig.arrived(LIVE), *rig.arrived(BACKLOG)}) == list(range(1, 502))
