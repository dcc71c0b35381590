"""Recorded and made-up readings, and the pace at which they come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from readings import NAN, assert_rows, rows_of

from edge_agent.contract.errors import SourceError
from edge_agent.sources.base import Source
from edge_agent.sources.pace import Pace
from edge_agent.sources.replay import ReplayConfig, ReplaySource
from edge_agent.sources.simulated import SimulatedConfig, SimulatedSource
from edge_agent.testing.clock import FakeClock

RECORDINGS = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


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
