"""A candidate beside the incumbent on real pipelines: every verdict, restarts, labels, A/B."""

import threading
import time
from queue import Empty, SimpleQueue

import pytest
from bundles import make_bundle
from test_updater import AT_ONCE, TOPICS, Device, publish, sha

from edge_agent.config import PipelineConfig, SensorsConfig
from edge_agent.contract.experiment import Experiment, Truth
from edge_agent.contract.messages import ExperimentReport, UpdateReport, encode
from edge_agent.contract.release import EXPERIMENT_SCHEMA, Ring
from edge_agent.crowd import CrowdPipeline
from edge_agent.pipeline import Pipeline
from edge_agent.sources.simulated import SimulatedConfig
from edge_agent.testing.broker import SimulatedBroker

DEADLINE_S = 60.0
REVISION = 5
WAY = ["offered", "fetching", "verified", "staged", "probing", "comparing"]
RULE = Experiment(windows_min=20, latency_percent_max=None)
BY_LABEL = Experiment(judge="accuracy", windows_min=4, latency_percent_max=None)
AB = Experiment(
    kind="ab",
    judge="accuracy",
    windows_min=10,
    share_ppm=500_000,
    slot_s=10,
    latency_percent_max=None,
)


def bundle(version, **fields):
    return make_bundle(version=version, length=1, **fields)


OLD, SAME, OTHER = bundle("1.0.0"), bundle("1.1.0", bias=0.01), bundle("1.2.0", bias=0.4)
# OTHER moves where OLD rests: at values from 0.1 to 0.5.


class Feed:
    """A source that gives what it is fed."""

    faults: dict[str, int] = {}  # noqa: RUF012 - never written
    sensors = ()

    def __init__(self):
        self.blocks = SimpleQueue()

    def open(self):
        pass

    def read(self, out):
        try:
            block = self.blocks.get(timeout=0.02)
        except Empty:
            return 0
        self.sensors = [sensor for sensor, _ in block]
        for at, (_, value) in enumerate(block):
            out[at] = value
        return len(block)

    def close(self):
        pass


class Field(Device):
    """A device whose pipelines are real; ``restart`` is a kill of all and a new start."""

    def __init__(self, tmp_path, broker, *, installed=OLD, sensors=None, pipes=("line",), **config):
        self.names, self.sensors = pipes, sensors
        self.offered, self.threads, self.halt = [], [], threading.Event()
        super().__init__(tmp_path, broker, [None], **config)
        self.store.install(installed)
        self.restart()

    def start(self):
        self.end()
        self.feeds, self.halt = [Feed() for _ in self.names], threading.Event()
        self.pipes = [self.pipe(*pair) for pair in zip(self.names, self.feeds, strict=True)]
        self.targets = {"motion": self.pipes}
        super().start()
        for pipe in self.pipes:
            if model := self.updater.initial("motion"):
                pipe.swap(model)
        self.threads = [threading.Thread(target=p.run, args=(self.halt,)) for p in self.pipes]
        for thread in self.threads:
            thread.start()

    def pipe(self, name, feed):
        kind = CrowdPipeline if self.sensors else Pipeline
        config = PipelineConfig(
            name=name,
            model="motion",
            channels=("a", "b"),
            source=SimulatedConfig(),
            sensors=self.sensors,
            record="window",
        )
        offer = self.offered.append
        return kind(config, feed, offer=offer, dispatch=id, clock=self.clock, model=None)

    def end(self):
        self.halt.set()
        for thread in self.threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()

    def stop(self):
        """An orderly end of the updates, and a new start."""
        self.finish()
        self.restart()

    def finish(self):
        ended = threading.Event()
        ended.set()
        self.updater.run(ended)

    def order(self, data, rule, revision=REVISION):
        self.rule = rule
        publish(self.broker, data, revision, experiment=rule, schema=EXPERIMENT_SCHEMA)
        return self

    def feed(self, *values, sensor="", line=0):
        """Give readings, and wait until each was decided, and seen by a shadow if there is one."""
        for at in range(0, len(values), 8):
            self.feed_block(*((sensor, value) for value in values[at : at + 8]), line=line)

    def feed_block(self, *block, line=0):
        decided, seen = len(self.offered), self.seen(line)
        self.feeds[line].blocks.put(block)
        self.wait(lambda: len(self.offered) >= decided + len(block))
        self.wait(lambda: self.seen(line) >= seen + (len(block) if seen >= 0 else 0))

    def seen(self, line):
        """Windows that a shadow has answered; -1 when there is none."""
        found = self.found(line)
        is_shadow = found is not None and self.rule.kind == "shadow"
        return found.compared + found.b.errors if is_shadow else -1

    def wait(self, until):
        deadline = time.monotonic() + DEADLINE_S
        while not until():
            assert time.monotonic() < deadline, (self.states, self.found())
            time.sleep(0.002)

    def found(self, line=0):
        return self.pipes[line].status().comparison

    def versions(self, count):
        return [decision.model for decision in self.offered[-count:]]

    def learn(self, label, reading, **fields):
        truth = Truth(pipeline="line", reading=reading, label=label, **fields)
        self.broker.publish(TOPICS.truth("pi-1"), encode(truth))

    @property
    def updates(self):
        return [record for record in self.records if isinstance(record, UpdateReport)]

    @property
    def states(self):
        return [record.state for record in self.updates]

    @property
    def reports(self):
        return [record for record in self.records if isinstance(record, ExperimentReport)]


