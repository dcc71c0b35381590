"""Sources: what they give, what they count, and how long they wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.clock import SystemClock
from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.link import Up
from edge_agent.sources import SourceConfig, make_source
from edge_agent.sources.base import Source
from edge_agent.sources.json_rows import RowDecoder
from edge_agent.sources.jsonl import JsonlConfig, JsonlSource
from edge_agent.sources.mqtt import MqttConfig, MqttSource, link_to
from edge_agent.sources.pace import Pace
from edge_agent.sources.replay import ReplayConfig, ReplaySource
from edge_agent.sources.simulated import SimulatedConfig, SimulatedSource
from edge_agent.testing.broker import SimulatedBroker
from edge_agent.testing.clock import FakeClock
from edge_agent.testing.conformance import check_source

if TYPE_CHECKING:
    from brokers import Broker

pytest_plugins = ("brokers",)

NAN = float("nan")
RECORDINGS = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
DEADLINE_S = 20.0


def rows_of(
    source: Source, channels: int, *, block: int = 3, most: int = 10_000
) -> list[list[float]]:
    """All readings until the end, at most ``most``, as float64 lists."""
    out = np.empty((block, channels), np.float32)
    rows: list[list[float]] = []
    try:
        while len(rows) < most:
            rows += out[: source.read(out)].tolist()
    except EOFError:
        pass
    return rows


def assert_rows(got: list[list[float]], want: list[list[float]]) -> None:
    assert len(got) == len(want)
    np.testing.assert_array_equal(np.float32(got), np.float32(want))


def until(holds: Callable[[], bool]) -> None:
    """Poll until it holds; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.005)


# --- pace ----------------------------------------------------------------------------------------


def test_pace_gives_one_reading_a_period_and_sleeps_exactly_until_it() -> None:
    clock = FakeClock()
    pace = Pace(4.0, clock, sleep=clock.sleep)
    start = clock.monotonic_ns()
    assert [pace.take(10) for _ in range(4)] == [1, 1, 1, 1]
    assert clock.monotonic_ns() - start == 750_000_000


def test_pace_does_not_drift_over_a_day() -> None:
    clock = FakeClock()
    pace = Pace(3.0, clock, sleep=clock.sleep)
    start = clock.monotonic_ns()
    given_n = 0
    for _ in range(24):
        given_n += pace.take(10**9)
        given_n += pace.take(10**9)
        clock.advance(3600 - (clock.monotonic_ns() - start) / 1e9 % 3600)
    given_n += pace.take(10**9)
    assert given_n == 24 * 3600 * 3 + 1


def test_pace_lets_a_late_caller_catch_up_in_the_portions_it_takes() -> None:
    clock = FakeClock()
    pace = Pace(10.0, clock, sleep=clock.sleep)
    clock.advance(1.05)
    assert [pace.take(4) for _ in range(3)] == [4, 4, 3]
    assert pace.take(4) == 1


def test_pace_never_waits_longer_than_a_second_at_once() -> None:
    clock = FakeClock()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    pace = Pace(0.4, clock, sleep=sleep)
    assert [pace.take(1) for _ in range(4)] == [1, 0, 0, 1]
    assert waits == [1.0, 1.0, 0.5]


@given(rate_hz=st.floats(0.01, 1e5), late_s=st.floats(0, 1e5), most=st.integers(1, 64))
def test_pace_gives_exactly_what_is_due(rate_hz: float, late_s: float, most: int) -> None:
    clock = FakeClock(monotonic_s=0)
    pace = Pace(rate_hz, clock, sleep=lambda _: None)
    clock.advance(late_s)
    due = late_s * rate_hz + 1
    given_n = 0
    for _ in range(40):
        count = pace.take(most)
        assert 0 <= count <= most
        given_n += count
    assert given_n <= due + 0.01
    assert given_n >= min(int(due - 0.01), 40 * most)


# --- replay --------------------------------------------------------------------------------------


def replay(path: Path, *channels: str, clock: FakeClock | None = None, **options: object) -> Source:
    clock = clock or FakeClock()
    config = msgspec.convert({"type": "replay", "path": path.name, **options}, ReplayConfig)
    return ReplaySource(config, channels, base=path.parent, clock=clock, sleep=clock.sleep)


