"""The outbox: order, durability, byte cap, ledger, formats, and what a bad disk does to it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from outboxes import (
    CLOCK,
    MIB,
    append_all,
    body,
    decision,
    kept,
    ledgers,
    metrics,
    noted,
    open_outbox,
    slices,
)

from edge_agent.contract.errors import StorageError
from edge_agent.contract.messages import Started, UpdateReport
from edge_agent.outbox.capped_db import CorruptError
from edge_agent.outbox.items import Item, Rank, item_of
from edge_agent.outbox.outbox import OUTBOX_FORMAT
from edge_agent.spans import Spans

FIXTURES = Path(__file__).parent / "fixtures" / "outbox"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


# --- boots, seqs and order ---


def test_a_boot_begins_with_started_and_counts_without_a_gap(path: Path) -> None:
    outbox = open_outbox(path)
    append_all(outbox, [body(Rank.DECISION), Item(Rank.MESSAGE, b"x", "t"), body(Rank.FIRED)])
    assert list(kept(outbox)) == [(outbox.boot, 1), (outbox.boot, 2), (outbox.boot, 3)]
    assert kept(outbox)[outbox.boot, 1]["kind"] == "started"
    assert outbox.seq_last == 3
    assert len(outbox.boot) == 8


def test_the_next_boot_says_where_the_one_before_ended(path: Path) -> None:
    first = open_outbox(path)
    append_all(first, [body(Rank.DECISION)] * 5)
    first.close()
    second = open_outbox(path)
    (raw,) = slices(second)[1].records
    started = msgspec.json.decode(raw, type=Started)
    assert (started.previous_boot, started.previous_seq) == (first.boot, 6)
    assert second.boot != first.boot
    assert second.seq_last == 1


def test_records_come_out_in_the_order_of_boots_and_seqs_whatever_their_rank(path: Path) -> None:
    for _ in range(2):
        outbox = open_outbox(path)
        append_all(outbox, [body(rank) for rank in (3, 0, 1, 4, 0, 3)])
        outbox.close()
    outbox = open_outbox(path)
    positions = [part.boot for part in slices(outbox)]
    assert len(positions) == len(set(positions)) == 3  # one slice a boot
    assert [seq for _, seq in kept(outbox)] == [*range(1, 8), *range(1, 8), 1]


def test_a_slice_keeps_to_its_bounds_and_a_large_record_comes_alone(path: Path) -> None:
    outbox = open_outbox(path)
    append_all(outbox, [body(Rank.DECISION, size) for size in (10, 10, 5000, 10)])
    found = slices(outbox, bytes_max=500)
    assert [len(part.records) for part in found] == [3, 1, 1]
    assert [len(part.records) for part in slices(outbox, n_max=2)] == [2, 2, 1]


def test_ranks_follow_the_kind_of_record() -> None:
    update = UpdateReport(t=0, model="m", version="1", sha256="", revision=1, state="offered")
    records = (metrics(), decision(1), decision(1, fired=True), update)
    assert [item_of(record).rank for record in records] == [0, 1, 3, 4]


def test_confirmed_records_go_and_others_stay(path: Path) -> None:
    outbox = open_outbox(path)
    append_all(
        outbox, [body(Rank.DECISION), Item(Rank.MESSAGE, b"x", "t"), *[body(Rank.FIRED)] * 7]
    )
    spans = outbox.positions(outbox.boot, [(1, 3), (6, 7), (9, 400)])
    assert outbox.discard(spans) == 6
    assert outbox.discard(spans) == 0
    assert [seq for _, seq in kept(outbox)] == [4, 5, 8]
    assert [m.payload for m in outbox.messages(1, 9, n_max=9)] == [b"x"]
    assert outbox.discard_messages(Spans([(1, 1)])) == 1
    assert outbox.records == 3
    assert not outbox.positions("00000000", [(1, 9)])


# --- the byte cap ---


def test_the_least_important_then_oldest_goes_and_is_said(path: Path) -> None:
    outbox = open_outbox(path)
    append_all(outbox, [body(Rank.METRICS, 1000)] * 50)
    append_all(outbox, [body(Rank.FIRED, 1000)] * 50)
    append_all(outbox, [body(Rank.DECISION, 1000)] * 900)
    seqs = [seq for _, seq in kept(outbox)]
    assert set(range(52, 102)) <= set(seqs)  # what fired is there
    assert not set(range(2, 52)) & set(seqs)  # no metrics are
    assert seqs[-1] == 1001
    assert outbox.say_losses() == 1
    (ledger,) = ledgers(outbox)
    dropped = {seq for first, last in ledger.ranges for seq in range(first, last + 1)}
    assert dropped == set(range(1, 1002)) - set(seqs)
    assert (ledger.count, ledger.reason) == (len(dropped), "byte cap")
    assert outbox.dropped == len(dropped)


def test_what_comes_gives_way_to_what_is_more_important(path: Path) -> None:
    outbox = open_outbox(path)
    append_all(outbox, [body(Rank.FIRED, 1000)] * 1000)
    before = kept(outbox)
    for _ in range(30):
        append_all(outbox, [body(Rank.METRICS, 10_000)])
    assert len(before) - len(kept(outbox)) < 30  # a reserve at most, not one for each
    assert noted(outbox).count == 1031 - len(kept(outbox))


def test_losses_merge_while_nobody_hears_of_them(path: Path) -> None:
    outbox = open_outbox(path)
    for _ in range(30):
        append_all(outbox, [body(rank, 500) for rank in (1, 1, 3, 0) * 50])
    for rank in (Rank.METRICS, Rank.DECISION, Rank.FIRED, Rank.EVENT):
        while outbox._table.drop_oldest(rank):
            pass
    assert len(list(noted(outbox))) == 1
    assert noted(outbox).count == 6001
    outbox.say_losses()
    append_all(outbox, [body(Rank.METRICS, 10_000)] * 150)
    assert outbox.say_losses() == 0  # the earlier one still waits
    assert len(ledgers(outbox)) == 1


def test_a_ledger_names_one_boot_and_counts_what_had_no_seq(path: Path) -> None:
    first = open_outbox(path)
    append_all(first, [body(Rank.METRICS)] * 3)
    first.close()
    outbox = open_outbox(path)
    append_all(outbox, [body(Rank.METRICS)] * 2)
    outbox._table.drop_oldest(Rank.METRICS)
    append_all(outbox, [Item(Rank.MESSAGE, b"x", "t")] * 4)
    outbox._table.drop_oldest(Rank.MESSAGE)
    outbox.lose("queue full", 5)
    assert outbox.say_losses() == 4
    said = [(item.boot, item.ranges, item.count, item.reason) for item in ledgers(outbox)]
    assert said == [
        (first.boot, ((2, 4),), 3, "byte cap"),
        (outbox.boot, ((2, 3),), 2, "byte cap"),
        (outbox.boot, (), 4, "byte cap"),
        (outbox.boot, (), 5, "queue full"),
    ]
    assert all(len(bytes(raw)) < 1024 for part in slices(outbox) for raw in part.records)


def test_many_ranges_become_several_ledger_records(path: Path) -> None:
    outbox = open_outbox(path)
    append_all(outbox, [body(rank) for rank in (0, 1) * 100])
    outbox._table.drop_oldest(Rank.METRICS)
    assert outbox.say_losses() == 4
    said = Spans(span for ledger in ledgers(outbox) for span in ledger.ranges)
    assert said == Spans.of(range(2, 202, 2))
    assert not noted(outbox)
    assert max(len(bytes(raw)) for part in slices(outbox) for raw in part.records) < 900


@pytest.mark.parametrize("size", [20, 900, 3900, 4100, 40_000])
def test_the_files_never_pass_the_cap_at_any_statement(path: Path, size: int) -> None:
    outbox = open_outbox(path)
    sizes: dict[str, int] = {}  # the largest of each file, for main file and log peak together
    outbox._db._db.set_trace_callback(lambda _: _note_sizes(path.parent, sizes))
    group = max(1, 150_000 // size)
    for turn in range(25):
        append_all(outbox, [body(Rank(turn % 4), size)] * min(group, 1500))
        if turn % 7 == 6:
            outbox.discard(Spans([(outbox.position // 2, outbox.position)]))
            outbox.say_losses()
    assert outbox.dropped > 0
    assert set(sizes) == {"outbox.db", "outbox.db-wal"}
    assert MIB // 2 < sum(sizes.values()) <= MIB


def test_freed_space_is_used_again(path: Path) -> None:
    outbox = open_outbox(path)
    for _ in range(20):
        append_all(outbox, [body(Rank.DECISION, 300)] * 1000)
        outbox.discard(Spans([(1, outbox.position)]))
    assert outbox.dropped == 0
    assert outbox.records == 0


def test_a_lowered_cap_gives_space_back(path: Path) -> None:
    outbox = open_outbox(path, bytes_max=4 * MIB)
    append_all(outbox, [body(Rank.DECISION, 1000)] * 2500)
    outbox.close()
    assert path.stat().st_size > 2 * MIB
    outbox = open_outbox(path)
    assert outbox.file_bytes <= MIB
    assert noted(outbox).count == 2502 - len(kept(outbox)) > 0
    outbox.close()


class Accounts(RuleBasedStateMachine):
    """Kept + noted or ledgered + confirmed = appended, whatever happens in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.environ["OUTBOX_TEST_FOLDER"])
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.outbox = open_outbox(self.folder / "outbox.db")
        self.gone = Spans()  # confirmed or said

    @rule(ranks=st.lists(st.sampled_from([0, 1, 3, 4]), max_size=40), size=st.integers(1, 9000))
    def append(self, ranks: list[int], size: int) -> None:
        append_all(self.outbox, [body(Rank(rank), size) for rank in ranks])

    @rule(at=st.floats(0, 1), width=st.integers(0, 60))
    def confirm(self, at: float, width: int) -> None:
        first = max(1, round(at * self.outbox.position))
        spans = Spans([(first, min(first + width, self.outbox.position))])
        held = {p for part in slices(self.outbox) for a, b in part.spans for p in range(a, b + 1)}
        count = self.outbox.discard(spans)
        confirmed = Spans.of(p for a, b in spans for p in range(a, b + 1) if p in held)
        assert confirmed.count == count
        self.gone.update(confirmed)

    @precondition(lambda self: noted(self.outbox))
    @rule()
    def say(self) -> None:
        before, top = noted(self.outbox), self.outbox.position
        self.outbox.say_losses()
        for first, last in noted(self.outbox):
            before.remove(first, last)
        self.gone.update(before)
        named = Spans()
        for ledger in ledgers(self.outbox):
            named.update(self.outbox.positions(ledger.boot, ledger.ranges))
        if self.outbox.position > top:
            assert all(named.remove(a, b) == b - a + 1 for a, b in before)

    @rule()
    def reopen(self) -> None:
        self.outbox.close()
        self.outbox = open_outbox(self.folder / "outbox.db")

    @invariant()
    def every_position_has_one_fate(self) -> None:
        fates = noted(self.outbox)
        count = fates.count + self.gone.count
        for part in slices(self.outbox):
            fates.update(part.spans)
            count += part.spans.count
        fates.update(self.gone)
        assert fates == Spans([(1, self.outbox.position)])
        assert count == self.outbox.position
        assert self.outbox.file_bytes <= MIB

    def teardown(self) -> None:
        self.outbox.close()