@pytest.fixture
def make(tmp_path):
    """Makes a field device that is ended after the test."""
    made = []

    def field(**fields):
        made.append(Field(tmp_path, SimulatedBroker(), trial=AT_ONCE, **fields))
        return made[-1]

    yield field
    for device in made:
        device.updater.pause()
        device.end()


@pytest.fixture
def comparing(make):
    """A device that compares SAME with OLD."""
    device = make().order(SAME, RULE)
    device.until("comparing")
    device.turn()
    return device


# --- each verdict --------------------------------------------------------------------------------


def test_a_candidate_that_agrees_is_promoted_and_goes_on_trial_like_any_other(comparing):
    device = comparing
    device.feed(*[0.0, 1.0] * 60)
    assert set(device.versions(120)) == {"1.0.0"}
    assert device.found().b.version == "1.1.0"
    device.until("committed")
    assert device.states == [*WAY, "trial", "committed"]
    assert device.store.pointer("motion").current.sha256 == sha(SAME)
    assert device.found() is None
    device.feed(1.0)
    assert device.versions(1) == ["1.1.0"]
    first, last = device.reports
    assert (first.outcome, last.outcome) == ("look", "promote")
    assert (last.incumbent, last.version, last.pipelines["line"].disagreed) == (
        "1.0.0",
        "1.1.0",
        0,
    )


def test_a_candidate_that_disagrees_is_dropped_with_the_figures(make):
    device = make().order(OTHER, RULE)
    device.until("comparing")
    device.turn()
    device.feed(*[0.0, 0.3] * 15)
    report = device.until("refused")
    assert "the candidate is worse: 30 windows, 50.00% alike" in report.reason
    assert device.store.pointer("motion").current.sha256 == sha(OLD)
    assert device.store.pointer("motion").refused[-1].sha256 == sha(OTHER)
    assert device.reports[-1].outcome == "drop"
    device.feed(0.3)
    assert (device.versions(1), device.found()) == (["1.0.0"], None)


def test_without_enough_windows_it_is_looked_at_until_the_time_is_over(comparing):
    device = comparing
    assert device.latest.reason == "beside 1.0.0"
    device.feed(*[0.0] * 19)
    device.turn(60)
    assert device.latest.state == "comparing"
    assert "19 windows, 100.00% alike" in device.latest.reason
    device.turn(RULE.longest_s - 70)
    assert device.latest.state == "comparing"
    device.turn(10)
    assert "no verdict after 19 windows and 604800 s" in device.until("refused").reason


