"""The main loop with real models over scripted sources: every reading counts, whatever happens."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from bundles import make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.arrays import F32
from edge_agent.clock import Clock, SystemClock
from edge_agent.config import DecideConfig, PipelineConfig
from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.errors import BundleError, SourceError
from edge_agent.contract.manifest import Channel, DecideSpec
from edge_agent.contract.messages import Decision, RawWindow, Record, decode, encode
from edge_agent.infer import Model
from edge_agent.pipeline import Pipeline
from edge_agent.sources.simulated import SimulatedConfig
from edge_agent.testing.clock import FakeClock

Step = F32 | Exception | Callable[[], None]


class Script:
    """A source that plays its steps: a block of readings, an error to raise, a call to make.

    When they are over the stream has ended; after an error it can be opened again.
    """

    def __init__(self, *steps: Step) -> None:
        self.steps = deque(steps)
        self.opened = 0
        self.closed = 0
        self.faults = {"torn": 2}

    def open(self) -> None:
        self.opened += 1
        if self.steps and isinstance(self.steps[0], SourceError):
            raise self.steps.popleft()  # type: ignore[misc]

    def read(self, out: F32) -> int:
        if not self.steps:
            raise EOFError
        step = self.steps.popleft()
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step()
            return 0
        out[: len(step)] = step
        return len(step)

    def close(self) -> None:
        self.closed += 1


class Idle:
    """A source without readings that lets time pass, as a silent sensor does."""

    faults: dict[str, int] = {}  # noqa: RUF012 - never written

    def __init__(self) -> None:
        self.opened = threading.Event()

    def open(self) -> None:
        self.opened.set()

    def read(self, out: F32) -> int:
        time.sleep(0.005)
        return 0

    def close(self) -> None:
        pass


class Bench:
    """A pipeline with everything that it gives away collected."""

    def __init__(
        self,
        source: object,
        *,
        model: Model | None = None,
        clock: Clock | None = None,
        **config: object,
    ) -> None:
        self.offered: list[Decision] = []
        self.raw: list[RawWindow] = []
        self.dispatched: list[Decision] = []
        self.on_offer: Callable[[Decision], object] = id
        self.stop = threading.Event()
        settings = {"name": "arm", "model": "motion", "channels": ("a", "b")} | config
        self.pipeline = Pipeline(
            PipelineConfig(source=SimulatedConfig(), **settings),
            source,
            offer=self._offer,
            dispatch=self.dispatched.append,
            clock=clock or FakeClock(),
            model=model,
        )

    def _offer(self, record: Record) -> None:
        if isinstance(record, RawWindow):
            self.raw.append(record)
            return
        assert isinstance(record, Decision)
        self.offered.append(record)
        self.on_offer(record)

    def run(self) -> Bench:
        self.pipeline.run(self.stop)
        return self

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.pipeline.run, args=(self.stop,))
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            thread.join(10)
            assert not thread.is_alive()

    @property
    def counts(self) -> dict[str, int]:
        return self.pipeline.status().counts

    @property
    def readings(self) -> list[int]:
        return [decision.reading for decision in self.offered]


def model(**kwargs) -> Model:
    return Model.load(parse_bundle(make_bundle(**kwargs)))


def block(*values: float) -> F32:
    """Readings of two equal values each."""
    return np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


# --- deciding -------------------------------------------------------------------------------------


def test_every_window_becomes_a_decision_and_a_change_is_dispatched():
    clock = FakeClock(wall=1000.0)
    bench = Bench(Script(block(0, 0, 0), block(1, 1)), model=model(length=2), clock=clock).run()
    assert bench.readings == [2, 3, 4, 5]
    assert [d.label for d in bench.offered] == ["rest", "rest", "rest", "move"]
    assert [d.state for d in bench.offered] == ["rest", "rest", "rest", "move"]
    assert [d.fired for d in bench.offered] == [True, False, False, True]
    assert bench.offered[2].score == pytest.approx(0.5, abs=1e-5)
    assert bench.dispatched == [bench.offered[0], bench.offered[3]]
    first = bench.offered[0]
    assert (first.t, first.pipeline, first.model) == (1000.0, "arm", "1.0.0")


def test_all_values_of_a_regression_with_several_targets():
    bench = Bench(Script(block(2)), model=model(task="regression", length=1, targets=3)).run()
    (decision,) = bench.offered
    assert (decision.label, decision.score, decision.values) == ("", 2.0, (2.0, 3.0, 4.0))
    assert decision.state == "active"


def test_recording_only_what_fired():
    bench = Bench(Script(block(0, 0, 1, 1)), model=model(length=1), record="fired").run()
    assert bench.readings == [1, 3]
    assert bench.counts["recorded"] == bench.counts["fired"] == 2
    assert bench.counts["windows"] == 4
    assert bench.pipeline.status().last_label == "move"


@pytest.mark.parametrize(
    ("raw", "readings"), [("none", []), ("fired", [2, 4]), ("window", [2, 3, 4])]
)
def test_the_readings_behind_a_decision_are_recorded_when_asked_for(
    raw: str, readings: list[int]
) -> None:
    source = Script(block(0, 0, 1, 1))
    bench = Bench(source, model=model(length=2), record_raw=raw).run()
    assert [window.reading for window in bench.raw] == readings
    for window in bench.raw:
        assert window.shape == (2, 2)
        expected = block(0, 0, 1, 1)[window.reading - 2 : window.reading]
        assert window.data == expected.astype("<f4").tobytes()
        assert decode(encode(window), RawWindow) == window


def test_the_pipeline_s_settings_override_the_bundle_s():
    fires = DecideConfig(debounce=2, fire_on=("move",))
    bench = Bench(Script(block(0, 0, 1, 1)), model=model(length=1), decide=fires).run()
    assert [d.fired for d in bench.offered] == [False, False, False, True]


def test_the_cooldown_goes_by_the_injected_clock():
    clock = FakeClock()
    script = Script(block(0), block(1), lambda: clock.advance(5), block(0))
    decide = DecideSpec(cooldown_s=5)
    bench = Bench(script, model=model(length=1, decide=decide), clock=clock).run()
    assert [d.fired for d in bench.offered] == [True, False, True]


def test_the_clock_goes_on_within_a_block():
    clock = FakeClock()
    bench = Bench(
        Script(block(0, 1, 0, 1)),
        model=model(length=1, decide=DecideSpec(cooldown_s=2)),
        clock=clock,
    )
    bench.on_offer = lambda _: clock.advance(1)
    bench.run()
    assert [d.fired for d in bench.offered] == [True, False, True, False]
    assert bench.pipeline.beat_ns == clock.monotonic_ns() - 1_000_000_000  # the last window


def test_skipped_readings_are_counted_so_that_a_gap_shows():
    channels = (Channel(name="a", on_missing="skip"), Channel(name="b"))
    script = Script(block(0, np.nan, 0, 0))
    bench = Bench(script, model=model(length=2, channels=channels)).run()
    assert bench.readings == [3, 4]
    assert bench.counts["readings"] == 4
    assert bench.counts["skipped"] == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=12))
def test_decisions_do_not_depend_on_how_the_source_cuts_its_readings(sizes: list[int]):
    readings = np.random.default_rng(0).normal(0.5, 1, (sum(sizes), 2)).astype(np.float32)
    cuts = np.split(readings, np.cumsum(sizes)[:-1])
    loaded = model(length=5, hop=3)
    whole = Bench(Script(*readings[:, None]), model=loaded).run()
    cut = Bench(Script(*cuts), model=loaded).run()
    assert cut.offered == whole.offered
    assert len(cut.offered) == max(0, (len(readings) - 2) // 3)


def test_whether_the_clock_is_synchronised_is_looked_up_once_a_second():
    clock = FakeClock()
    steps = [
        lambda: clock.set_synced(False),
        block(0),
        lambda: clock.advance(1.0),
        block(0),
    ]
    bench = Bench(Script(*steps), model=model(length=1), clock=clock).run()
    assert [d.synced for d in bench.offered] == [True, False]


# --- faults ---------------------------------------------------------------------------------------


def test_a_window_on_which_the_model_fails_is_counted_and_the_next_is_decided(caplog):
    clock = FakeClock()
    huge = block(3e38)
    steps = [block(0), huge, huge, lambda: clock.advance(61), huge, block(1)]
    bench = Bench(Script(*steps), model=model(length=1), clock=clock)
    with caplog.at_level(logging.ERROR, "edge_agent.pipeline"):
        bench.run()
    assert bench.readings == [1, 5]
    assert bench.counts["infer_errors"] == 3
    assert bench.counts["windows"] == 5
    assert len(caplog.records) == 2  # once a minute


def test_a_failed_source_is_opened_again_and_no_window_spans_the_outage():
    clock = FakeClock()
    script = Script(
        block(0, 0), SourceError("pulled out"), SourceError("not there"), block(np.nan, 1, 1)
    )
    bench = Bench(script, model=model(length=2), clock=clock)
    status = bench.pipeline.status
    with bench.running():
        until(lambda: status().fault == "pulled out")
        assert status().state == "failed"
        assert script.closed == 1  # while it waits nothing is held
        clock.advance(0.99)
        until(lambda: bench.pipeline.beat_ns == clock.monotonic_ns())
        assert script.opened == 1
        clock.advance(0.01)
        until(lambda: status().fault == "not there")
        clock.advance(1.99)  # the second wait is twice as long
        until(lambda: bench.pipeline.beat_ns == clock.monotonic_ns())
        assert script.opened == 2
        clock.advance(0.01)
        until(lambda: status().state == "ended")
    assert status().fault == ""
    assert script.closed == script.opened == 3
    assert bench.counts["source_errors"] == 2
    # Not 3, held from before the outage; nor 4, a window half before it.
    assert bench.readings == [2, 5]
    assert bench.counts["skipped"] == 1


def test_a_stop_ends_the_wait_for_a_failed_source():
    bench = Bench(Script(SourceError("not there")), model=model())
    with bench.running():
        until(lambda: bench.pipeline.status().state == "failed")
    assert bench.pipeline.status().fault == "not there"


def test_an_error_that_nobody_foresaw_ends_the_pipeline_and_shows():
    script = Script(block(0), ZeroDivisionError("a bug"))
    bench = Bench(script, model=model(length=1))
    with pytest.raises(ZeroDivisionError):
        bench.run()
    assert bench.pipeline.status().state == "failed"
    assert "a bug" in bench.pipeline.status().fault
    assert script.closed == 1


def test_a_stop_waits_for_the_readings_that_the_source_has_given():
    bench = Bench(Script(block(0, 1, 0, 1, 0)), model=model(length=1))
    bench.on_offer = lambda decision: bench.stop.set() if decision.reading == 3 else None
    bench.run()
    assert bench.readings == [1, 2, 3, 4, 5]


# --- models ---------------------------------------------------------------------------------------


def test_without_a_model_it_waits_and_leaves_the_source_closed():
    source = Idle()
    clock = SystemClock()
    bench = Bench(source, clock=clock)
    with bench.running():
        beat_ns = bench.pipeline.beat_ns
        until(lambda: bench.pipeline.beat_ns > beat_ns)
        assert bench.pipeline.status().state == "waiting"
        assert not source.opened.is_set()
        assert bench.pipeline.swap(model(version="2.0.0")).wait(10)
        assert source.opened.wait(10)
        until(lambda: bench.pipeline.status().state == "running")
        assert bench.pipeline.status().version == "2.0.0"
        beat_ns = bench.pipeline.beat_ns  # it goes on without any reading
        until(lambda: bench.pipeline.beat_ns > beat_ns)
    assert bench.counts["swaps"] == 0


def test_a_swap_misses_no_reading_and_keeps_the_window():
    events = []

    def swap() -> None:
        events.append(bench.pipeline.swap(model(version="2.0.0", length=3, hop=2, bias=1.0)))

    script = Script(block(0, 0, 0, 0), swap, block(0, 0, 0))
    bench = Bench(script, model=model(length=3, hop=2))
    bench.run()
    assert events[0].is_set()
    assert bench.readings == [3, 5, 7]  # as if nothing had happened
    assert [d.model for d in bench.offered] == ["1.0.0", "2.0.0", "2.0.0"]
    assert [d.label for d in bench.offered] == ["rest", "move", "move"]
    assert [d.fired for d in bench.offered] == [True, True, False]
    assert bench.counts["swaps"] == 1


def test_a_swap_to_another_length_goes_on_from_the_readings_that_there_are():
    def swap() -> None:
        bench.pipeline.swap(model(version="2.0.0", length=5))

    script = Script(block(0, 0, 0), swap, block(5, 5, 5))
    bench = Bench(script, model=model(length=3))
    bench.run()
    assert [(d.reading, d.model) for d in bench.offered] == [
        (3, "1.0.0"),
        (5, "2.0.0"),
        (6, "2.0.0"),
    ]


def test_a_value_is_held_across_a_swap():
    def swap() -> None:
        bench.pipeline.swap(model(version="2.0.0", length=1))

    bench = Bench(Script(block(1), swap, block(np.nan)), model=model(length=1))
    bench.run()
    assert [d.label for d in bench.offered] == ["move", "move"]


def test_the_state_survives_a_swap_without_firing():
    def swap() -> None:
        bench.pipeline.swap(model(version="2.0.0", length=1))

    bench = Bench(Script(block(1), swap, block(1)), model=model(length=1))
    bench.run()
    assert [(d.state, d.fired) for d in bench.offered] == [("move", True), ("move", False)]


def test_the_old_model_is_released():
    old = model(length=1)
    gone = weakref.ref(old)
    checks = []

    def swap() -> None:
        bench.pipeline.swap(model(version="2.0.0", length=1))

    def check() -> None:
        gc.collect()
        checks.append(gone() is None)

    bench = Bench(Script(block(0), swap, block(0), check), model=old)
    del old
    bench.run()
    assert checks == [True]


def test_a_reading_that_comes_after_the_swap_is_decided_by_the_new_model():
    """The source is waiting for a reading when the model is handed over."""

    class Waiting(Script):
        def read(self, out: F32) -> int:
            if len(self.steps) == 1:
                bench.pipeline.swap(model(version="2.0.0", length=1))
            return super().read(out)

    bench = Bench(Waiting(block(0), block(0)), model=model(length=1))
    bench.run()
    assert [d.model for d in bench.offered] == ["1.0.0", "2.0.0"]


def test_swaps_from_another_thread_under_load_miss_no_reading():
    class Endless(Script):
        def read(self, out: F32) -> int:
            out[:3] = 0.25
            return 3

    bench = Bench(Endless(), model=model(length=2))
    versions = [f"2.0.{n}" for n in range(10)]
    with bench.running():
        for version in versions:
            assert bench.pipeline.swap(model(length=2, version=version)).wait(10)
            so_far = len(bench.offered)
            until(lambda so_far=so_far: len(bench.offered) > so_far)
    assert bench.readings == list(range(2, len(bench.readings) + 2))
    assert list(dict.fromkeys(d.model for d in bench.offered)) == ["1.0.0", *versions]


def test_a_swap_after_the_end_is_taken_at_once():
    bench = Bench(Script(), model=model()).run()
    assert bench.pipeline.status().state == "ended"
    assert bench.pipeline.swap(model(version="2.0.0")).is_set()
    assert bench.pipeline.status().version == "2.0.0"


def test_a_swap_that_waits_when_the_source_ends_is_taken():
    events = []

    class Ending(Script):
        def read(self, out: F32) -> int:
            events.append(bench.pipeline.swap(model(version="2.0.0")))
            raise EOFError

    bench = Bench(Ending(), model=model())
    bench.run()
    assert events[0].is_set()


def test_why_a_bundle_does_not_fit():
    bench = Bench(Script(), decide=DecideConfig(fire_on=("move",)))
    misfit = bench.pipeline.misfit
    assert misfit(model().manifest) is None
    assert "not other" in misfit(model(name="other").manifest)
    fault = misfit(model(channels=("b", "a")).manifest)
    assert "b, a" in fault
    assert "a, b" in fault
    assert "fire_on" in misfit(model(labels=("sit", "stand")).manifest)


def test_a_model_that_does_not_fit_is_refused_and_the_old_one_stays():
    with pytest.raises(BundleError, match="not other"):
        Bench(Script(), model=model(name="other"))
    bench = Bench(Script(), model=model())
    with pytest.raises(BundleError, match="channels"):
        bench.pipeline.swap(model(version="2.0.0", channels=("a", "b", "c")))
    bench.run()
    assert bench.pipeline.status().version == "1.0.0"


# --- what others see ------------------------------------------------------------------------------


def test_status_and_metrics_say_what_runs():
    loaded = model(length=1)
    bench = Bench(Script(block(0, 1)), model=loaded).run()
    status = bench.pipeline.status()
    assert (status.name, status.model, status.version) == ("arm", "motion", "1.0.0")
    assert status.sha256 == loaded.digest
    assert (status.last_label, status.last_state) == ("move", "move")
    metrics = decode(encode(bench.pipeline.metrics()), type(bench.pipeline.metrics()))
    assert metrics.pipeline == "arm"
    assert metrics.counts["readings"] == 2
    assert metrics.counts["torn"] == 2  # what the source counted
    assert metrics.rss_bytes > 1_000_000
    assert metrics.latency_us["total"].n == 2
    parts = ("read", "window", "infer", "decide", "offer")
    assert metrics.latency_us["total"].max > max(metrics.latency_us[p].p50 for p in parts) * 0.9