def test_csv_columns_are_taken_by_name_in_the_order_of_the_channels(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(b'\xef\xbb\xbftime, x ,"y",label\r\n0,1.5,2,walk\r\n1,-3e2,4,"a,b"\r\n')
    source = replay(path, "y", "x")
    source.open()
    assert_rows(rows_of(source, 2), [[2.0, 1.5], [4.0, -300.0]])
    assert source.faults == {"torn": 0, "malformed": 0}


def test_csv_gaps_are_nan_and_broken_rows_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(b"a,b\n1,2\n,2\n3,nan\n \t,NaN\n1\n1,2,3\n\nx,2\n1,\xff\n5,6")
    source = replay(path, "a", "b")
    source.open()
    assert_rows(rows_of(source, 2), [[1, 2], [NAN, 2], [3, NAN], [NAN, NAN], [5, 6]])
    assert source.faults == {"torn": 2, "malformed": 2}


def test_csv_of_one_channel(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("t,a\n0,1\n1,\n2,1e39\n")
    source = replay(path, "a")
    source.open()
    assert_rows(rows_of(source, 1), [[1], [NAN], [float("inf")]])


def test_a_hundred_thousand_csv_rows_come_out_as_numpy_reads_them(tmp_path: Path) -> None:
    want = np.random.default_rng(5).normal(size=(100_000, 3)).astype(np.float32)
    path = tmp_path / "r.csv"
    path.write_text("a,b,c\n" + "".join(f"{a!r},{b!r},{c!r}\n" for a, b, c in want.tolist()))
    source = replay(path, "a", "b", "c")
    source.open()
    out = np.empty((100_001, 3), np.float32)
    assert source.read(out) == len(want)
    np.testing.assert_array_equal(out[:-1], want)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.bool_])
def test_npz_arrays_of_any_number_type(tmp_path: Path, dtype: type) -> None:
    want = np.arange(12).reshape(6, 2).astype(dtype)
    np.savez(tmp_path / "r.npz", signal=want, other=np.zeros(3))
    source = replay(tmp_path / "r.npz", "a", "b")
    source.open()
    assert_rows(rows_of(source, 2), want.astype(np.float32).tolist())


def test_npz_array_can_be_named(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "r.npz", x=np.ones((2, 1)))
    source = replay(tmp_path / "r.npz", "a", array="x")
    source.open()
    assert_rows(rows_of(source, 1), [[1], [1]])


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("none.csv", lambda _: None, "No such file"),
        ("none.npz", lambda _: None, "No such file"),
        ("r.txt", lambda path: write(path, b"a,b\n"), r"a \.csv or an \.npz"),
        ("r.csv", lambda path: write(path, b""), "no column 'a'"),
        ("r.csv", lambda path: write(path, b"x,b,z\n1,2,3\n"), "no column 'a'.*are x, b, z"),
        ("r.csv", lambda path: write(path, b"a,b,a\n1,2,3\n"), "more than one column 'a'"),
        ("r.csv", lambda path: write(path, b'a,b\n1,"' + b"9\n" * 100_000), "line .* limit"),
        ("r.npz", lambda path: write(path, b"not a zip"), "not a usable NPZ"),
        ("r.npz", lambda path: write(path, b""), "not a usable NPZ"),
        ("r.npz", lambda path: np.savez(path, x=np.ones((2, 2))), "no array 'signal'.*are x"),
        ("r.npz", lambda path: np.savez(path, signal=np.ones((2, 3))), r"shape \(2, 3\).*a, b"),
        ("r.npz", lambda path: np.savez(path, signal=np.ones(4)), r"shape \(4,\)"),
        ("r.npz", lambda path: np.savez(path, signal=np.array([["x", "y"]])), "hold numbers"),
        (
            "r.npz",
            lambda path: np.savez(path, signal=np.array([[object()]])),
            "not a usable NPZ",
        ),
    ],
)
def test_unusable_recordings_say_what_is_wrong(
    tmp_path: Path, name: str, make: Callable[[Path], None], says: str
) -> None:
    make(tmp_path / name)
    source = replay(tmp_path / name, "a", "b")
    with pytest.raises(SourceError, match=says) as caught:
        source.open()
    assert name in str(caught.value)


