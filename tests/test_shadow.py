"""A second model beside the first: compared, never waited for."""

import time

import numpy as np
import pytest
from bundles import make_bundle

from edge_agent.contract.bundle import parse_bundle
from edge_agent.infer import Model
from edge_agent.shadow import Shadow

DEADLINE_S = 20.0


def model(**fields):
    return Model.load(parse_bundle(make_bundle(**{"length": 2, "channels": ("a",)} | fields)))


@pytest.fixture
def shadow():
    running = Shadow(model(bias=0.4))
    running.start()
    yield running
    running.stop()


def wait(shadow, count):
    deadline = time.monotonic() + DEADLINE_S
    while shadow.comparison().compared + shadow.comparison().failed < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return shadow.comparison()


def test_it_counts_where_the_two_disagree(shadow):
    first = model()
    for number, value in enumerate((0.0, 0.3, 0.9, 0.2)):  # the shadow sees each 0.4 higher
        window = np.full((2, 1), value, np.float32)
        index, score, _ = first.answer(window)
        shadow.offer(window, first.manifest.labels[index], score)
        wait(shadow, number + 1)
    found = shadow.comparison()
    assert (found.compared, found.disagreed, found.failed) == (4, 2, 0)
    assert found.infer_p50_us > 0


def test_a_window_is_copied_so_that_the_pipeline_may_go_on(shadow):
    window = np.zeros((2, 1), np.float32)
    for number in range(50):
        window[:] = 0.0
        shadow.offer(window, "rest", 1.0)
        window[:] = 1.0
        wait(shadow, number + 1)
    assert shadow.comparison().disagreed == 0


def test_a_busy_shadow_leaves_windows_out_and_says_so():
    idle = Shadow(model())  # never started: nothing is ever answered
    window = np.zeros((2, 1), np.float32)
    for _ in range(20):
        idle.offer(window, "rest", 1.0)
    assert idle.comparison().left_out == 4


def test_a_shadow_that_fails_is_counted_and_goes_on(shadow):
    shadow.offer(np.full((2, 1), np.nan, np.float32), "rest", 1.0)
    shadow.offer(np.zeros((2, 1), np.float32), "rest", 1.0)
    found = wait(shadow, 2)
    assert (found.compared, found.failed) == (1, 1)


def test_values_are_compared_within_a_tolerance():
    running = Shadow(model(task="regression", bias=0.5), tolerance=0.6)
    running.start()
    try:
        running.offer(np.zeros((2, 1), np.float32), "", 0.0)
        running.offer(np.zeros((2, 1), np.float32), "", -0.5)
        found = wait(running, 2)
        assert (found.compared, found.disagreed) == (2, 1)
        assert found.score_shift == pytest.approx(0.75)
    finally:
        running.stop()
