"""Percentiles are within the promised error; counters have names."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.metrics import STAGES, Histogram, Meters, rss_bytes

ERROR = 1 / 16


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=300))
def test_percentiles_are_within_a_sixteenth(durations: list[int]):
    histogram = Histogram()
    for ns in durations:
        histogram.record(ns)
    found = histogram.latency()
    assert found.n == len(durations)
    assert found.max == max(durations) / 1000
    for share, got in ((50, found.p50), (99, found.p99), (99.9, found.p999)):
        exact = np.percentile(durations, share, method="inverted_cdf") / 1000
        assert got == pytest.approx(exact, rel=ERROR, abs=1e-9)


def test_nothing_recorded_is_all_zero():
    found = Histogram().latency()
    assert (found.n, found.p50, found.p99, found.p999, found.max) == (0, 0, 0, 0, 0)


def test_a_duration_beyond_all_bounds_counts_as_the_longest():
    histogram = Histogram()
    histogram.record(1 << 60)
    found = histogram.latency()
    assert found.n == 1
    assert found.max == (1 << 60) / 1000
    assert found.p50 > 3600e6


def test_meters_name_every_counter_and_stage():
    meters = Meters()
    meters.counters.windows += 3
    meters.stages["infer"].record(2000)
    assert meters.counts()["windows"] == 3
    assert tuple(meters.latency_us()) == STAGES
    assert meters.latency_us()["infer"].n == 1
    assert msgspec.json.encode(meters.latency_us())


def test_resident_memory_grows_with_what_is_held():
    before = rss_bytes()
    held = np.ones(8_000_000)
    assert rss_bytes() - before > 0.9 * held.nbytes