def test_a_candidate_that_fails_is_dropped_at_once(make):
    value = bundle("1.0.0", task="regression")
    device = make(installed=value)
    device.order(bundle("1.1.0", task="regression", bias=3e38), RULE).until("comparing")
    device.turn()
    device.feed(3e38)  # the sum is beyond what float32 holds
    assert "failed on 1 windows, 0 are allowed" in device.until("refused").reason
    assert device.found() is None


def test_it_needs_no_network(comparing):
    device = comparing
    device.broker.cut(device.link)
    device.feed(*[0.0, 1.0] * 60)
    device.until("committed")


def test_all_pipelines_of_a_model_are_judged_together(make):
    device = make(pipes=("line", "hall")).order(SAME, RULE)
    device.until("comparing")
    device.turn()
    device.feed(*[0.0] * 12)
    device.feed(*[1.0] * 12, line=1)
    device.turn(60)
    assert "24 windows, 100.00% alike" in device.latest.reason
    assert set(device.store.pointer("motion").update.progress.pipelines) == {"line", "hall"}


# --- what cannot be compared ---------------------------------------------------------------------


def test_another_window_is_refused_before_it_is_probed(make):
    device = make().order(make_bundle(version="2.0.0", length=4), RULE)
    assert "its window is 4 readings every 1 at 10 Hz" in device.until("refused").reason
    assert "probing" not in device.states


def test_memory_must_hold_both(make):
    device = make(reserve_bytes=2**50).order(SAME, RULE)
    assert "are free" in device.until("refused").reason


def test_without_an_incumbent_there_is_nothing_to_compare_with(tmp_path):
    device = Device(tmp_path, SimulatedBroker())
    publish(device.broker, SAME, REVISION, experiment=RULE, schema=EXPERIMENT_SCHEMA)
    device.until("committed")
    assert "comparing" not in device.states


def test_sensors_cannot_be_shared_where_there_is_one(make):
    rule = Experiment(kind="ab", judge="accuracy", split="sensor")
    device = make().order(SAME, rule)
    assert "pipeline line has one sensor: split by slot" in device.until("refused").reason
    device.feed(0.0)
    assert device.found() is None


def test_a_rule_that_contradicts_itself_is_refused(make):
    device = make().order(SAME, Experiment(windows_min=0))
    assert "experiment: windows_min must be from 1" in device.until("refused").reason


# --- restarts, kills, other orders ---------------------------------------------------------------


@pytest.mark.parametrize("orderly", [True, False])
def test_a_device_that_starts_every_day_comes_to_an_end(comparing, orderly):
    device = comparing
    for day in range(1, 8):
        device.feed(*[0.0, 1.0] * 8)
        device.turn(3_600)  # the figures are saved
        if device.latest.state != "comparing":
            break
        assert f"{16 * day} windows" in device.latest.reason
        device.stop() if orderly else device.restart()
        assert device.updater.initial("motion").manifest.version == "1.0.0"
        device.turn()
        assert device.found().compared == 16 * day
    device.until("committed")
    assert device.reports[-1].seconds == day * 3_600
    assert device.reports[-1].pipelines["line"].compared == 16 * day > 80


def test_a_kill_costs_the_figures_since_they_were_saved(comparing):
    device = comparing
    device.feed(*[0.0] * 8)
    device.turn(61)
    device.feed(*[0.0] * 8)
    device.turn(1)
    device.restart()
    device.turn()
    assert device.found().compared == 8
    assert device.store.pointer("motion").update.progress.seconds == 61


def test_an_orderly_end_costs_nothing(comparing):
    device = comparing
    device.feed(*[0.0] * 8)
    device.stop()
    device.turn()
    assert device.found().compared == 8


def test_a_candidate_that_kills_the_agent_again_and_again_is_given_up(comparing):
    device = comparing
    for _ in range(AT_ONCE.starts_max):
        assert device.latest.state == "comparing"
        device.restart()
        device.turn()
    assert "the agent ended 3 times in the state comparing" in device.latest.reason
    assert device.updater.initial("motion").manifest.version == "1.0.0"


