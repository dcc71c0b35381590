"""Packed decisions: the very bytes come back, whatever is confirmed, dropped or killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from outboxes import MIB, append_all, ledgers, noted, open_outbox, slices

from edge_agent.contract.messages import Decision, Metrics, RawWindow, Record, encode, with_seq
from edge_agent.outbox.boots import Boots
from edge_agent.outbox.capped_db import CorruptError
from edge_agent.outbox.columns import Columns, decision_of, pack
from edge_agent.outbox.items import Item, Rank, item_of
from edge_agent.outbox.outbox import Outbox
from edge_agent.outbox.thinning import superseded
from edge_agent.spans import Spans

FIXTURES = Path(__file__).parent / "fixtures" / "outbox"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def walk(n: int, *, seed: int = 1) -> Iterator[Decision]:
    """Decisions as a device makes them: uneven stamps, varying scores, labels and states."""
    chance = random.Random(seed)
    t, label, state = 1_700_000_000.0, "walking", "walking"
    for number in range(1, n + 1):
        t += 0.1 + chance.gauss(0, 0.0005)
        if chance.random() < 0.05:
            label = chance.choice(("walking", "sitting", "running"))
        if chance.random() < 0.02:
            state = label
        (score,) = struct.unpack("f", struct.pack("f", 1 - 0.7 * chance.betavariate(1, 8)))
        yield Decision(
            t=t,
            pipeline="motion",
            model="1.0.0",
            reading=10 * number,
            label=label,
            score=score,
            state=state,
        )


def wire(outbox: Outbox) -> list[bytes]:
    """Every record that is kept, as it would be sent."""
    return [bytes(raw) for part in slices(outbox) for raw in part.records]


# --- the blob ---

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.floats(width=32, allow_nan=False)
decisions = st.builds(
    Decision,
    t=numbers,
    synced=st.booleans(),
    pipeline=st.sampled_from(["a", "b", "ü"]),
    model=st.sampled_from(["1.0.0", "1.0.1"]),
    reading=st.integers(0, (1 << 62) - 1),
    label=st.text(max_size=3),
    score=numbers,
    values=st.lists(numbers, max_size=3).map(tuple),
    state=st.sampled_from(["", "on"]),
)


@given(st.lists(st.tuples(decisions, st.integers(1, 3)), min_size=1, max_size=30))
@settings(deadline=None, database=None)
def test_what_is_packed_comes_back_byte_by_byte(made: list[tuple[Decision, int]]) -> None:
    positions, bodies = list[int](), list[bytes]()
    for each, step in made:
        body = encode(each)
        if decision_of(body) is not None:  # an infinite score is null on the wire: no float
            positions.append(step + (positions[-1] if positions else 0))
            bodies.append(body)
    if not bodies:
        return
    read = [found for body in bodies if (found := decision_of(body)) is not None]
    opened = Columns(positions[0], pack(positions, read))
    assert list(opened.bodies(0, 1 << 40)) == list(zip(positions, bodies, strict=True))
    assert list(opened.bodies(positions[-1], 1 << 40)) == [(positions[-1], bodies[-1])]


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind":"decision","t":1.5,"pipeline":"p","model":"1","reading":1,"score":0.5,"new":1}',
        b'{"kind":"decision","t":1,"pipeline":"p","model":"1","reading":1,"score":0.5}',
        b'{"kind":"decision","t":1.5,"pipeline":"p","model":"1","reading":1,"score":null}',
        b'{"kind":"decision","t":1.5,"pipeline":"p","model":"1","reading":-1,"score":0.5}',
        encode(Decision(t=1.5, pipeline="p", model="1", reading=1, score=0.5, fired=True)),
        b'{"kind":"started","t":1.5,"agent":"1"}',
        b"\xff",
    ],
)
def test_what_would_not_come_back_alike_is_not_packed(body: bytes) -> None:
    assert decision_of(body) is None


def test_a_damaged_blob_says_so() -> None:
    blob = pack([1, 2], list(walk(2)))
    for damaged in (blob[:-9], b"", blob[:20] + b"\xff" * 9 + blob[29:]):
        with pytest.raises(CorruptError, match="position 1 are damaged"):
            Columns(1, damaged)


# --- on disk ---


@pytest.mark.parametrize("group", [2, 7, 700])
def test_records_of_all_kinds_come_out_as_they_went_in(path: Path, group: int) -> None:
    outbox = open_outbox(path)
    bodies = [encode(each) for each in walk(2000)]
    bodies[100] = b'{"kind":"decision","t":1,"odd":true}'
    items = [Item(Rank.FIRED if n % 97 == 0 else Rank.DECISION, b) for n, b in enumerate(bodies)]
    for start in range(0, len(items), group):
        append_all(outbox, items[start : start + group])
    expected = [with_seq(seq, body) for seq, body in enumerate(bodies, start=2)]
    assert wire(outbox)[1:] == expected
    assert outbox._db.query("SELECT sum(count) FROM pack")[0][0] > 1500
    outbox.close()
    assert wire(open_outbox(path))[1:-1] == expected


def test_a_pack_is_confirmed_in_parts(path: Path) -> None:
    outbox = open_outbox(path)
    append_all(outbox, [item_of(each) for each in walk(300)])
    before = wire(outbox)
    assert outbox.discard(Spans([(1, 10), (20, 29)])) == 20
    assert outbox.discard(Spans([(5, 24)])) == 9
    assert wire(outbox) == before[29:]
    assert outbox.records == 272
    outbox.close()
    outbox = open_outbox(path)
    assert wire(outbox)[:-1] == before[29:]
    assert outbox.discard(Spans([(1, outbox.position)])) == 273
    assert outbox._db.query("SELECT count(*) FROM pack_body") == [(0,)]


def test_what_fired_outlives_the_decisions_around_it(path: Path) -> None:
    outbox = open_outbox(path)
    for part in range(200):
        items = [item_of(each) for each in walk(1000, seed=part)]
        append_all(outbox, [*items, Item(Rank.FIRED, b'{"kind":"decision","t":1.5,"fired":true}')])
    assert outbox.dropped > 0
    assert sum(b'"fired":true' in raw for raw in wire(outbox)) == 200
    held = Spans(span for part in slices(outbox) for span in part.spans)
    assert held.count + noted(outbox).count == outbox.position
    assert outbox.file_bytes <= MIB


def test_the_oldest_decisions_go_first_be_they_rows_or_packs(path: Path) -> None:
    outbox = open_outbox(path, bytes_max=4 * MIB)
    odd = Item(Rank.DECISION, b'{"kind":"decision","t":1,"odd":true}')
    append_all(outbox, [odd, odd])
    append_all(outbox, [item_of(each) for each in walk(300)])
    append_all(outbox, [odd, odd])
    drops = [outbox._table.drop_oldest(Rank.DECISION) for _ in range(4)]
    assert drops == [2, 300, 2, 0]
    assert noted(outbox) == Spans([(2, 305)])


def test_the_tail_of_an_idle_device_is_packed_and_its_week_fits(path: Path) -> None:
    outbox = open_outbox(path, bytes_max=4 * MIB)  # of the default, and of the week, a 16th
    items = [item_of(each) for each in walk(378_000)]
    for start in range(0, 3000, 2):
        append_all(outbox, items[start : start + 2])
    for start in range(3000, len(items), 1000):
        append_all(outbox, items[start : start + 1000])
    assert (outbox.dropped, outbox.records) == (0, 378_001)
    assert outbox.file_bytes <= 4 * MIB
    assert wire(outbox)[1:] == [with_seq(n, item.body) for n, item in enumerate(items, start=2)]


def test_raw_windows_go_first_and_all_are_accounted_for(path: Path) -> None:
    outbox = open_outbox(path)
    raw = item_of(RawWindow(t=1.5, pipeline="p", reading=1, shape=(128, 6), data=bytes(3072)))
    for each in walk(3000):
        append_all(outbox, [item_of(each), raw])
    kinds = [msgspec.json.decode(record)["kind"] for record in wire(outbox)]
    assert kinds.count("decision") == 3000
    assert 0 < kinds.count("window") < 200
    assert len(kinds) + noted(outbox).count == outbox.position == 6001


def test_old_metrics_are_merged_before_any_is_dropped(path: Path) -> None:
    outbox = open_outbox(path)
    for minute in range(4000):
        for pipeline in ("a", "b"):
            record = Metrics(
                t=60.0 * minute,
                pipeline=pipeline,
                counts={"readings": minute, "padding": 10**100},
                latency_us={},
                rss_bytes=1,
            )
            append_all(outbox, [item_of(record)])
    kept = [msgspec.json.decode(raw, type=Record) for raw in wire(outbox)[1:]]
    minutes = [each.counts["readings"] for each in kept if isinstance(each, Metrics)]
    assert minutes[0] < 1000  # the first days are still there
    assert minutes[-1] == 3999
    assert minutes[2] - minutes[0] > minutes[-1] - minutes[-3] == 1  # but coarser
    outbox.say_losses()
    assert {ledger.reason for ledger in ledgers(outbox)} == {"merged into later metrics"}


def test_the_first_and_last_metrics_of_a_boot_and_pipeline_stay() -> None:
    rows = [
        (n, b'{"kind":"metrics","pipeline":"%c"}' % name) for n, name in enumerate(b"aabaab", 1)
    ]
    assert superseded(rows, Boots([(0, "x")])) == [2]  # of a: 1, 2, 4, 5
    assert superseded(rows, Boots([(0, "x"), (2, "y")])) == []


class Accounts(RuleBasedStateMachine):
    """Kept + noted + confirmed = appended, and what is kept has the bytes that were appended."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.environ["PACKS_TEST_FOLDER"])
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.outbox = open_outbox(self.folder / "outbox.db")
        self.bodies = [encode(each) for each in walk(997)]
        self.appended: dict[int, bytes] = {}
        self.gone = Spans()

    @rule(n=st.sampled_from([1, 3, 60, 300, 4000]), every=st.integers(2, 90), odd=st.booleans())
    def append(self, n: int, every: int, *, odd: bool) -> None:
        first = self.outbox.position + 1
        bodies = [self.bodies[at % 997] for at in range(first, first + n)]
        if odd:
            bodies[-1] = b'{"kind":"decision","t":1,"odd":1}'
        ranks = [Rank.FIRED if at % every == 0 else Rank.DECISION for at in range(n)]
        append_all(self.outbox, [Item(r, b) for r, b in zip(ranks, bodies, strict=True)])
        self.appended.update(enumerate(bodies, start=first))

    @rule(at=st.floats(0, 1), width=st.integers(0, 700))
    def confirm(self, at: float, width: int) -> None:
        first = max(1, round(at * self.outbox.position))
        last = min(first + width, self.outbox.position)
        held = Spans(span for part in slices(self.outbox) for span in part.spans)
        before = held.count
        held.remove(first, last)
        assert self.outbox.discard(Spans([(first, last)])) == before - held.count
        self.gone.add(first, last)

    @rule()
    def drop(self) -> None:
        self.outbox._table.drop_oldest(Rank.DECISION)

    @rule()
    def reopen(self) -> None:
        self.outbox.close()
        self.outbox = open_outbox(self.folder / "outbox.db")

    @invariant()
    def every_position_has_one_fate(self) -> None:
        fates, count = noted(self.outbox), 0
        self.gone = Spans(self.gone)
        for part in slices(self.outbox):
            places = (p for first, last in part.spans for p in range(first, last + 1))
            for position, raw in zip(places, part.records, strict=True):
                if body := self.appended.get(position):
                    assert bytes(raw).endswith(body[1:])
            assert not any(fates.remove(*span) for span in part.spans)
            count += part.spans.count
        assert count == self.outbox.records
        known = Spans([*noted(self.outbox), *self.gone])
        for part in slices(self.outbox):
            known.update(part.spans)
        assert known == Spans([(1, self.outbox.position)])
        assert self.outbox.file_bytes <= MIB

    def teardown(self) -> None:
        self.outbox.close()


