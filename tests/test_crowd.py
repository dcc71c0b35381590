"""A crowd decides as one pipeline for each sensor would, whatever comes in whatever order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from test_infer import sums

from edge_agent.arrays import F32
from edge_agent.clock import Clock, SystemClock
from edge_agent.config import PipelineConfig, SensorsConfig, load_config
from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.contract.manifest import Channel, DecideSpec
from edge_agent.contract.messages import Decision, Record, decode, encode
from edge_agent.crowd import CrowdPipeline
from edge_agent.infer import Model
from edge_agent.pipeline import Pipeline
from edge_agent.rings import Rings
from edge_agent.sources.jsonl import JsonlConfig, JsonlSource
from edge_agent.sources.simulated import SimulatedConfig
from edge_agent.testing.clock import FakeClock
from edge_agent.window import Window

Readings = Sequence[tuple[str, float]]  # the sensor, and the value of both channels
Step = Readings | Exception | Callable[[], object]


class Sensors:
    """A source that plays blocks of named readings, errors to raise and calls to make."""

    faults: dict[str, int] = {}  # noqa: RUF012 - never written

    def __init__(self, *steps: Step) -> None:
        self.steps = deque(steps)
        self.sensors: list[str] = []

    def open(self) -> None:
        pass

    def read(self, out: F32) -> int:
        self.sensors = []
        if not self.steps:
            raise EOFError
        step = self.steps.popleft()
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step()
            return 0
        self.sensors = [name for name, _ in step]
        out[: len(step)] = np.array([[value, value] for _, value in step], np.float32)
        return len(step)

    def close(self) -> None:
        pass


class Hall:
    """A crowd with what it gives away collected."""

    def __init__(
        self, *steps: Step, model: Model, clock: Clock | None = None, **sensors: object
    ) -> None:
        self.offered: list[Decision] = []
        self.fired: list[Decision] = []
        config = PipelineConfig(
            name="hall",
            model="motion",
            channels=("a", "b"),
            source=SimulatedConfig(),
            sensors=SensorsConfig(**sensors),
        )
        self.pipeline = CrowdPipeline(
            config,
            Sensors(*steps),
            offer=self._offer,
            dispatch=self.fired.append,
            clock=clock or FakeClock(),
            model=model,
        )

    def _offer(self, record: Record) -> None:
        assert isinstance(record, Decision)
        self.offered.append(record)

    def run(self) -> Hall:
        self.pipeline.run(threading.Event())
        return self

    def told(self, sensor: str) -> list[tuple[object, ...]]:
        return [told(decision) for decision in self.offered if decision.sensor == sensor]


def told(decision: Decision) -> tuple[object, ...]:
    return decision.label, pytest.approx(decision.score, abs=1e-6), decision.state, decision.fired


def alone(values: Sequence[float], model: Model) -> list[tuple[object, ...]]:
    """What a pipeline of its own says to the readings of one sensor."""
    offered: list[Record] = []

    class One(Sensors):
        def read(self, out: F32) -> int:
            return min(super().read(out), 1)

    pipeline = Pipeline(
        PipelineConfig(name="one", model="motion", channels=("a", "b"), source=SimulatedConfig()),
        One(*([("", value)] for value in values)),
        offer=offered.append,
        dispatch=id,
        clock=FakeClock(),
        model=model,
    )
    pipeline.run(threading.Event())
    return [told(decision) for decision in offered if isinstance(decision, Decision)]


def motion(**bundle: object) -> Model:
    return Model.load(parse_bundle(make_bundle(**bundle)))  # type: ignore[arg-type]


# --- the same as one pipeline each ---------------------------------------------------------------

VALUES = st.sampled_from([0.0, 0.2, 0.8, 1.0, np.nan, 9.0])
BLOCKS = st.lists(
    st.lists(st.tuples(st.sampled_from("xyz"), VALUES), min_size=1, max_size=12), max_size=6
)
POLICIES = st.tuples(
    st.sampled_from(["skip", "hold"]), st.sampled_from(["clip", "missing", "keep"])
)


@settings(deadline=None, max_examples=60)
@given(BLOCKS, st.integers(1, 3), st.integers(1, 5), POLICIES)
def test_every_sensor_is_decided_as_if_it_were_alone(
    blocks: list[list[tuple[str, float]]], hop: int, batch: int, policies: tuple[str, str]
) -> None:
    on_missing, on_range = policies
    channels = [
        Channel(name=name, minimum=-1, maximum=2, on_missing=on_missing, on_range=on_range)  # type: ignore[arg-type]
        for name in ("a", "b")
    ]
    bundle = {"length": 2, "hop": hop, "channels": channels, "decide": DecideSpec(debounce=2)}
    hall = Hall(*blocks, model=motion(**bundle), batch_n_max=batch).run()
    for sensor in "xyz":
        values = [value for block in blocks for name, value in block if name == sensor]
        assert hall.told(sensor) == alone(values, motion(**bundle))
    counters = hall.pipeline.meters.counters
    assert counters.readings == sum(map(len, blocks))
    assert counters.windows == len(hall.offered)


def test_a_model_with_states_keeps_one_run_and_one_memory_for_each_sensor() -> None:
    means = [("x", 1.0), ("y", 3.0), ("x", 2.0), ("y", 2.0), ("x", 3.0)]
    hall = Hall([mean for mean in means for _ in range(4)], model=sums(hop=4)).run()
    assert [d.score for d in hall.offered if d.sensor == "x"] == [1.0, 6.0, 18.0]
    assert [d.score for d in hall.offered if d.sensor == "y"] == [9.0, 10.0]


# --- bounds, swaps, outages ----------------------------------------------------------------------


def test_sensors_beyond_the_bound_are_counted_and_leave_the_others_alone() -> None:
    block = [("x", 1.0), ("y", 1.0), ("z", 1.0), ("x", 1.0)]
    hall = Hall(block, model=motion(length=1), sensors_n_max=2).run()
    assert [decision.sensor for decision in hall.offered] == ["x", "y", "x"]
    assert [decision.reading for decision in hall.offered] == [1, 2, 4]
    assert hall.pipeline.status().counts["crowded"] == 1


def test_no_patience_means_batches_of_one_round() -> None:
    block = [("x", 1.0), ("y", 1.0), ("x", 1.0)]
    hall = Hall(block, model=motion(length=1), batch_wait_ms=0).run()
    assert [decision.sensor for decision in hall.offered] == ["x", "y", "x"]


def test_a_new_model_takes_the_readings_and_states_of_all_sensors() -> None:
    new = motion(version="2.0.0", length=3)
    before, after = [("x", 1.0), ("y", 0.0)] * 2, [("x", 1.0), ("y", 0.0)]
    hall = Hall(before, lambda: hall.pipeline.swap(new), after, model=motion(length=2))
    hall.run()
    assert [(d.sensor, d.model, d.state) for d in hall.offered[-2:]] == [
        ("x", "2.0.0", "move"),
        ("y", "2.0.0", "rest"),
    ]
    assert [d.fired for d in hall.offered] == [True, True, False, False]
    assert hall.pipeline.meters.counters.swaps == 1


def test_no_window_spans_an_outage() -> None:
    gone = SourceError("unplugged")
    steps = [("x", 1.0)] * 3, gone, [("x", 1.0)] * 3
    hall = Hall(*steps, model=motion(length=2), clock=SystemClock()).run()
    assert len(hall.offered) == 4


def test_one_bad_window_of_a_batch_spoils_no_other() -> None:
    block = [("x", 1.0), ("y", 3e38), ("z", 0.0)]  # a softmax of such numbers is none
    hall = Hall(block, model=motion(length=1)).run()
    assert [(d.sensor, d.label) for d in hall.offered] == [("x", "move"), ("z", "rest")]
    assert hall.pipeline.meters.counters.infer_errors == 1


# --- rings ---------------------------------------------------------------------------------------


@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.lists(st.lists(st.integers(0, 2), max_size=3, unique=True), max_size=30),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 30)),
)
def test_rings_are_windows(
    length: int, hop: int, rounds: list[list[int]], change: tuple[int, int, int]
) -> None:
    rings, windows = Rings(3, length, hop, 2), [Window(length, hop, 2) for _ in range(3)]
    for number, sensors in enumerate(rounds):
        if number == change[2]:
            rings = rings.resized(*change[:2])
            windows = [window.resized(*change[:2]) for window in windows]
        rows = np.array([[number, sensor] for sensor in sensors], np.float32).reshape(-1, 2)
        due = rings.push(np.array(sensors, np.intp), rows)
        for sensor, row, is_due in zip(sensors, rows, due, strict=True):
            assert windows[sensor].push(row) == is_due
            if is_due:
                out = np.empty((1, rings.length, 2), np.float32)
                rings.copy(np.array([sensor]), out)
                np.testing.assert_array_equal(out[0], windows[sensor].view)


# --- the wire and the source ---------------------------------------------------------------------


def test_a_decision_says_its_sensor_only_where_there_are_many() -> None:
    one = Decision(t=1.0, pipeline="p", model="1.0.0", reading=1, score=0.5)
    many = Decision(t=1.0, pipeline="p", sensor="x", model="1.0.0", reading=1, score=0.5)
    assert b"sensor" not in encode(one)
    assert decode(encode(many), Decision) == many


def test_actions_that_want_every_decision_get_them() -> None:
    dispatched: list[Decision] = []
    config = PipelineConfig(
        name="hall",
        model="motion",
        channels=("a", "b"),
        source=SimulatedConfig(),
        sensors=SensorsConfig(),
    )
    CrowdPipeline(
        config,
        Sensors([("x", 0.0), ("y", 0.0)]),
        offer=id,
        dispatch=dispatched.append,
        clock=FakeClock(),
        model=motion(length=1),
        dispatch_all=True,
    ).run(threading.Event())
    assert [decision.sensor for decision in dispatched] == ["x", "y"]


def test_lines_that_name_their_sensor() -> None:
    reading, writing = os.pipe()
    os.write(
        writing,
        b'{"id": "x", "a": 1, "b": 2}\n{"a": 1, "b": 2}\n{"id": 7, "a": 1, "b": 2}\n'
        b'{"b": NaN, "a": 3, "id": "y"}\n{"id": "x", "a": tr',
    )
    os.close(writing)
    source = JsonlSource(JsonlConfig(sensor_key="id"), ("a", "b"), descriptor=reading)
    source.open()
    out = np.empty((8, 2), np.float32)
    assert source.read(out[:1]) == 1
    assert source.sensors == ["x"]
    assert source.read(out) == 1
    assert source.sensors == ["y"]
    np.testing.assert_array_equal(out[0], [3, np.nan])
    with pytest.raises(EOFError):
        [source.read(out) for _ in range(3)]
    assert source.faults == {"torn": 1, "malformed": 2}
    os.close(reading)


@pytest.mark.parametrize(
    "extra",
    [
        "source: {type: jsonl, sensor_key: id}",
        "source: {type: http, port: 0, sensor_key: id}",
        "source: {type: mqtt, topic: a/+, sensor_topic: true}",
        "sensors: {}",
    ],
)
def test_sensors_and_a_source_that_names_them_go_together(tmp_path: Path, extra: str) -> None:
    source = "" if extra.startswith("source") else "\n    source: {type: jsonl}"
    path = tmp_path / "agent.yaml"
    path.write_text(
        "device: d\ndata_dir: data\npipelines:\n  - name: p\n    model: m\n    channels: [a]\n"
        f"    {extra}{source}\n"
    )
    with pytest.raises(ConfigError, match="go together"):
        load_config(path)