def test_a_cut_off_npz_is_a_source_error_wherever_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    np.savez_compressed(path, signal=np.random.default_rng(0).normal(size=(50, 2)))
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError):
            replay(path, "a", "b").open()
    for at in range(64, len(whole) - 100, 29):  # inside the compressed data
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(SourceError):
            replay(path, "a", "b").open()


def test_replay_keeps_its_rate_and_gives_what_is_due(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", signal=np.arange(6.0).reshape(6, 1))
    clock = FakeClock()
    source = replay(tmp_path / "r.npz", "a", clock=clock, rate_hz=2.0)
    clock.advance(60)  # before it is open, time does not count
    source.open()
    out = np.empty((4, 1), np.float32)
    assert source.read(out) == 1
    clock.advance(1.2)
    assert source.read(out) == 2
    assert out[:2, 0].tolist() == [1.0, 2.0]
    assert_rows(rows_of(source, 1), [[3], [4], [5]])


def test_replay_loops_without_a_gap_and_an_empty_recording_ends_all_the_same(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "r.npz", signal=np.arange(3.0).reshape(3, 1), nothing=np.empty((0, 1)))
    source = replay(tmp_path / "r.npz", "a", loop=True)
    source.open()
    assert [row[0] for row in rows_of(source, 1, block=2, most=8)][:8] == [0, 1, 2, 0, 1, 2, 0, 1]
    empty = replay(tmp_path / "r.npz", "a", loop=True, array="nothing")
    empty.open()
    assert rows_of(empty, 1) == []


def test_replay_begins_anew_when_it_is_opened_again(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", signal=np.arange(3.0).reshape(3, 1))
    source = replay(tmp_path / "r.npz", "a")
    for _ in range(2):
        source.open()
        assert_rows(rows_of(source, 1), [[0], [1], [2]])
        source.close()


def test_replay_of_a_real_recording() -> None:
    recordings = sorted(RECORDINGS.glob("stream_imu/**/*.csv")) or sorted(
        RECORDINGS.glob("**/*.csv")
    )
    if not recordings:
        pytest.skip("the shared recordings are not there")
    path = recordings[0]
    header, *lines = path.read_text().splitlines()
    names = header.split(",")
    cells = [line.split(",") for line in lines]
    numeric = [n for n, name in enumerate(names) if all(is_number(row[n]) for row in cells[:50])]
    chosen = [names[n] for n in numeric[:3]]
    source = replay(path, *chosen)
    source.open()
    given_n = len(rows_of(source, len(chosen), block=256, most=10**7))
    assert given_n + sum(source.faults.values()) == len(lines)
    assert given_n > 0


def is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


# --- JSON readings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (b"[1, 2.5]", [1.0, 2.5]),
        (b" [1,null] \r", [1.0, None]),
        (b"[NaN, -Infinity]", [None, None]),
        (b"[nan, 1e3]", [None, 1000.0]),
        (b'{"b": 2, "a": 1}', [1.0, 2.0]),
        (b'{"a": 1}', [1.0, None]),
        (b'{"a": null, "b": NaN}', [None, None]),
        (b'{"a": 1, "b": 2, "t": "now", "c": {"a": [3]}}', [1.0, 2.0]),
        (b"[123456789012345678901234567890, 0]", [1.2345678901234568e29, 0.0]),
    ],
)
def test_a_reading_as_json(text: bytes, want: list[float | None]) -> None:
    decoder = RowDecoder(("a", "b"))
    assert decoder.row(text) == want
    assert decoder.faults == {"torn": 0, "malformed": 0}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[1, 2", "torn"),
        (b"hello", "torn"),
        (b"", "torn"),
        (b"\xff\xfe", "torn"),
        (b"[1, 2] [3, 4]", "torn"),
        (b'[1, "2', "torn"),
        (b"[" * 100_000, "torn"),
        (b'{"z": ' * 100_000, "torn"),
        (b"[1]", "malformed"),
        (b"[1, 2, 3]", "malformed"),
        (b"[]", "malformed"),
        (b"[1, true]", "malformed"),
        (b'[1, "2"]', "malformed"),
        (b'{"a": "warm"}', "malformed"),
        (b'{"status": "ok"}', "malformed"),
        (b"{}", "malformed"),
        (b"7", "malformed"),
        (b"null", "malformed"),
    ],
)
def test_what_is_not_a_reading_is_counted(text: bytes, reason: str) -> None:
    decoder = RowDecoder(("a", "b"))
    assert decoder.row(text) is None
    assert decoder.faults == {"torn": 0, "malformed": 0, reason: 1}


