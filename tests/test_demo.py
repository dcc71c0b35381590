"""The parts of the demo on made-up data, and a short performance of the whole."""

import hashlib
import io
import json
import pickle
import shlex
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge_agent.clock import SystemClock
from edge_agent.contract.errors import ConfigError, SourceError, StorageError
from edge_agent.contract.messages import Decision, Ledger, encode, with_seq
from edge_agent.demo import run
from edge_agent.demo.broker import KINDS, LocalBroker
from edge_agent.demo.programs import Program, StepError
from edge_agent.demo.recording import CHANNELS, RATE_HZ, Take, load_watch, read_watch
from edge_agent.demo.scoring import score
from edge_agent.demo.summary import Delivery, faults, make_figures
from edge_agent.demo.tape import Tape, cut, make_tape, write_npz
from edge_agent.demo.witness import Collected, look_into
from edge_agent.demo.workshop import Plan
from edge_agent.fleet.records import Row
from edge_agent.fleet.sink_sqlite import SqliteSink
from edge_agent.outbox.items import item_of
from edge_agent.outbox.outbox import Outbox
from edge_agent.sources.replay import ReplayConfig, ReplaySource

WATCH = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "motion_watch/watch.npz"
LENGTH, HOP = 4, 2

# --- the recordings ------------------------------------------------------------------------------


def watch() -> list[Take]:
    try:
        return load_watch()
    except ConfigError as exc:
        pytest.skip(str(exc))


def test_the_recordings_are_those_of_the_package() -> None:
    takes = watch()
    assert len(takes) == 140
    assert {take.subject for take in takes} == set(range(1, 11))
    assert {take.exercise for take in takes} == {"PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"}
    if not WATCH.exists():
        pytest.skip("the same recordings without a pickle are not here to compare")
    with np.load(WATCH) as file:
        known = {name: file[name] for name in ("signal", "offsets", "label", "classes")}
    recordings = np.split(known["signal"], known["offsets"][1:-1])
    for take, rows, label in zip(takes, recordings, known["label"], strict=True):
        assert np.array_equal(take.rows, rows)
        assert take.exercise == known["classes"][label]


def npy(path: Path, pickled: bytes) -> str:
    """Write a file as numpy writes an object, whatever its pickle holds; its digest."""
    file = io.BytesIO()
    np.save(file, np.array(None))
    header = file.getvalue()[: file.getvalue().index(b"\n") + 1]
    path.write_bytes(header + pickled)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def recordings(**changes: object) -> bytes:
    """The pickle of one recording, as the package has it."""
    rows = np.empty(1, object)
    rows[0] = np.arange(12.0).reshape(2, 6)
    content = {
        "X": rows,
        "y": np.array([1]),
        "subject": np.array([3]),
        "side": np.array([1]),
        "X_labels": list(CHANNELS),
        "y_labels": ["A", "B"],
    }
    return pickle.dumps(np.array(content | changes, object), protocol=2)


def test_a_set_of_arrays_is_read(tmp_path: Path) -> None:
    digest = npy(tmp_path / "set.npy", recordings())
    (take,) = read_watch(tmp_path / "set.npy", digest)
    assert (take.exercise, take.subject, take.right) == ("B", 3, True)
    assert np.array_equal(take.rows, np.arange(12, dtype=np.float32).reshape(2, 6))


def test_another_digest_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    npy(tmp_path / "set.npy", recordings())
    with pytest.raises(SourceError, match="so it is not read"):
        read_watch(tmp_path / "set.npy", "0" * 64)