def test_another_incumbent_begins_the_comparison_anew(comparing):
    device = comparing
    device.feed(*[0.0] * 8)
    device.turn(61)
    journal = device.store.pointer("motion").update
    device.store.install(OTHER)
    device.store.record("motion", journal)  # as after falling back from a damaged bundle
    device.restart()
    device.turn()
    assert device.found().compared == 0


def test_a_newer_order_ends_the_comparison(comparing):
    device = comparing
    device.feed(0.0)
    publish(device.broker, OTHER, REVISION + 1)
    device.until("committed")
    assert device.found() is None
    device.feed(0.0)
    assert device.versions(1) == ["1.2.0"]


def test_figures_that_cannot_be_saved_stay_in_memory(comparing):
    device = comparing
    models = device.folder / "models"
    device.feed(*[0.0] * 8)
    (models / "motion.json").rename(models / "away")
    (models / "motion.json").mkdir()
    device.turn(61)
    assert device.latest.state == "comparing"
    (models / "motion.json").rmdir()
    (models / "away").rename(models / "motion.json")
    device.turn(61)
    assert device.found().compared == 8
    assert device.store.pointer("motion").update.progress.pipelines["line"].compared == 8


def test_a_verdict_that_cannot_be_written_is_given_again(comparing):
    device = comparing
    models = device.folder / "models"
    device.feed(*[0.0] * 120)
    (models / "motion.json").rename(models / "away")
    (models / "motion.json").mkdir()
    device.turn()
    assert device.latest.state == "comparing"
    assert device.found() is None
    (models / "motion.json").rmdir()
    (models / "away").rename(models / "motion.json")
    device.turn(31)
    device.until("committed")
    assert device.reports[-1].pipelines["line"].compared == 120


def test_figures_are_told_at_the_start_hourly_and_at_the_verdict(comparing):
    device = comparing
    for _ in range(20):
        device.turn(600)
    assert [report.outcome for report in device.reports] == ["look"] * 4
    device.feed(*[0.0, 1.0] * 60)
    device.until("committed")
    assert device.reports[-1].outcome == "promote"
    assert len(device.reports) == 5


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "state"), [("move", "committed"), ("rest", "refused")])
def test_labels_say_which_of_two_that_disagree_is_right(make, label, state):
    device = make().order(OTHER, BY_LABEL)
    device.until("comparing")
    device.turn()
    device.feed(*[0.3] * 16)
    assert device.latest.state == "comparing"
    for reading in range(1, 17):
        device.learn(label, reading)
    report = device.until(state)
    counts = device.reports[-1].pipelines["line"]
    right, wrong = (counts.b, counts.a) if label == "move" else (counts.a, counts.b)
    assert (right.correct, wrong.correct, right.labelled) == (16, 0, 16)
    assert report.state == state


def test_labels_that_say_nothing_are_left_out(comparing):
    device = comparing
    device.feed(0.0)
    for payload in (b"{}", b"no", encode(Truth(pipeline="line", reading=1))):
        device.broker.publish(TOPICS.truth("pi-1"), payload)
    device.learn("rest", 9)
    device.broker.publish(
        TOPICS.truth("pi-1"), encode(Truth(pipeline="other", reading=1, label="rest"))
    )
    device.turn()
    found = device.found()
    assert (found.a.labelled, found.unmatched) == (0, 1)


def test_labels_are_listened_to_only_while_there_is_something_to_compare(make):
    device = make()
    device.turn()
    assert TOPICS.truth("pi-1") not in device.broker.subscriptions
    device.order(SAME, RULE).until("comparing")
    device.turn()
    assert TOPICS.truth("pi-1") in device.broker.subscriptions
    device.broker.restart()
    device.turn()
    device.feed(0.0)
    device.learn("rest", 1)
    device.turn()
    assert device.found().a.correct == 1


# --- A/B -----------------------------------------------------------------------------------------


