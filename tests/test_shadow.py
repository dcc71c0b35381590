"""A second model beside the first: compared, never waited for."""

import time

import numpy as np
import pytest
from bundles import make_bundle

from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.experiment import Comparison, Truth
from edge_agent.contract.messages import Decision
from edge_agent.infer import Model
from edge_agent.shadow import Shadow

DEADLINE_S = 60.0
TOOK_NS = 8_000


def model(**fields):
    return Model.load(parse_bundle(make_bundle(**{"length": 2, "channels": ("a",)} | fields)))


def window(value):
    return np.full((2, 1), value, np.float32)


def decision(label, score, reading=1, **fields):
    return Decision(
        **{"t": 100.0, "pipeline": "p", "model": "0.9.0"} | fields,
        label=label,
        score=score,
        reading=reading,
    )


@pytest.fixture
def shadow():
    running = Shadow(model(bias=0.4), answers_n=4)
    running.start()
    yield running
    running.stop()


def wait(shadow, count):
    deadline = time.monotonic() + DEADLINE_S
    while shadow.comparison().compared + shadow.comparison().b.errors < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return shadow.comparison()


def show(shadow, *values):
    """Let a model without the shadow's bias decide, and wait for the shadow."""
    first, before = model(), shadow.comparison().compared
    for number, value in enumerate(values, 1):  # the shadow sees each 0.4 higher
        index, score, _ = first.answer(window(value))
        label = first.manifest.labels[index]
        shadow.saw(decision(label, score, number), window(value), TOOK_NS)
        wait(shadow, before + number)
    return shadow.comparison()


def test_it_counts_where_the_two_disagree(shadow):
    found = show(shadow, 0.0, 0.3, 0.9, 0.2)
    assert (found.compared, found.disagreed, found.b.errors) == (4, 2, 0)
    assert (found.a.version, found.b.version) == ("0.9.0", "1.0.0")
    assert found.a.windows == found.b.windows == 4
    assert found.a.p50_us == pytest.approx(TOOK_NS / 1000, rel=0.07)
    assert found.b.p50_us > 0


def test_a_window_is_copied_so_that_the_pipeline_may_go_on(shadow):
    seen = window(0.0)
    for number in range(50):
        seen[:] = 0.0
        shadow.saw(decision("rest", 1.0), seen, TOOK_NS)
        seen[:] = 1.0
        wait(shadow, number + 1)
    assert shadow.comparison().disagreed == 0


def test_a_busy_shadow_leaves_windows_out_and_says_so():
    idle = Shadow(model())  # never started: nothing is ever answered
    for _ in range(20):
        idle.saw(decision("rest", 1.0), window(0.0), TOOK_NS)
    assert idle.comparison().left_out == 4


def test_windows_that_wait_together_are_one_run():
    running = Shadow(model(bias=0.4), places=64)
    for number in range(64):
        running.saw(decision("rest", 1.0, number + 1), window(number % 2 / 4), TOOK_NS)
    running.start()
    found = wait(running, 64)
    running.stop()
    assert (found.compared, found.disagreed, found.left_out) == (64, 32, 0)


def test_a_shadow_that_fails_is_counted_and_goes_on(shadow):
    shadow.saw(decision("rest", 1.0), window(np.nan), TOOK_NS)
    shadow.saw(decision("rest", 1.0), window(0.0), TOOK_NS)
    found = wait(shadow, 2)
    assert (found.compared, found.b.errors) == (1, 1)


def test_a_first_model_that_fails_is_counted(shadow):
    shadow.missed("0.9.0")
    assert shadow.comparison().a.errors == 1


def test_values_are_compared_within_a_tolerance():
    running = Shadow(model(task="regression", bias=0.5), tolerance=0.6)
    running.start()
    try:
        running.saw(decision("", 0.0), window(0.0), TOOK_NS)
        running.saw(decision("", -0.5), window(0.0), TOOK_NS)
        found = wait(running, 2)
        assert (found.compared, found.disagreed) == (2, 1)
        assert found.score_shift == pytest.approx(0.75)
    finally:
        running.stop()


def test_it_goes_on_from_earlier_figures():
    before = Comparison(compared=10, disagreed=3)
    before.a.p50_us = 7.0
    running = Shadow(model(bias=0.4), so_far=before)
    assert running.comparison().a.p50_us == 7.0
    running.start()
    try:
        running.saw(decision("rest", 1.0), window(0.3), TOOK_NS)
        found = wait(running, 11)
    finally:
        running.stop()
    assert (found.compared, found.disagreed, before.compared) == (11, 4, 10)


def test_labels_that_come_later_say_who_was_right(shadow):
    show(shadow, 0.0, 0.3, 0.2)  # the first model rests; the shadow moves, at 0.3 and 0.2
    shadow.learn(Truth(pipeline="p", reading=1, label="rest"))
    shadow.learn(Truth(pipeline="p", reading=2, label="move"))
    shadow.learn(Truth(pipeline="p", reading=3, t=100.2, label="rest"))
    found = shadow.comparison()
    assert (found.a.labelled, found.a.correct, found.b.correct) == (3, 2, 2)
    assert (found.won, found.lost, found.unmatched) == (1, 1, 0)


def test_a_label_counts_once_and_only_for_what_is_known(shadow):
    show(shadow, *[0.0] * 5)  # four answers are kept
    for reading in (1, 3, 3, 77):
        shadow.learn(Truth(pipeline="p", reading=reading, label="rest"))
    shadow.learn(Truth(pipeline="p", reading=4, t=50.0, label="rest"))  # of another start
    shadow.learn(Truth(pipeline="p", sensor="other", t=100.0, label="rest"))
    found = shadow.comparison()
    assert (found.a.labelled, found.unmatched) == (1, 5)
    shadow.learn(Truth(pipeline="p", t=100.4, label="move"))
    assert shadow.comparison().a.labelled == 2