class Hostile:
    """Creates a file when it is unpickled by somebody who does not look."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_reaches_no_code(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(Hostile(trace)))  # it does work
    trace.unlink()
    for protocol in (2, 5):
        digest = npy(tmp_path / "set.npy", pickle.dumps(Hostile(trace), protocol=protocol))
        with pytest.raises(SourceError, match="which is no part of an array"):
            read_watch(tmp_path / "set.npy", digest)
    assert not trace.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80\x02",
        pickle.dumps(np.zeros(3), protocol=2),
        pickle.dumps({"X": 1}, protocol=2),
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        recordings(X_labels=["ax"]),
        recordings(y=np.array([5])),
        recordings(side=np.array([1, 0])),
    ],
)
def test_what_is_no_such_set_is_refused(tmp_path: Path, pickled: bytes) -> None:
    digest = npy(tmp_path / "set.npy", pickled)
    with pytest.raises(SourceError, match="not a set of watch recordings"):
        read_watch(tmp_path / "set.npy", digest)


# --- the tape ------------------------------------------------------------------------------------


def takes(count: int = 200) -> list[Take]:
    rng = np.random.default_rng(0)
    return [
        Take(rng.normal(0, 3, (count, 6)).astype(np.float32), exercise, subject, right)
        for subject in (1, 2)
        for exercise in ("A", "B")
        for right in (False, True)
    ]


def test_a_tape_is_the_middle_of_each_exercise_of_the_right_arm() -> None:
    everybody = takes()
    tape = make_tape(everybody, 2, piece_s=1.0)
    assert tape.seconds == 2.0
    assert tape.truth.tolist() == ["A"] * 50 + ["B"] * 50
    assert np.array_equal(tape.rows[:50], everybody[5].rows[75:125])
    with pytest.raises(SourceError, match="subject 2 did A for less than 9 s"):
        make_tape(everybody, 2, piece_s=9.0)


def test_a_device_reads_the_very_same_floats(tmp_path: Path) -> None:
    tape = make_tape(takes(), 1, piece_s=1.0)
    tape.write_csv(tmp_path / "tape.csv")
    source = ReplaySource(
        ReplayConfig(path="tape.csv"), CHANNELS, base=tmp_path, clock=SystemClock()
    )
    out = np.empty((200, 6), np.float32)
    with closing(source):
        source.open()
        assert source.read(out) == len(tape.rows)
    assert out[: len(tape.rows)].tobytes() == tape.rows.tobytes()


def test_windows_end_with_the_readings_that_are_due() -> None:
    tape = Tape(np.arange(18, dtype=np.float32).reshape(9, 2), np.repeat("A", 9))
    due = tape.due(LENGTH, HOP)
    assert due.tolist() == [4, 6, 8]
    assert np.array_equal(tape.windows(due, LENGTH)[1], tape.rows[2:6])


def test_recordings_are_cut_apart_and_written_with_their_bounds(tmp_path: Path) -> None:
    windows, names = cut(takes(10)[:3], 4, 3)
    assert windows.shape == (9, 4, 6)
    assert names.tolist() == ["A"] * 6 + ["B"] * 3
    write_npz(takes(10)[:3], tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as found:
        assert found["offsets"].tolist() == [0, 10, 20, 30]
        assert found["label"].tolist() == ["A", "A", "B"]
        assert np.array_equal(found["signal"][20:], takes(10)[2].rows)


# --- the score -----------------------------------------------------------------------------------

TAPE = Tape(np.arange(20, dtype=np.float32).reshape(10, 2), np.array(["A"] * 5 + ["B"] * 5))


def decided(reading: int, label: str, model: str = "1") -> Decision:
    return Decision(
        t=float(reading), pipeline="p", model=model, reading=reading, label=label, score=1
    )


def always(label: str):
    return lambda windows: np.repeat(label, len(windows))


ORIGINALS = {"1": always("A"), "2": always("B")}


def test_each_window_is_compared_with_the_version_that_decided_it() -> None:
    decisions = [decided(8, "B", "2"), decided(4, "A"), decided(6, "B"), decided(10, "A", "2")]
    found = score(decisions, TAPE, ORIGINALS, length=LENGTH, hop=HOP)
    assert found.windows == 4
    assert found.accuracy_device == 0.75  # 10 is wrong
    assert found.accuracy_original == 0.75  # 6 is wrong
    assert found.label_flips == 2  # 6 and 10
    assert found.accuracy_device_within == 0.5  # of 4 and 10; 6 and 8 see both exercises
    assert found.missed_readings == 0
    assert found.versions == {"1": 2, "2": 2}


@pytest.mark.parametrize(
    ("readings", "missed"),
    [([4, 6, 8, 10], 0), ([4, 8, 10], 2), ([4, 6], 4), ([4, 6, 6, 8, 10], 2), ([4, 7, 8, 10], 4)],
)
def test_every_due_window_must_be_there_exactly_once(readings: list[int], missed: int) -> None:
    decisions = [decided(reading, "A") for reading in readings]
    assert score(decisions, TAPE, ORIGINALS, length=LENGTH, hop=HOP).missed_readings == missed


@pytest.mark.parametrize("readings", [[], [3], [4, 12]])
def test_decisions_on_something_else_are_not_scored(readings: list[int]) -> None:
    decisions = [decided(reading, "A") for reading in readings]
    with pytest.raises(ConfigError, match="do not belong to a recording of 10 readings"):
        score(decisions, TAPE, ORIGINALS, length=LENGTH, hop=HOP)


def test_whatever_was_lost_is_said() -> None:
    found = score([decided(4, "A"), decided(8, "A")], TAPE, ORIGINALS, length=LENGTH, hop=HOP)
    delivery = Delivery(produced=9, received=7, lost=2, offline_s=1.0, offline_windows=0)
    figures = make_figures(found, delivery, {}, broker="b", elapsed_s=1.0)
    lost, missed, versions = faults(figures, due=4, versions=2)
    assert lost == "2 of 9 records did not arrive"
    assert missed == "2 decisions came for 4 windows, 4 readings have not exactly one"
    assert versions == "only 1 decided, not 2 versions"


# --- what is seen from outside -------------------------------------------------------------------


def test_a_running_agents_outbox_can_be_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    assert look_into(path) is None
    with closing(Outbox.open(path, bytes_max=2**20, agent="1", clock=SystemClock())) as outbox:
        outbox.append([item_of(decided(reading, "A")) for reading in (4, 6)])
        outbox.append([item_of(Ledger(t=1.0, boot="b", count=1, reason="test"))])
        kept = look_into(path)
        assert kept is not None
        assert (kept.produced, kept.waiting) == (4, 4)  # with the record of its start
        assert kept.newest == decided(6, "A")
        assert outbox.seq_last == 4  # it has not noticed


def test_a_collectors_file_can_be_read_while_it_collects(tmp_path: Path) -> None:
    path = tmp_path / "collected.db"
    seen = Collected(path, "pi")
    assert (seen.count(), seen.newest(), seen.metrics()) == (0, None, None)
    path.touch()  # a collector that has only just begun
    assert (seen.count(), seen.newest(), seen.metrics()) == (0, None, None)
    with closing(SqliteSink(path)) as sink:
        bodies = [(seq, with_seq(seq, encode(decided(2 * seq, "A")))) for seq in (1, 2)]
        rows = [
            Row(device="pi", boot="b", seq=seq, kind="decision", t=1.0, late=False, body=body)
            for seq, body in bodies
        ]
        sink.store(rows, received_t=1.0)
        assert seen.count() == 2
        assert seen.decisions() == [decided(2, "A"), decided(4, "A")]
        assert seen.newest() == decided(4, "A")


# --- programs ------------------------------------------------------------------------------------


def program(tmp_path: Path, code: str) -> Program:
    return Program("test", [sys.executable, "-c", code], tmp_path)


def test_a_program_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    failing = program(tmp_path, "import sys; sys.exit('no such sensor')")
    failing.start()
    with pytest.raises(StepError, match=r"ended with 1: no such sensor \(its log is .*test\.log"):
        failing.wait(20)
    with pytest.raises(StepError, match="printed no figures"):
        failing.result()


def test_a_program_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    done = program(tmp_path, "print('RESULT {\"a\": 1}')")
    done.start()
    done.wait(20)
    assert done.result() == {"a": 1}
    with pytest.raises(StepError, match="has ended"):
        done.require_running()


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    hanging = program(tmp_path, "import time; time.sleep(600)")
    hanging.start()
    with pytest.raises(StepError, match="has not ended after 1 s"):
        hanging.wait(1)
    assert not hanging.running


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_comes_back_where_it_was(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    try:
        broker = LocalBroker(folder, tmp_path, [kind])
    except ConfigError as exc:
        pytest.skip(str(exc))
    broker.start()
    try:
        broker.cut()
        with pytest.raises(StepError):
            broker.require_running()
        broker.start()
        broker.require_running()
    finally:
        broker.end()


def test_without_a_broker_it_is_said_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="apt install mosquitto"):
        LocalBroker(tmp_path, tmp_path, ["no-such-broker"])


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    code = "import sys; sys.modules['sklearn'] = None; from edge_agent.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo"], capture_output=True, text=True, check=False
    )
    assert done.returncode == ConfigError.exit_code
    assert done.stderr.startswith("edge-agent: the demo needs sklearn")
    assert "pip install 'edge-agent[demo]'" in done.stderr


# --- the whole -----------------------------------------------------------------------------------


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    with pytest.raises(ConfigError, match="other things than a demo"):
        run(tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["device"]


def test_folders_are_looked_at_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        run(tmp_path / "file", None)
    with pytest.raises(StorageError, match="name another --out"):
        run(tmp_path / "file" / "below", None)
    with pytest.raises(ConfigError, match="--json: there is no folder"):
        run(tmp_path / "out", tmp_path / "nowhere" / "figures.json")
    assert not (tmp_path / "out").exists()


@pytest.mark.demo
@pytest.mark.timeout(300)
def test_a_short_performance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch()
    out = tmp_path / "demo out"
    plan = Plan(piece_s=3.0, before_s=2.5, outage_s=2.0)
    assert run(out, tmp_path / "figures.json", plan) == 0
    *_, last = printed = capsys.readouterr().out.splitlines()
    figures = json.loads(last.removeprefix("RESULT "))
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert figures["windows"] == 1 + (7 * 3 * RATE_HZ - 100) // 10
    assert figures["records_received"] == figures["records_produced"] > figures["windows"]
    assert (figures["records_lost"], figures["swap_missed_readings"]) == (0, 0)
    assert list(figures["versions"]) == ["1.0.0", "1.1.0"]
    difference = abs(figures["accuracy_device"] - figures["accuracy_original"])
    assert difference <= figures["label_flips"] / figures["windows"] <= 0.05
    assert figures["accuracy_device_within"] > 0.7  # of seven exercises
    assert figures["offline_s"] >= 2.0
    assert figures["offline_windows"] >= 5
    assert set(figures["latency_us"]["total"]) == {"p50", "p99"}
    go_on(printed)


def go_on(printed: list[str]) -> None:
    """The three commands do what they are said to do."""
    replay, build, agent = (
        shlex.split(line) for line in printed if line.startswith("  ") and "edge-" in line[:40]
    )
    done = subprocess.run(replay, capture_output=True, text=True, timeout=60, check=True)
    assert "labelled windows" in done.stdout
    done = subprocess.run(build, capture_output=True, text=True, timeout=120, check=True)
    assert Path(json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))["bundle"]).exists()
    outbox = Path(agent[-1]).parent / "device" / "outbox.db"
    with subprocess.Popen(agent, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while (kept := look_into(outbox)) is None or kept.newest is None:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
