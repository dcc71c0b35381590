"""A new model on trial: each thing that may go wrong takes the device back by itself."""

import threading
import time

import pytest
from test_updater import (
    AT_ONCE,
    NEW,
    NEWER,
    OLD,
    TOPICS,
    Device,
    Pipe,
    desire,
    publish,
    running_pipeline,
    seed,
    sha,
)

from edge_agent.config import TrialConfig
from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.errors import InferenceError
from edge_agent.contract.messages import Desired, decode
from edge_agent.health import Health
from edge_agent.infer import Model
from edge_agent.testing.broker import SimulatedBroker
from edge_agent.update.pointer import Journal
from edge_agent.update.states import TRANSITIONS, TRIES
from edge_agent.update.trial import illness, is_over

TRIAL = TrialConfig(seconds=60, windows_min=10)


@pytest.fixture
def broker():
    return SimulatedBroker()


def on_trial(tmp_path, broker, trial=TRIAL, **config):
    """A device that runs OLD and has begun to try NEW."""
    device = Device(tmp_path, broker, trial=trial, **config)
    device.store.install(OLD)
    device.restart()
    publish(broker, NEW, 5)
    device.until("trial")
    device.turn()
    assert device.pipes[0].version == "1.1.0"
    return device


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        (Health(windows=50, errors=4), "failed on 4 windows, 3 are allowed"),
        (Health(windows=50, errors=1, not_finite=1), "1 answers were not finite"),
        (Health(windows=50, infer_p99_us=200_000.0), "takes 200000 µs"),
    ],
)
def test_what_goes_wrong_takes_the_old_model_back(tmp_path, broker, health, reason):
    device = on_trial(tmp_path, broker)
    device.pipes[0].found = health
    assert reason in device.until("rolled_back").reason
    assert device.pipes[0].version == "1.0.0"
    assert device.store.pointer("motion").current.sha256 == sha(OLD)
    assert device.store.pointer("motion").update is None


def test_a_bundle_that_was_taken_back_is_not_taken_again(tmp_path, broker):
    device = on_trial(tmp_path, broker)
    device.pipes[0].found = Health(windows=50, errors=50)
    device.until("rolled_back")
    device.pipes[0].found = Health()
    device.restart()
    assert device.latest.state == "rolled_back"
    desire(broker, NEW, 6)
    assert "was taken back after a trial before" in device.until("refused").reason
    assert device.store.pointer("motion").current.sha256 == sha(OLD)


def test_a_trial_lasts_its_time_and_its_windows(tmp_path, broker):
    device = on_trial(tmp_path, broker)
    device.pipes[0].found = Health(windows=9)
    for _ in range(70):
        device.turn(1.0)
    assert device.latest.reason == "on trial: 9 of 10 windows"
    assert device.store.pointer("motion").current.sha256 == sha(OLD)
    device.pipes[0].found = Health(windows=10)
    device.until("committed")
    assert device.store.pointer("motion").current.sha256 == sha(NEW)
    assert device.store.pointer("motion").previous.sha256 == sha(OLD)


def test_a_crash_loop_ends_with_the_old_model(tmp_path, broker):
    device = on_trial(tmp_path, broker)
    for _ in range(TRIAL.starts_max - 1):
        device.restart()  # without a word to the one before: a crash
        assert device.updater.initial("motion").manifest.version == "1.1.0"
        device.turn()
    device.restart()
    assert device.updater.initial("motion").manifest.version == "1.0.0"
    assert device.latest.state == "rolled_back"
    assert "the agent ended 3 times in the state trial" in device.latest.reason


def test_orderly_stops_are_no_crash_loop(tmp_path, broker):
    device = on_trial(tmp_path, broker)
    for _ in range(3 * TRIAL.starts_max):
        stop = threading.Event()
        stop.set()
        device.updater.run(stop)
        device.restart()
        assert device.updater.initial("motion").manifest.version == "1.1.0"
    device.pipes[0].found = Health(windows=100)
    device.until("committed", seconds=10.0)


def test_the_first_model_of_a_device_can_be_taken_back_to_none(tmp_path, broker):
    device = Device(tmp_path, broker, trial=TRIAL)
    publish(broker, NEW, 5)
    device.until("trial")
    device.turn()
    device.pipes[0].found = Health(windows=5, not_finite=1, errors=1)
    device.until("rolled_back")
    assert device.pipes[0].models[-1] is None
    assert device.store.pointer("motion").current is None


def test_the_model_before_is_asked_when_that_is_wanted(tmp_path, broker):
    trial = TrialConfig(seconds=60, windows_min=10, disagreement_max=0.1)
    device = on_trial(tmp_path, broker, trial)
    shadow = device.pipes[0].shadow
    assert shadow is not None
    device.pipes[0].found = Health(windows=50, compared=50, disagreed=6)
    assert "disagrees with the model before on 12.0%" in device.until("rolled_back").reason
    assert device.pipes[0].shadow is None


def test_two_models_that_do_not_fit_into_memory_take_turns(tmp_path, broker):
    device = Device(tmp_path, broker, trial=AT_ONCE, reserve_bytes=2**50)
    device.store.install(OLD)
    device.restart()
    publish(broker, NEW, 5)
    assert "are free" in device.until("refused").reason


def test_every_state_has_a_way_and_a_limit():
    ends = {state for state, after in TRANSITIONS.items() if not after}
    assert ends == {"committed", "rolled_back", "refused"}
    assert set(TRIES) == set(TRANSITIONS) - ends - {"comparing", "trial"}
    for state in TRANSITIONS:
        reached = {state}
        for _ in TRANSITIONS:
            reached |= {after for at in reached for after in TRANSITIONS[at]}
        assert reached & ends


