"""The rules of the decision, one by one and against a plain restatement of them."""

from __future__ import annotations

import pytest
from bundles import make_bundle
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import DecideConfig
from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import DecideSpec, Task
from edge_agent.decide import Decider, require_states, resolve, states

S = 1_000_000_000
LABELS = ("rest", "walk", "run")


def run(
    decider: Decider, answers: list[tuple[int, float]], step_s: float = 1.0
) -> tuple[list[str], list[bool]]:
    """The states and firings of windows that are ``step_s`` apart."""
    steps = [
        decider.step(label, score, round(at * step_s * S))
        for at, (label, score) in enumerate(answers)
    ]
    return [state for state, _ in steps], [fired for _, fired in steps]


def classes(**spec) -> Decider:
    return Decider("classification", LABELS, DecideSpec(**spec))


def border(task: Task = "anomaly", **spec) -> Decider:
    labels = ("normal", "anomaly") if task == "anomaly" else ()
    return Decider(task, labels, DecideSpec(**spec))


def scores(*values: float) -> list[tuple[int, float]]:
    return [(0, value) for value in values]


def test_the_first_state_of_a_classification_counts_as_a_change():
    assert run(classes(), [(1, 0.9), (1, 0.9), (0, 0.9)]) == (
        ["walk", "walk", "rest"],
        [True, False, True],
    )


def test_a_label_below_the_threshold_has_no_vote():
    found, fired = run(classes(threshold=0.5), [(0, 0.4), (0, 0.5), (1, 0.49), (1, 0.5)])
    assert found == ["", "rest", "rest", "walk"]
    assert fired == [False, True, False, True]


def test_leaving_a_label_needs_the_hysteresis_on_top_but_the_first_does_not():
    decider = classes(threshold=0.5, hysteresis=0.25)
    found, _ = run(decider, [(0, 0.5), (1, 0.7), (1, 0.75)])
    assert found == ["rest", "rest", "walk"]


def test_debounce_wants_the_same_label_in_a_row():
    decider = classes(debounce=2)
    found, fired = run(decider, [(0, 1), (0, 1), (1, 1), (2, 1), (1, 1), (0, 1), (1, 1), (1, 1)])
    assert found == ["", "rest", "rest", "rest", "rest", "rest", "rest", "walk"]
    assert fired == [False, True, False, False, False, False, False, True]


def test_a_window_without_a_vote_breaks_the_row():
    found, _ = run(classes(threshold=0.5, debounce=2), [(1, 0.9), (1, 0.1), (1, 0.9), (1, 0.9)])
    assert found == ["", "", "", "walk"]


def test_an_anomaly_is_entered_above_and_left_at_the_lower_border():
    decider = border(threshold=1.0, hysteresis=0.5)
    found, fired = run(decider, scores(1.0, 1.1, 0.6, 0.5, 0.9))
    assert found == ["normal", "anomaly", "anomaly", "normal", "normal"]
    assert fired == [False, True, False, True, False]


def test_an_anomaly_ignores_the_direction():
    found, _ = run(border(threshold=1.0, direction="below"), scores(0.0, 2.0))
    assert found == ["normal", "anomaly"]


def test_regression_below():
    decider = border("regression", threshold=1.0, hysteresis=0.5, direction="below")
    found, _ = run(decider, scores(1.0, 0.9, 1.4, 1.5))
    assert found == ["inactive", "active", "active", "inactive"]


def test_between_the_borders_the_row_is_broken():
    decider = border(threshold=1.0, hysteresis=0.5, debounce=2)
    found, _ = run(decider, scores(2, 2, 0, 0.8, 0, 0))
    assert found == ["normal", "anomaly", "anomaly", "anomaly", "anomaly", "normal"]


def test_only_named_states_fire():
    _, fired = run(border(fire_on=("anomaly",)), scores(1, -1, 1, -1))
    assert fired == [True, False, True, False]


def test_nothing_fires_during_the_cooldown_nor_later_for_it():
    _, fired = run(border(fire_on=("anomaly",), cooldown_s=3.0), scores(1, -1, 1, 1, 1, -1, 1))
    assert fired == [True, False, False, False, False, False, True]


def test_a_firing_is_allowed_exactly_when_the_cooldown_has_passed():
    decider = border(cooldown_s=2.0)
    assert decider.step(0, 1.0, 0) == ("anomaly", True)
    assert decider.step(0, -1.0, 2 * S - 1) == ("normal", False)
    assert decider.step(0, 1.0, 2 * S) == ("anomaly", True)


