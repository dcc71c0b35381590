"""Both kinds of record file: durable, without duplicates, with the right acknowledgements."""

import json
import resource
import shutil
import sqlite3
from collections import defaultdict
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.contract.errors import StorageError
from edge_agent.contract.messages import Decision, Ledger, Started, encode, with_seq
from edge_agent.fleet.ranges import runs
from edge_agent.fleet.records import Row
from edge_agent.fleet.sinks import open_sink

NAMES = ("records.jsonl", "records.db")


def row(seq, record=None, *, boot="b1", device="pi-1", late=False):
    record = record or Decision(t=1.5, pipeline="p", model="1.0.0", reading=seq, score=0.5)
    body = with_seq(seq, encode(record))
    kind = json.loads(body)["kind"]
    return Row(device=device, boot=boot, seq=seq, kind=kind, t=record.t, late=late, body=body)


def rows(*seqs, **where):
    return [row(seq, **where) for seq in seqs]


@pytest.fixture(params=NAMES)
def path(request, tmp_path):
    return tmp_path / request.param


@pytest.fixture
def reopen(path):
    opened = []

    def again():
        for sink in opened:
            sink.close()
        opened.append(open_sink(str(path)))
        return opened[-1]

    yield again
    for sink in opened:
        sink.close()


def bodies(path):
    """What a program that knows only the format reads."""
    if path.suffix == ".jsonl":
        return [json.loads(line)["record"]["seq"] for line in path.read_text().splitlines()]
    with closing(sqlite3.connect(path)) as db:
        return [json.loads(body)["seq"] for (body,) in db.execute("SELECT body FROM records")]


def tally_of(sink, device="pi-1"):
    return next(tally for tally in sink.tallies() if tally.device == device)


def test_records_are_stored_once_and_acknowledged_each_time(reopen, path):
    sink = reopen()
    first = sink.store(rows(1, 2, 3), received_t=9.0)
    again = sink.store(rows(2, 3, 4), received_t=9.0)
    assert (first.new, first.duplicates) == (3, {})
    assert (again.new, again.duplicates) == (1, {"pi-1": 2})
    assert [(device, ack.boot, ack.through) for device, ack in again.acks] == [("pi-1", "b1", 4)]
    assert bodies(path) == [1, 2, 3, 4]


def test_a_duplicate_within_one_commit_is_stored_once(reopen, path):
    stored = reopen().store(rows(1, 1, 2), received_t=9.0)
    assert (stored.new, stored.duplicates) == (2, {"pi-1": 1})
    assert bodies(path) == [1, 2]


def test_what_is_stored_is_known_after_opening_again(reopen):
    reopen().store([*rows(1, 2), *rows(7, 8, 9)], received_t=9.0)
    sink = reopen()
    stored = sink.store(rows(8), received_t=9.0)
    (_, ack) = stored.acks[0]
    assert (stored.new, ack.through, ack.ranges) == (0, 2, ((7, 9),))
    assert tally_of(sink).missing == 4


def test_boots_and_devices_do_not_mix(reopen):
    sink = reopen()
    sink.store([*rows(1), *rows(1, boot="b2"), *rows(1, device="pi-2")], received_t=9.0)
    stored = sink.store([*rows(2), *rows(3, device="pi-2")], received_t=9.0)
    assert {(device, ack.boot): ack.through for device, ack in stored.acks} == {
        ("pi-1", "b1"): 2,
        ("pi-2", "b1"): 1,
    }
    assert tally_of(sink).received == 3
    assert tally_of(sink, "pi-2").missing == 1


def test_ledgered_seqs_count_as_covered_also_for_an_earlier_boot(reopen):
    sink = reopen()
    sink.store(rows(1, 5), received_t=9.0)
    said = Ledger(t=1.0, boot="b1", ranges=((2, 4), (6, 8)), count=10, reason="byte cap")
    stored = sink.store([row(1, said, boot="b2")], received_t=9.0)
    assert {ack.boot: ack.through for _, ack in stored.acks} == {"b1": 8, "b2": 1}
    for opened in (lambda: sink, reopen):
        tally = tally_of(opened())
        assert (tally.produced, tally.received, tally.ledgered) == (9, 3, 6)
        assert (tally.missing, tally.unsequenced) == (0, 4)


def test_a_ledger_that_comes_twice_counts_once(reopen):
    sink = reopen()
    said = Ledger(t=1.0, boot="b1", count=7, reason="queue full")
    for _ in range(2):
        sink.store([row(1, said)], received_t=9.0)
    assert tally_of(sink).unsequenced == 7


def test_a_record_that_was_ledgered_and_arrives_all_the_same_is_received(reopen):
    sink = reopen()
    said = Ledger(t=1.0, boot="b1", ranges=((2, 3),), count=2, reason="byte cap")
    sink.store([*rows(1, 2), row(4, said)], received_t=9.0)
    tally = tally_of(sink)
    assert (tally.produced, tally.received, tally.ledgered, tally.missing) == (4, 3, 1, 0)


def test_the_tail_of_a_boot_is_proved_by_the_next_one(reopen):
    sink = reopen()
    started = Started(t=1.0, agent="1.0.0", previous_boot="b1", previous_seq=6)
    sink.store([*rows(1, 2, 3, 4), row(1, started, boot="b2")], received_t=9.0)
    for opened in (lambda: sink, reopen):
        tally = tally_of(opened())
        assert (tally.produced, tally.missing) == (7, 2)