@given(st.binary(max_size=60) | st.text('[]{},:"ab01. -einfNaN', max_size=40).map(str.encode))
def test_any_bytes_are_rows_or_counted(text: bytes) -> None:
    decoder = RowDecoder(("a", "b"))
    rows = decoder.rows(text)
    assert all(len(row) == 2 for row in rows)
    assert rows or sum(decoder.faults.values()) > 0


def test_several_readings_in_one_text_fail_one_by_one() -> None:
    decoder = RowDecoder(("a", "b"))
    assert decoder.rows(b'[[1,2],{"b":3},[4],["x",1],[nan,5]]') == [
        [1.0, 2.0],
        [None, 3.0],
        [None, 5.0],
    ]
    assert decoder.faults == {"torn": 0, "malformed": 2}


def test_a_channel_that_cannot_be_a_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="channel"):
        RowDecoder(('a"b',))


# --- jsonl ---------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, list[int]]]:
    """The reading end, and a list with the writing end, from which a test may take it to close."""
    reading, writing = os.pipe()
    ends = [writing]
    yield reading, ends
    for end in (reading, *ends):
        os.close(end)


def test_jsonl_gives_whole_lines_and_waits_for_the_rest_of_one(
    pipe: tuple[int, list[int]],
) -> None:
    reading, ends = pipe
    source = JsonlSource(JsonlConfig(), ("a", "b"), descriptor=reading)
    source.open()
    out = np.empty((8, 2), np.float32)
    os.write(ends[0], b'[1,2]\n\n{"b":4}\r\n[5,')
    assert source.read(out) == 2
    assert_rows(out[:2].tolist(), [[1, 2], [NAN, 4]])
    os.write(ends[0], b"6]\n")
    assert source.read(out) == 1
    assert_rows(out[:1].tolist(), [[5, 6]])


def test_jsonl_returns_with_nothing_when_no_line_comes(pipe: tuple[int, list[int]]) -> None:
    source = JsonlSource(JsonlConfig(), ("a",), descriptor=pipe[0])
    source.open()
    assert source.read(np.empty((8, 1), np.float32)) == 0


def test_jsonl_keeps_what_does_not_fit_for_the_next_read(pipe: tuple[int, list[int]]) -> None:
    reading, ends = pipe
    os.write(ends[0], b"".join(b"[%d]\n" % number for number in range(10)))
    os.close(ends.pop())
    source = JsonlSource(JsonlConfig(), ("a",), descriptor=reading)
    source.open()
    assert [row[0] for row in rows_of(source, 1, block=3)] == list(range(10))


@pytest.mark.parametrize(
    ("end", "rows", "torn"), [(b"[3,4]", 2, 0), (b"[3,", 1, 1), (b"", 1, 0), (b"  ", 1, 0)]
)
def test_jsonl_ends_with_a_whole_or_a_torn_last_line(
    pipe: tuple[int, list[int]], end: bytes, rows: int, torn: int
) -> None:
    reading, ends = pipe
    os.write(ends[0], b"[1,2]\n" + end)
    os.close(ends.pop())
    source = JsonlSource(JsonlConfig(), ("a", "b"), descriptor=reading)
    source.open()
    assert len(rows_of(source, 2)) == rows
    assert source.faults == {"torn": torn, "malformed": 0}
    with pytest.raises(EOFError):
        source.read(np.empty((1, 2), np.float32))