def test_a_new_model_keeps_the_state_and_the_cooldown():
    old = classes(cooldown_s=10.0)
    old.step(1, 0.9, 0)
    new = Decider("classification", ("walk", "jump"), DecideSpec(cooldown_s=10.0))
    new.adopt(old)
    assert new.step(0, 0.9, S) == ("walk", False)  # no change: nothing to fire
    assert new.step(1, 0.9, 2 * S) == ("jump", False)  # the cooldown goes on


def test_a_state_that_the_new_model_lacks_is_given_up():
    old = classes()
    old.step(1, 0.9, 0)
    new = Decider("classification", ("sit", "stand"), DecideSpec())
    new.adopt(old)
    assert new.state == ""


def test_overrides_replace_only_what_they_say():
    spec = DecideSpec(threshold=0.5, debounce=3, fire_on=("walk",))
    assert resolve(spec, DecideConfig()) == spec
    got = resolve(spec, DecideConfig(threshold=0.0, fire_on=()))
    assert got == DecideSpec(threshold=0.0, debounce=3)


def test_fire_on_must_name_states_that_exist():
    manifest = parse_bundle(make_bundle()).manifest
    require_states(DecideSpec(fire_on=("move",)), manifest)
    with pytest.raises(ConfigError, match="did you mean 'move'"):
        require_states(DecideSpec(fire_on=("mvoe",)), manifest)
    manifest = parse_bundle(make_bundle(task="regression")).manifest
    require_states(DecideSpec(fire_on=("active",)), manifest)
    with pytest.raises(ConfigError, match="inactive, active"):
        require_states(DecideSpec(fire_on=("walk",)), manifest)


def test_states_by_task():
    assert states("classification", LABELS) == LABELS
    assert states("regression", ()) == ("inactive", "active")


# --- against a plain restatement ------------------------------------------------------------------

SPECS = st.builds(
    DecideSpec,
    threshold=st.sampled_from([0.0, 0.5]),
    hysteresis=st.sampled_from([0.0, 0.25]),
    debounce=st.integers(1, 3),
    cooldown_s=st.sampled_from([0.0, 2.5]),
    direction=st.sampled_from(["above", "below"]),
)
ANSWERS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([0.1, 0.25, 0.5, 0.6, 0.75, 0.9])), max_size=40
)


def expected_classes(spec: DecideSpec, answers: list[tuple[int, float]]) -> list[str]:
    """The state after each window, found by looking back over the last ``debounce`` windows."""
    state, since, found = "", 0, []
    for at, (label, _) in enumerate(answers):
        last = answers[max(since, at + 1 - spec.debounce) : at + 1]
        name = LABELS[label]
        needed = spec.threshold + (spec.hysteresis if state else 0.0)
        agree = all(other == label and score >= needed for other, score in last)
        if name != state and len(last) == spec.debounce and agree:
            state, since = name, at + 1
        found.append(state)
    return found


def expected_border(spec: DecideSpec, values: list[float]) -> list[str]:
    """The same for regression, written with both directions."""
    active, since, found = False, 0, []
    for at in range(len(values)):
        last = values[max(since, at + 1 - spec.debounce) : at + 1]
        if spec.direction == "above":
            enter = all(v > spec.threshold for v in last)
            leave = all(v <= spec.threshold - spec.hysteresis for v in last)
        else:
            enter = all(v < spec.threshold for v in last)
            leave = all(v >= spec.threshold + spec.hysteresis for v in last)
        if len(last) == spec.debounce and (leave if active else enter):
            active, since = not active, at + 1
        found.append("active" if active else "inactive")
    return found


@given(SPECS, ANSWERS)
def test_classification_follows_its_rules(spec, answers):
    found, fired = run(Decider("classification", LABELS, spec), answers)
    assert found == expected_classes(spec, answers)
    check_firing(spec, "", found, fired)


@given(SPECS, ANSWERS)
def test_regression_follows_its_rules(spec, answers):
    found, fired = run(Decider("regression", (), spec), answers)
    assert found == expected_border(spec, [score for _, score in answers])
    check_firing(spec, "inactive", found, fired)


def check_firing(spec: DecideSpec, first: str, found: list[str], fired: list[bool]) -> None:
    """Windows are 1 s apart: a change fires unless a firing is less than the cooldown ago."""
    last = None
    for at, (before, after) in enumerate(zip([first, *found], found, strict=False)):
        allowed = last is None or at - last >= spec.cooldown_s
        assert fired[at] == (before != after and allowed)
        last = at if fired[at] else last