def test_a_status_says_how_much_is_missing_at_the_end(reopen):
    sink = reopen()
    sink.store(rows(1, 2), received_t=9.0, seen={("pi-1", "b1"): 5})
    sink.store([], received_t=9.0, seen={("pi-1", "b1"): 3})
    assert tally_of(sink).missing == 3


def test_kinds_that_are_not_known_are_stored(reopen, path):
    strange = Row(
        device="pi-1",
        boot="b1",
        seq=1,
        kind="new",
        t=1.0,
        late=True,
        body=b'{"seq":1,"kind":"new"}',
    )
    assert reopen().store([strange], received_t=9.0).new == 1
    assert bodies(path) == [1]


def test_a_full_disk_is_an_error_and_nothing_is_half_stored(reopen, path):
    sink = reopen()
    sink.store(rows(1, 2), received_t=9.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1000, limits[1]))
    try:
        with pytest.raises(StorageError):
            sink.store(rows(*range(3, 3000)), received_t=9.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert bodies(path) == [1, 2]
    assert sink.store(rows(3), received_t=9.0).new == 1


def test_a_folder_that_is_missing_is_named(tmp_path):
    for name in NAMES:
        with pytest.raises(StorageError, match="create it first"):
            open_sink(str(tmp_path / "none" / name))


def test_the_summary_of_a_file_is_read_while_a_collector_has_it_open(reopen, path):
    reopen().store(rows(1, 3), received_t=9.0)
    reader = open_sink(str(path), read_only=True)
    assert tally_of(reader).missing == 1
    reader.close()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 30)), max_size=12), max_size=8
    )
)
def test_both_files_agree_with_plain_sets(tmp_path_factory, commits):
    folder = tmp_path_factory.mktemp("sinks")
    sinks = [open_sink(str(folder / name)) for name in NAMES]
    plain = defaultdict(set)
    for commit in commits:
        batch = [row(seq, boot=boot) for boot, seq in commit]
        new = {(boot, seq) for boot, seq in commit if seq not in plain[boot]}
        for boot, seq in commit:
            plain[boot].add(seq)
        answers = [sink.store(batch, received_t=1.0) for sink in sinks]
        assert [answer.new for answer in answers] == [len(new)] * 2
        assert sorted(map(repr, answers[0].acks)) == sorted(map(repr, answers[1].acks))
        for _, ack in answers[0].acks:
            through = [pair[1] for pair in runs(plain[ack.boot]) if pair[0] == 1]
            assert ack.through == (through[0] if through else 0)
    assert sinks[0].tallies() == sinks[1].tallies()
    for sink in sinks:
        sink.close()
    shutil.rmtree(folder)


# --- SQLite alone --------------------------------------------------------------------------------


def test_collectors_that_share_a_file_acknowledge_what_either_stored(tmp_path):
    path = str(tmp_path / "records.db")
    one, two = open_sink(path), open_sink(path)
    one.store(rows(1, 2, 5), received_t=9.0)
    (_, ack) = two.store(rows(3, 4), received_t=9.0).acks[0]
    assert (ack.through, ack.ranges) == (5, ())
    assert one.store(rows(4), received_t=9.0).duplicates == {"pi-1": 1}
    one.close()
    two.close()


def test_sqlite_is_chosen_by_prefix_too(tmp_path):
    open_sink(f"sqlite:{tmp_path}/records").close()
    assert (tmp_path / "records").read_bytes().startswith(b"SQLite format 3")


def test_a_newer_format_is_refused_untouched(tmp_path):
    path = tmp_path / "records.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE records (x)")
        db.execute("PRAGMA user_version = 2")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="update edge-fleet"):
        open_sink(str(path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_another_programs_database_is_refused_untouched(tmp_path):
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE photos (x)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="something else"):
        open_sink(str(path))
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused(tmp_path):
    path = tmp_path / "records.db"
    path.write_bytes(b"seq,score\n" * 100)
    with pytest.raises(StorageError, match="not a database"):
        open_sink(str(path))


# --- lines alone ---------------------------------------------------------------------------------


def test_a_torn_last_line_is_cut_off_and_its_record_stored_again(tmp_path):
    path = tmp_path / "records.jsonl"
    sink = open_sink(str(path))
    sink.store(rows(1, 2, 3), received_t=9.0)
    sink.close()
    path.write_bytes(path.read_bytes()[:-20])
    sink = open_sink(str(path))
    assert sink.store(rows(3), received_t=9.0).new == 1
    sink.close()
    assert bodies(path) == [1, 2, 3]


def test_a_file_that_is_one_torn_line_is_begun_anew(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"device"' * 20_000)  # longer than one look back
    sink = open_sink(str(path))
    sink.close()
    assert path.read_bytes() == b""


def test_a_damaged_line_in_the_middle_counts_as_missing_and_is_left(tmp_path):
    path = tmp_path / "records.jsonl"
    sink = open_sink(str(path))
    sink.store(rows(1, 2, 3), received_t=9.0)
    sink.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00" * 40 + b"\n" + lines[2])
    sink = open_sink(str(path))
    assert tally_of(sink).missing == 1
    assert sink.store(rows(2), received_t=9.0).new == 1
    assert tally_of(sink).missing == 0
    sink.close()


def test_two_collectors_cannot_write_the_same_lines(tmp_path):
    path = str(tmp_path / "records.jsonl")
    sink = open_sink(path)
    with pytest.raises(StorageError, match=r"share a \.db file"):
        open_sink(path)
    sink.close()
    open_sink(path).close()
