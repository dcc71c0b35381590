"""Several sensors as one: what belongs together by time, and what a silent one may not do."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from readings import NAN, assert_rows, rows_of, until

from edge_agent.clock import SystemClock
from edge_agent.config import load_config
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.sources import make_source
from edge_agent.sources.aligned import AlignedConfig, AlignedPart, AlignedSource, Track
from edge_agent.sources.jsonl import JsonlConfig, JsonlSource
from edge_agent.sources.simulated import SimulatedConfig, SimulatedSource
from edge_agent.testing.conformance import check_source

STAMPS = st.integers(0, 400).map(lambda number: number / 8)
LINES = JsonlConfig(time_key="t")


@given(
    known=st.lists(STAMPS, max_size=30),
    asked=STAMPS,
    tolerance_s=st.sampled_from([0.125, 1.0, 5.0]),
    nearest=st.booleans(),
)
def test_what_is_matched_is_within_the_tolerance_and_none_is_better(
    known, asked, tolerance_s, nearest
) -> None:
    track = Track(100, tolerance_s, nearest=nearest)
    for stamp in known:
        track.add(stamp, (stamp,))
    usable = [
        stamp
        for stamp in known
        if abs(stamp - asked) <= tolerance_s and (nearest or stamp <= asked)
    ]
    found = track.match(asked)
    if not usable:
        assert found is None
        return
    assert found is not None
    assert found[0] in usable
    assert abs(found[0] - asked) == min(abs(stamp - asked) for stamp in usable)


@given(came=st.lists(STAMPS, min_size=1, max_size=30), n_max=st.integers(1, 5))
def test_a_track_knows_the_last_that_came_even_when_the_clock_jumped_back(came, n_max) -> None:
    track = Track(n_max, 0.01, nearest=True)
    for stamp in came:
        track.add(stamp, (stamp,))
    kept = set(came[-n_max:])
    assert {stamp for stamp in came if track.match(stamp) is not None} == kept
    assert track.settled(came[-1])


class Pipes:
    """Two sensors that print JSON lines with their time, and the source that aligns them."""

    def __init__(self, **config: object) -> None:
        self.ends = [os.pipe(), os.pipe()]
        parts = (
            AlignedPart(channels=("b", "a"), source=LINES),
            AlignedPart(channels=("c",), source=LINES),
        )
        self.config = AlignedConfig(parts=parts, **config)
        self.writing = {0, 1}

    def make(self) -> AlignedSource:
        parts = [
            JsonlSource(LINES, part.channels, descriptor=reading)
            for part, (reading, _) in zip(self.config.parts, self.ends, strict=True)
        ]
        return AlignedSource(self.config, ("a", "b", "c"), parts=parts, clock=SystemClock())

    def say(self, which: int, *readings: dict[str, float]) -> None:
        text = "".join(json.dumps(reading) + "\n" for reading in readings)
        os.write(self.ends[which][1], text.encode())

    def end(self, which: int) -> None:
        os.close(self.ends[which][1])
        self.writing.remove(which)


@pytest.fixture
def pipes() -> Iterator[list[Pipes]]:
    made: list[Pipes] = []
    yield made
    for pipe in made:
        for which in pipe.writing:
            os.close(pipe.ends[which][1])
        for reading, _ in pipe.ends:
            os.close(reading)


def test_readings_are_completed_with_the_nearest_in_time(pipes) -> None:
    both = Pipes(tolerance_ms=1000, match="nearest")
    pipes.append(both)
    source = both.make()
    source.open()
    both.say(1, {"t": 10.2, "c": 1}, {"t": 11.9, "c": 2}, {"t": 30, "c": 3})
    both.say(0, *({"t": t, "a": t, "b": -t} for t in (10, 11, 12, 20)))
    got = rows_of(source, 3, most=4)
    assert_rows(got, [[10, -10, 1], [11, -11, 1], [12, -12, 2], [20, -20, NAN]])
    assert source.faults == {"torn": 0, "malformed": 0, "unmatched": 1}
    both.end(0)
    with pytest.raises(EOFError):
        until(lambda: source.read(np.empty((1, 3), np.float32)) > 0)
    source.close()


@pytest.mark.parametrize("match", ["nearest", "last"])
def test_a_silent_sensor_delays_nobody(pipes, match) -> None:
    both = Pipes(tolerance_ms=20, match=match)
    pipes.append(both)
    source = both.make()
    source.open()
    both.say(0, {"t": 1, "a": 1, "b": 2}, {"t": 2, "a": 3, "b": 4})
    assert_rows(rows_of(source, 3, most=2), [[1, 2, NAN], [3, 4, NAN]])
    both.end(1)  # and one that has ended is only silent
    both.say(0, {"t": 3, "a": 5, "b": 6})
    assert_rows(rows_of(source, 3, most=1), [[5, 6, NAN]])
    assert source.faults["unmatched"] == 3
    source.close()


def test_the_last_reading_is_never_a_later_one(pipes) -> None:
    both = Pipes(tolerance_ms=5000, match="last")
    pipes.append(both)
    source = both.make()
    source.open()
    both.say(1, {"t": 10, "c": 1}, {"t": 12, "c": 2})
    out, rows = np.empty((1, 3), np.float32), []

    def matched() -> bool:  # until the second line has been read on its thread
        both.say(0, {"t": 12, "a": 0, "b": 0})
        rows.extend(out[: source.read(out)].tolist())
        return bool(rows) and rows[-1][2] == 2

    until(matched)
    both.say(0, {"t": 11.9, "a": 0, "b": 0}, {"t": 9, "a": 7, "b": 0})
    until(lambda: source.read(out) == 1 and out[0, 2] == 1)
    until(lambda: source.read(out) == 1 and math.isnan(out[0, 2]))
    source.close()


def test_the_order_of_the_first_is_kept_and_none_is_lost(pipes) -> None:
    both = Pipes(tolerance_ms=1, match="last", queue_n_max=16)  # so its thread must wait for room
    pipes.append(both)
    source = both.make()
    source.open()

    def talk() -> None:
        for number in range(500):
            both.say(0, {"t": -number, "a": number, "b": 0})
        both.end(0)

    talker = threading.Thread(target=talk)
    talker.start()
    got = rows_of(source, 3, block=5)
    talker.join()
    source.close()
    assert [row[0] for row in got] == list(range(500))


def test_a_sensor_that_fails_fails_the_whole(pipes) -> None:
    both = Pipes()
    pipes.append(both)

    class Broken:
        faults: dict[str, int] = {}  # noqa: RUF012 - never written

        def open(self) -> None:
            """It is there."""

        def read(self, out) -> int:
            raise SourceError("the cable is loose")

        def close(self) -> None:
            """It is gone."""

    steady = SimulatedSource(SimulatedConfig(), ("a", "b"), clock=SystemClock())
    source = AlignedSource(
        both.config, ("a", "b", "c"), parts=(steady, Broken()), clock=SystemClock()
    )
    source.open()
    with pytest.raises(SourceError, match="the cable is loose"):
        until(lambda: source.read(np.empty((1, 3), np.float32)) < 0)
    source.close()


@pytest.mark.parametrize("match", ["nearest", "last"])
def test_aligned_is_a_source(match) -> None:
    made = SimulatedConfig(rate_hz=200)
    parts = (
        AlignedPart(channels=("a", "b"), source=made),
        AlignedPart(channels=("c",), source=made),
    )
    config = AlignedConfig(parts=parts, match=match)

    def make() -> AlignedSource:
        inner = [SimulatedSource(made, part.channels, clock=SystemClock()) for part in parts]
        return AlignedSource(config, ("a", "b", "c"), parts=inner, clock=SystemClock())

    check_source(make, channels=3)
    source = make()  # sensors without a time are stamped when they come
    source.open()
    out = np.empty((1, 3), np.float32)
    until(lambda: source.read(out) == 1 and not np.isnan(out).any())
    source.close()


AGENT = """
device: d
data_dir: data
pipelines:
  - name: p
    model: m
    channels: [a, b]
    source:
      type: aligned
      parts:
        - {channels: [a], source: {type: jsonl}}
        - {channels: [%s], source: {type: %s}}
"""


@pytest.mark.parametrize(
    ("channel", "source", "fault"),
    [
        ("a", "simulated", "each once"),
        ("c", "simulated", "each once"),
        ("b", "jsonl", r"12:\d+: .*parts\[1\].source: only one source can read stdin"),
        ("b", "mqtt, topic: t", "needs a broker"),
        ("b", "follow, path: f, sensor_key: id", "cannot be aligned"),
        ("b", "aligned, parts: []", "aligned"),
    ],
)
def test_parts_that_do_not_go_together(tmp_path, channel, source, fault) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(AGENT % (channel, source))
    with pytest.raises(ConfigError, match=fault):
        load_config(path)


def test_a_file_that_aligns_two_sources_is_an_agent(tmp_path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(AGENT % ("b", "simulated"))
    pipeline = load_config(path).pipelines[0]
    source = make_source(
        pipeline.source,
        channels=pipeline.channels,
        base=tmp_path,
        broker=None,
        clock=SystemClock(),
    )
    assert isinstance(source, AlignedSource)
    source.close()