def test_accounts(tmp_path: Path) -> None:
    os.environ["OUTBOX_TEST_FOLDER"] = str(tmp_path / "box")
    machine = Accounts.TestCase("runTest")
    Accounts.TestCase.settings = settings(
        max_examples=12, stateful_step_count=30, deadline=None, database=None
    )
    machine.runTest()


# --- formats ---


def test_the_committed_outbox_of_format_1_opens_and_drains(path: Path) -> None:
    shutil.copy(FIXTURES / "v1.db", path)
    outbox = open_outbox(path)
    assert [seq for _, seq in kept(outbox)] == [*range(21, 52), 1]
    assert outbox.say_losses() == 2
    said = [(ledger.ranges, ledger.count, ledger.reason) for ledger in ledgers(outbox)]
    assert said == [(((52, 52),), 1, "byte cap"), ((), 7, "queue full")]
    assert [(m.topic, m.payload) for m in outbox.messages(1, 9, n_max=9)] == [("door/state", b"on")]
    outbox.discard(Spans([(1, outbox.position)]))
    outbox.discard_messages(Spans([(1, 1)]))
    assert outbox.records == 0


def test_a_newer_format_is_refused_untouched(path: Path) -> None:
    open_outbox(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={OUTBOX_FORMAT + 1}")
    db.close()
    before = path.read_bytes(), path.stat().st_mtime_ns, sorted(path.parent.iterdir())
    with pytest.raises(StorageError, match=f"format {OUTBOX_FORMAT + 1}.*update the agent"):
        open_outbox(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(path.parent.iterdir())) == before


# --- bad disks ---


@pytest.mark.parametrize("damage", ["not a database", "torn", "empty header"])
def test_a_damaged_file_is_set_aside_and_that_is_said(path: Path, damage: str) -> None:
    open_outbox(path).close()
    data = path.read_bytes()
    path.write_bytes(
        {
            "not a database": b"hello " * 1000,
            "torn": data[:5000],
            "empty header": bytes(4096) + data[4096:],
        }[damage]
    )
    stale = path.with_name("outbox.db.corrupt-1")
    stale.write_bytes(b"from the last time")
    outbox = open_outbox(path)
    assert outbox.say_losses() == 1
    (ledger,) = ledgers(outbox)
    assert (ledger.reason, ledger.count) == ("outbox was corrupt", 0)
    aside = [file.name for file in path.parent.iterdir() if "corrupt" in file.name]
    assert aside == [f"outbox.db.corrupt-{round(CLOCK.wall())}"]


def test_damage_found_later_leads_to_a_new_file_of_the_same_boot(path: Path) -> None:
    outbox = open_outbox(path)
    append_all(outbox, [body(Rank.DECISION, 1000)] * 300)
    outbox.close()
    with path.open("r+b") as file:
        for page in range(30, 40):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    outbox = open_outbox(path)
    with pytest.raises(CorruptError) as caught:
        kept(outbox)
    last = outbox.seq_last
    outbox.renew(caught.value)
    assert (outbox.seq_last, outbox.records) == (last, 0)
    outbox.say_losses()
    assert [(item.ranges, item.reason) for item in ledgers(outbox)][-1] == (
        ((1, last),),
        "outbox was corrupt",
    )
    append_all(outbox, [body(Rank.DECISION)])
    assert (outbox.boot, outbox.seq_last) in kept(outbox)


@contextmanager
def files_cannot_grow(n_max: int) -> Iterator[None]:
    """Let every write beyond ``n_max`` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_max, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing_and_is_got_over(path: Path) -> None:
    outbox = open_outbox(path)
    append_all(outbox, [body(Rank.DECISION)] * 10)
    wal = path.with_name("outbox.db-wal").stat().st_size
    failure = ""
    with files_cannot_grow(wal):
        try:
            outbox.append([body(Rank.DECISION)] * 10)
        except StorageError as exc:
            failure = str(exc)
    assert "space" in failure
    assert [seq for _, seq in kept(outbox)] == list(range(1, 12))
    append_all(outbox, [body(Rank.DECISION)] * 10)
    outbox.close()
    assert [seq for _, seq in kept(open_outbox(path))] == [*range(1, 22), 1]


def test_a_missing_folder_and_a_second_agent_are_told_what_to_do(path: Path) -> None:
    with pytest.raises(StorageError, match="folder exists"):
        open_outbox(path.parent / "missing" / "outbox.db")
    outbox = open_outbox(path)
    with pytest.raises(StorageError, match="another process uses it"):
        open_outbox(path)
    append_all(outbox, [body(Rank.DECISION)])
    assert outbox.seq_last == 2


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, who may write to read-only files."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_a_read_only_file_is_refused_with_advice() -> None:
    with TemporaryDirectory() as name:  # pytest's own folders are for their owner alone
        folder = Path(name)
        path = folder / "outbox.db"
        folder.chmod(0o777)
        with as_nobody():
            open_outbox(path).close()
            path.chmod(0o444)
            with pytest.raises(StorageError, match="read-only"):
                open_outbox(path)


# --- kill -9 ---

WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from outboxes import append_all, body, open_outbox
from pathlib import Path
from tempfile import TemporaryDirectory
outbox = open_outbox(Path(sys.argv[1]), bytes_max=8 << 20)
print(outbox.boot, flush=True)
while True:
    outbox.append([body(1, 30)] * 7)
    print(outbox.seq_last, flush=True)
"""


def test_kill_9_loses_nothing_that_append_returned_for(path: Path) -> None:
    promised: dict[str, int] = {}
    for turn in range(24):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path, Path(__file__).parent],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout
            boot = child.stdout.readline().strip()
            for _ in range(turn * 5):  # a different moment each time, without a clock
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            rest = [line for line in child.stdout.read().split("\n")[:-1] if line]
            promised[boot] = int(rest[-1]) if rest else 1
    outbox = open_outbox(path, bytes_max=8 << 20)
    found: dict[str, list[int]] = {}
    for name, seq in kept(outbox):
        found.setdefault(name, []).append(seq)
    for boot, seq in promised.items():
        assert len(found[boot]) >= seq
        assert found[boot] == list(range(1, len(found[boot]) + 1))


def _note_sizes(folder: Path, sizes: dict[str, int]) -> None:
    for file in folder.iterdir():
        sizes[file.name] = max(sizes.get(file.name, 0), file.stat().st_size)