def slots(device, count, first=0):
    """Play so many slots, two readings in each; returns who decided each, and who was to."""
    ring = Ring(salt=f"{REVISION}/pi-1", share_ppm=AB.share_ppm)
    due = []
    for slot in range(first, first + count):
        due.append("1.2.0" if ring.holds(str(slot)) else "1.0.0")
        device.turn()
        device.wait(lambda: device.pipes[0].status().version == due[-1])
        device.feed(0.3, 0.3)
        device.turn(AB.slot_s)
    return due, device.versions(2 * count)[::2]


def test_arms_take_turns_by_slots_and_have_their_own_figures(make):
    device = make().order(OTHER, AB)
    device.until("comparing")
    due, versions = slots(device, 8)
    assert due == versions
    assert set(due) == {"1.0.0", "1.2.0"}
    found = device.found()
    assert found.a.windows == 2 * due.count("1.0.0")
    assert found.b.windows == 2 * due.count("1.2.0")
    assert found.b.fired >= 1  # it moves
    assert found.a.p50_us > 0 < found.b.p50_us
    device.stop()  # the split goes on where it was
    due, versions = slots(device, 8, first=8)
    assert due == versions


def test_the_better_arm_wins_by_labels(make):
    device = make().order(OTHER, AB)
    device.until("comparing")
    slots(device, 24)
    for reading in range(1, 49):
        device.learn("move", reading)
    device.until("committed")
    counts = device.reports[-1].pipelines["line"]
    assert (counts.a.accuracy, counts.b.accuracy) == (0.0, 1.0)
    assert counts.won == min(counts.a.labelled, counts.b.labelled)


def test_a_dropped_arm_leaves_the_incumbent(make):
    device = make().order(OTHER, AB)
    device.until("comparing")
    slots(device, 24)
    for reading in range(1, 49):
        device.learn("rest", reading)
    assert "the candidate is worse" in device.until("refused").reason
    device.wait(lambda: device.pipes[0].status().version == "1.0.0")
    device.feed(0.3)
    assert device.versions(1) == ["1.0.0"]


# --- many sensors --------------------------------------------------------------------------------

SENSORS = [f"s{number}" for number in range(40)]


def test_a_crowd_is_shadowed_batch_by_batch(make):
    device = make(sensors=SensorsConfig(batch_n_max=32)).order(OTHER, Experiment(windows_min=40))
    device.until("comparing")
    device.turn()
    device.feed_block(
        *((sensor, 0.3 if number % 2 else 0.0) for number, sensor in enumerate(SENSORS[:32]))
    )
    found = device.found()
    assert (found.compared, found.disagreed, found.left_out) == (32, 16, 0)
    assert set(device.versions(32)) == {"1.0.0"}
    device.learn("move", 2, sensor="s1")
    device.learn("move", 2, sensor="s2")
    device.turn()
    assert (device.found().won, device.found().unmatched) == (1, 1)
    device.feed_block(*((sensor, 0.3) for sensor in SENSORS[:8]))
    assert "the candidate is worse" in device.until("refused").reason


def test_a_crowd_is_split_by_sensor(make):
    rule = Experiment(
        kind="ab", judge="accuracy", split="sensor", share_ppm=300_000, windows_min=10
    )
    device = make(sensors=SensorsConfig(batch_n_max=16)).order(OTHER, rule)
    device.until("comparing")
    device.turn()
    ring = Ring(salt=f"{REVISION}/pi-1", share_ppm=300_000)
    for _ in range(3):
        device.feed_block(*((sensor, 0.3) for sensor in SENSORS))
    held = {sensor for sensor in SENSORS if ring.holds(sensor)}
    assert 0 < len(held) < 40
    for decision in device.offered[-120:]:
        is_b = decision.sensor in held
        assert (decision.model, decision.label) == (
            ("1.2.0", "move") if is_b else ("1.0.0", "rest")
        )
    found = device.found()
    assert (found.a.windows, found.b.windows) == (120 - 3 * len(held), 3 * len(held))
    assert found.a.p50_us > 0 < found.b.p50_us
    device.turn(rule.longest_s)
    device.until("refused")
    device.feed_block(*((sensor, 0.3) for sensor in SENSORS))
    assert set(device.versions(40)) == {"1.0.0"}