@pytest.mark.parametrize("state", TRIES)
def test_a_state_that_kills_the_agent_again_and_again_is_given_up(tmp_path, broker, state):
    device = Device(tmp_path, broker)
    device.store.install(OLD)
    desire(broker, NEW, 5)
    desired = decode(broker.retained[TOPICS.desired_for_device("pi-1", "motion")], Desired)
    journal = Journal(desired=desired, state=state, tries=TRIES[state])
    device.store.record("motion", journal)
    device.restart()
    assert device.latest.state == "refused"
    assert f"in the state {state}" in device.latest.reason
    assert device.updater.initial("motion").manifest.version == "1.0.0"


@pytest.mark.parametrize("state", ["offered", "fetching", "verified", "staged", "probing", "trial"])
def test_an_agent_killed_in_any_state_goes_on_from_there(tmp_path, broker, state):
    device = Device(tmp_path, broker)
    device.store.install(OLD)
    device.restart()
    publish(broker, NEW, 5)
    if state == "fetching":
        broker.retained.pop(next(t for t in list(broker.retained) if "blob" in t))
    for _ in range(2000):
        if state in device.states:
            break
        device.turn()
    device.restart()
    initial = device.updater.initial("motion").manifest.version
    assert initial in {"1.0.0", "1.1.0"}
    seed(broker, NEW)
    device.until("committed", seconds=1.0)
    assert device.store.pointer("motion").current.sha256 == sha(NEW)


# --- the rules alone ------------------------------------------------------------------------------


def test_a_healthy_model_may_stay():
    assert illness(Health(windows=100, errors=3, infer_p99_us=99_000.0), TRIAL) is None
    assert illness(Health(windows=100, compared=100, disagreed=100), TRIAL) is None


def test_latency_is_judged_when_there_were_windows_enough():
    slow = TrialConfig(latency_us_max=10.0, windows_min=10)
    assert illness(Health(windows=9, infer_p99_us=50.0), slow) is None
    assert illness(Health(windows=10, infer_p99_us=50.0), slow) is not None


def test_a_trial_is_over_after_time_and_windows():
    assert not is_over(Health(windows=10), TRIAL, 59.9)
    assert not is_over(Health(windows=9), TRIAL, 61.0)
    assert is_over(Health(windows=10), TRIAL, 60.0)


# --- what must not get lost -----------------------------------------------------------------------


def test_an_order_that_comes_during_a_trial_is_taken_after_it(tmp_path, broker):
    device = on_trial(tmp_path, broker)
    publish(broker, NEWER, 6)
    device.turn()
    assert device.pipes[0].version == "1.1.0"
    device.pipes[0].found = Health(windows=100)
    for _ in range(3000):
        device.turn(0.1)
        if device.store.pointer("motion").current.sha256 == sha(NEWER):
            break
        time.sleep(0.001)
    assert device.pipes[0].version == "1.2.0"


def test_a_silent_sensor_does_not_keep_a_trial_going_for_ever(tmp_path, broker):
    device = on_trial(tmp_path, broker, TrialConfig(seconds=60, windows_min=10, longest_s=600))
    device.pipes[0].found = Health(windows=0)
    for _ in range(100):
        device.turn(5.0)
    assert device.states[-1] == "trial"
    device.until("committed", seconds=5.0)


def test_a_pipeline_that_is_late_is_named_however_short_the_turns(tmp_path, broker):
    device = Device(tmp_path, broker, [Pipe(ready=False)], trial=TRIAL)
    publish(broker, NEW, 5)
    device.until("trial")
    for _ in range(140):
        device.turn(0.25)
    assert device.latest.reason == "1 of 1 pipelines have not taken it"


def test_a_model_that_did_not_load_is_not_committed_under_the_old_ones_health(tmp_path, broker):
    device = on_trial(tmp_path, broker)
    device.pipes[0].found = Health(windows=100, fault="the model cannot be loaded: no memory")
    assert "cannot be loaded" in device.until("rolled_back").reason
    assert device.store.pointer("motion").current.sha256 == sha(OLD)


def test_a_resumed_trial_compares_again(tmp_path, broker):
    device = on_trial(tmp_path, broker, TrialConfig(disagreement_max=0.1))
    device.pipes[0].shadow = None
    device.restart()
    device.turn()
    assert device.pipes[0].shadow is not None
    device.updater.pause()


def test_a_bundle_installed_by_hand_during_an_update_stays(tmp_path, broker):
    device = on_trial(tmp_path, broker)
    device.store.install(NEWER)
    device.pipes[0].found = Health(windows=100)
    assert "by hand" in device.until("refused", seconds=10.0).reason
    assert device.store.pointer("motion").current.sha256 == sha(NEWER)


def test_a_pipeline_whose_exchange_fails_says_so_and_goes_on_with_the_old_model():
    def fail():
        raise InferenceError("no memory for it")

    pipeline = running_pipeline("x", lambda _: None)
    old, again = (Model.load(parse_bundle(OLD)) for _ in range(2))
    stop = threading.Event()
    thread = threading.Thread(target=pipeline.run, args=(stop,))
    thread.start()
    try:
        assert pipeline.swap(old).wait(20)
        assert pipeline.exchange(fail, lambda: again).wait(20)
        assert pipeline.health().fault == "no memory for it"
        assert pipeline.status().version == "1.0.0"
        assert pipeline.exchange(fail, fail).wait(20)
        assert pipeline.status().version == ""
        assert pipeline.swap(Model.load(parse_bundle(NEW))).wait(20)
        assert (pipeline.health().fault, pipeline.status().version) == ("", "1.1.0")
        assert pipeline.withdraw().wait(20)
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(20)