def test_jsonl_survives_lines_of_any_length_and_counts_each_that_is_too_long(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lines"
    long = b"[" + b"1" * 50_000 + b"]\n"
    path.write_bytes(b"[1]\n" + long + b"[2]\n" + b"[" + b"1" * 200 + b"]\n" + long * 2 + b"[3]\n")
    with path.open("rb") as file:
        source = JsonlSource(JsonlConfig(line_bytes_max=100), ("a",), descriptor=file.fileno())
        source.open()
        assert [row[0] for row in rows_of(source, 1)] == [1.0, 2.0, 3.0]
    assert source.faults == {"torn": 4, "malformed": 0}


def test_jsonl_loses_nothing_to_a_fast_writer(pipe: tuple[int, list[int]]) -> None:
    reading, ends = pipe
    writing = ends.pop()

    def write_all() -> None:
        with os.fdopen(writing, "wb") as file:
            file.writelines(b"[%d,0.5]\n" % number for number in range(50_000))

    writer = threading.Thread(target=write_all)
    writer.start()
    source = JsonlSource(JsonlConfig(), ("a", "b"), descriptor=reading)
    source.open()
    rows = rows_of(source, 2, block=64, most=10**6)
    writer.join()
    assert [row[0] for row in rows] == list(range(50_000))


def test_jsonl_without_standard_input_says_so() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with pytest.raises(SourceError, match="standard input is closed"):
        JsonlSource(JsonlConfig(), ("a",), descriptor=reading).open()


# --- simulated -----------------------------------------------------------------------------------


def simulated(channels: int = 2, **options: object) -> SimulatedSource:
    clock = FakeClock()
    config = msgspec.convert({"type": "simulated", **options}, SimulatedConfig)
    names = [f"c{number}" for number in range(channels)]
    return SimulatedSource(config, names, clock=clock, sleep=clock.sleep)


def test_simulated_readings_do_not_depend_on_how_many_are_taken_at_once() -> None:
    one, many = (simulated(rate_hz=None, readings=50, seed=3) for _ in range(2))
    one.open()
    many.open()
    rows = rows_of(one, 2, block=1)
    assert rows == rows_of(many, 2, block=7)
    assert rows != rows_of(simulated(rate_hz=None, readings=50, seed=4), 2)
    one.open()
    assert rows == rows_of(one, 2, block=50)


def test_simulated_sine_has_the_stated_frequency_amplitude_and_noise() -> None:
    quiet = simulated(4, rate_hz=8.0, frequency_hz=1.0, amplitude=2.0, noise=0, readings=8)
    quiet.open()
    turns = np.arange(8)[:, None] / 8 + np.arange(4) / 4
    np.testing.assert_allclose(rows_of(quiet, 4), 2 * np.sin(2 * np.pi * turns), atol=1e-6)
    noisy = simulated(1, rate_hz=None, amplitude=0, noise=0.5, readings=5000)
    noisy.open()
    assert 0.45 < np.std(rows_of(noisy, 1, block=512)) < 0.55


def test_simulated_keeps_its_rate() -> None:
    clock = FakeClock()
    source = SimulatedSource(
        SimulatedConfig(rate_hz=5.0, readings=11), ("a",), clock=clock, sleep=clock.sleep
    )
    source.open()
    start = clock.monotonic_ns()
    assert len(rows_of(source, 1)) == 11
    assert clock.monotonic_ns() - start == 2_000_000_000


# --- mqtt ----------------------------------------------------------------------------------------


def mqtt(broker: SimulatedBroker, **options: object) -> MqttSource:
    config = msgspec.convert({"type": "mqtt", "topic": "s/+", **options}, MqttConfig)
    return MqttSource(config, ("a", "b"), make_link=broker.link)


def test_mqtt_takes_one_or_many_readings_a_message() -> None:
    broker = SimulatedBroker()
    source = mqtt(broker)
    source.open()
    out = np.empty((8, 2), np.float32)
    assert source.read(out) == 0  # it has come up, and subscribes
    broker.publish("s/1", b"[1,2]")
    broker.publish("other", b"[0,0]")
    broker.publish("s/2", b'[[3,4],{"a":5},[6]]')
    broker.publish("s/2", b"[7,")
    assert source.read(out) == 3
    assert_rows(out[:3].tolist(), [[1, 2], [3, 4], [5, NAN]])
    assert source.faults == {"torn": 1, "malformed": 1, "overrun": 0, "stale": 0}


def test_mqtt_drops_the_oldest_beyond_its_queue_and_counts_them() -> None:
    broker = SimulatedBroker()
    source = mqtt(broker, queue_n_max=3)
    source.open()
    out = np.empty((2, 2), np.float32)
    source.read(out)
    for number in range(4):
        broker.publish("s/1", b"[%d,0]" % number)
    assert source.read(out) == 2
    assert out[:, 0].tolist() == [1.0, 2.0]
    broker.publish("s/1", b"[[10,0],[11,0],[12,0],[13,0],[14,0]]")
    assert [source.read(out), out[:, 0].tolist()] == [2, [12.0, 13.0]]
    assert source.faults["overrun"] == 1 + 3


def test_mqtt_leaves_out_retained_readings_of_unknown_age() -> None:
    broker = SimulatedBroker()
    broker.publish("s/1", b"[1,1]", retain=True)
    source = mqtt(broker)
    source.open()
    out = np.empty((2, 2), np.float32)
    source.read(out)
    broker.publish("s/1", b"[2,2]", retain=True)  # we are there: this one is fresh
    assert source.read(out) == 1
    assert out[0].tolist() == [2.0, 2.0]
    assert source.faults["stale"] == 1


def test_mqtt_goes_on_after_the_broker_was_gone() -> None:
    broker = SimulatedBroker()
    broker.running = False
    source = mqtt(broker)
    source.open()
    out = np.empty((4, 2), np.float32)
    assert source.read(out) == 0
    for number in range(3):
        broker.start()
        source.read(out)
        broker.publish("s/1", b"[%d,1]" % number)
        assert source.read(out) == 1
        assert out[0, 0] == number
        broker.stop()
        source.read(out)
    assert broker.subscriptions == ["s/+"] * 3


def test_mqtt_subscription_that_is_denied_fails_the_source() -> None:
    broker = SimulatedBroker()
    broker.deny("s/+")
    source = mqtt(broker)
    source.open()
    with pytest.raises(SourceError, match=r"denies the subscription to s/\+"):
        rows_of(source, 2)
    source.close()
    broker.allow("s/+")
    source.open()
    source.read(np.empty((1, 2), np.float32))
    broker.publish("s/1", b"[1,2]")
    assert source.read(np.empty((1, 2), np.float32)) == 1


def test_mqtt_reading_before_open_is_an_error() -> None:
    with pytest.raises(SourceError, match="open"):
        mqtt(SimulatedBroker()).read(np.empty((1, 2), np.float32))


@pytest.mark.parametrize("topic", ["", "a/#/b", "a+/b", "a/b#", "x" * 257])
def test_mqtt_topics_that_no_broker_takes_are_refused(topic: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "mqtt", "topic": topic}, MqttConfig)