def test_accounts(tmp_path: Path) -> None:
    os.environ["PACKS_TEST_FOLDER"] = str(tmp_path / "box")
    Accounts.TestCase.settings = settings(
        max_examples=10, stateful_step_count=20, deadline=None, database=None
    )
    Accounts.TestCase("runTest").runTest()


# --- formats and kill -9 ---


def test_the_committed_outbox_of_format_2_opens_and_drains(path: Path) -> None:
    shutil.copy(FIXTURES / "v2.db", path)
    outbox = open_outbox(path)
    records = [msgspec.json.decode(raw) for raw in wire(outbox)]
    assert [record["seq"] for record in records] == [*range(21, 452), 1]
    assert [record["reading"] for record in records[:-1]] == [*range(20, 51), *range(1, 401)]
    outbox.discard(Spans([(1, outbox.position)]))
    assert outbox.records == 1  # the message
    assert outbox.discard_messages(Spans([(1, 1)])) == 1


def test_rows_of_format_1_are_packed_as_new_ones_come(path: Path) -> None:
    shutil.copy(FIXTURES / "v1.db", path)
    outbox = open_outbox(path)
    before = wire(outbox)
    append_all(outbox, [item_of(each) for each in walk(300)])
    assert wire(outbox)[: len(before)] == before
    assert outbox._db.query("SELECT count FROM pack ORDER BY first")[0][0] >= 25


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from outboxes import append_all, open_outbox
from test_packs import walk
from edge_agent.outbox.items import item_of
from pathlib import Path
outbox = open_outbox(Path(sys.argv[1]))
items = [item_of(each) for each in walk(2000)]
print(outbox.boot, flush=True)
while True:
    for n in (2, 30, 300):
        append_all(outbox, items[:n])
        print(outbox.seq_last, flush=True)
"""


def test_kill_9_between_packs_loses_nothing(path: Path) -> None:
    promised: dict[str, int] = {}
    for turn in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path, Path(__file__).parent],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout
            boot = child.stdout.readline().strip()
            for _ in range(turn * 7):  # a different moment each time, without a clock
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            rest = [line for line in child.stdout.read().split("\n")[:-1] if line]
            promised[boot] = int(rest[-1]) if rest else 1
    outbox = open_outbox(path)
    found: dict[str, Spans] = {}
    for part in slices(outbox):
        first = min(part.spans)[0]
        seqs = [msgspec.json.decode(raw)["seq"] for raw in part.records]
        assert seqs[0] <= first
        found.setdefault(part.boot, Spans()).update(Spans.of(seqs))
    for boot, seq in promised.items():
        ((first, last),) = found[boot]
        assert (first, last >= seq) == (1, True)