def test_mqtt_against_a_real_broker_over_its_restart(mosquitto_broker: Broker) -> None:
    config = BrokerConfig(url=mosquitto_broker.url)
    source = make_source(
        MqttConfig(topic="lab/+"),
        channels=("a", "b"),
        base=Path(),
        broker=config,
        clock=SystemClock(),
    )
    sender = link_to(config)
    port = sender.port("sender")
    out = np.empty((4, 2), np.float32)

    def delivered() -> bool:
        port.publish(1, "lab/x", b"[1.5,null]")
        return source.read(out) > 0

    source.open()
    sender.start()
    try:
        assert isinstance(port.events.get(timeout=DEADLINE_S), Up)
        until(delivered)
        assert_rows(out[:1].tolist(), [[1.5, NAN]])
        mosquitto_broker.restart()
        until(lambda: port.connected and delivered())
    finally:
        source.close()
        sender.stop()


def test_mqtt_without_its_password_file_is_a_source_error(tmp_path: Path) -> None:
    broker = BrokerConfig(
        url="mqtt://127.0.0.1:1", username="me", password_file=str(tmp_path / "none")
    )
    source = MqttSource(MqttConfig(topic="t"), ("a",), make_link=lambda: link_to(broker))
    with pytest.raises(SourceError, match="none"):
        source.open()
    source.close()


# --- all of them ---------------------------------------------------------------------------------


def test_every_source_is_made_from_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("b,a\n2,1\n")
    kinds: list[tuple[SourceConfig, type]] = [
        (ReplayConfig(path="r.csv"), ReplaySource),
        (JsonlConfig(), JsonlSource),
        (MqttConfig(topic="t"), MqttSource),
        (SimulatedConfig(), SimulatedSource),
    ]
    for config, kind in kinds:
        source = make_source(
            config,
            channels=("a", "b"),
            base=tmp_path,
            broker=BrokerConfig(url="mqtt://127.0.0.1:1"),
            clock=FakeClock(),
        )
        assert isinstance(source, kind)
    replayed = make_source(
        ReplayConfig(path="r.csv"),
        channels=("a", "b"),
        base=tmp_path,
        broker=None,
        clock=FakeClock(),
    )
    replayed.open()
    assert_rows(rows_of(replayed, 2), [[1, 2]])


def test_an_mqtt_source_without_a_broker_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a broker"):
        make_source(
            MqttConfig(topic="t"), channels=("a",), base=tmp_path, broker=None, clock=FakeClock()
        )


def test_replay_conforms(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("a,b\n" + "1,\n" * 20)
    np.savez(tmp_path / "r.npz", signal=np.ones((3, 2)))
    for name, options in (("r.csv", {}), ("r.csv", {"rate_hz": 500.0}), ("r.npz", {"loop": True})):
        config = msgspec.convert({"type": "replay", "path": name, **options}, ReplayConfig)

        def make(config: ReplayConfig = config) -> Source:
            return ReplaySource(config, ("a", "b"), base=tmp_path, clock=SystemClock())

        check_source(make, 2)


def test_simulated_conforms() -> None:
    for config in (SimulatedConfig(rate_hz=200.0), SimulatedConfig(rate_hz=None, readings=3)):

        def make(config: SimulatedConfig = config) -> Source:
            return SimulatedSource(config, ("a", "b", "c"), clock=SystemClock())

        check_source(make, 3)


def test_jsonl_conforms(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'[1,2]\n{"a":1}\nnot json\n' * 5)
    opened = []

    def make() -> Source:
        opened.append(path.open("rb"))
        return JsonlSource(JsonlConfig(), ("a", "b"), descriptor=opened[-1].fileno())

    check_source(make, 2)
    for file in opened:
        file.close()


def test_mqtt_conforms() -> None:
    broker = SimulatedBroker()
    enough = threading.Event()

    def feed() -> None:
        while not enough.wait(0.01):
            broker.publish("s/1", b"[[1,2],[3,4]]")

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        check_source(lambda: mqtt(broker), 2)
    finally:
        enough.set()
        feeder.join()


class BadSource(SimulatedSource):
    """Breaks the contract in the way that ``mistake`` names."""

    def __init__(self, mistake: str) -> None:
        super().__init__(
            SimulatedConfig(rate_hz=None, readings=20), ("a", "b"), clock=SystemClock()
        )
        self.mistake = mistake
        self.reads = 0

    def read(self, out: np.ndarray) -> int:
        self.reads += 1
        if self.mistake == "writes beyond":
            out[:] = 1
            return min(1, len(out) - 1)
        if self.mistake == "leaves gaps":
            out[:, 0] = 1
            return len(out)
        count = super().read(out)
        return {"numpy count": np.int64(count), "too many": count + 1}.get(self.mistake, count)

    def close(self) -> None:
        if self.mistake == "close needs open" and self.reads == 0:
            raise AttributeError("handle")

    @property
    def faults(self) -> dict[str, int]:
        wrong = {
            "fault text": {"torn": "many"},
            "negative": {"torn": -1},
            "falling": {"torn": 100 - self.reads},
        }
        return wrong.get(self.mistake, {})


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("writes beyond", "outside"),
        ("leaves gaps", "as they were"),
        ("numpy count", "int64"),
        ("too many", "rows"),
        ("fault text", "not an int"),
        ("negative", "negative"),
        ("falling", "went down"),
    ],
)
def test_the_check_finds_what_a_source_does_wrong(mistake: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_source(lambda: BadSource(mistake), 2)


def test_the_check_passes_a_source_without_mistakes_and_not_one_that_cannot_close() -> None:
    check_source(lambda: BadSource("none"), 2)
    with pytest.raises(AttributeError):
        check_source(lambda: BadSource("close needs open"), 2)
