"""Missing and implausible values: every policy, alone and in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.arrays import F32
from edge_agent.contract.manifest import Channel
from edge_agent.metrics import Counters
from edge_agent.quality import Quality

NAN, INF = float("nan"), float("inf")


def block(*rows: list[float]) -> F32:
    return np.array(rows, np.float32)


def clean(channels: list[Channel], readings: F32) -> tuple[list[int], Counters]:
    counters = Counters()
    return list(Quality(channels, counters).clean(readings)), counters


def test_good_readings_stay_as_they_are():
    readings = block([1, 2], [3, 4])
    used, counters = clean([Channel(name="a", minimum=0, maximum=3), Channel(name="b")], readings)
    assert used == [0, 1]
    assert counters == Counters()
    np.testing.assert_array_equal(readings, block([1, 2], [3, 4]))


@pytest.mark.parametrize("missing", [NAN, INF, -INF])
def test_hold_repeats_the_last_good_value(missing: float):
    readings = block([1, 2], [missing, 4], [missing, missing], [7, 8])
    used, counters = clean([Channel(name="a"), Channel(name="b")], readings)
    assert used == [0, 1, 2, 3]
    np.testing.assert_array_equal(readings, block([1, 2], [1, 4], [1, 4], [7, 8]))
    assert (counters.missing, counters.skipped) == (3, 0)


def test_hold_skips_readings_until_there_is_a_good_value():
    readings = block([NAN, 1], [NAN, 2], [3, NAN])
    used, counters = clean([Channel(name="a"), Channel(name="b")], readings)
    assert used == [2]
    np.testing.assert_array_equal(readings[2], [3, 2])  # good, though its reading was skipped
    assert (counters.missing, counters.skipped) == (3, 2)


def test_hold_goes_on_from_block_to_block():
    counters = Counters()
    quality = Quality([Channel(name="a")], counters)
    quality.clean(block([5]))
    later = block([NAN])
    assert list(quality.clean(later)) == [0]
    assert later[0, 0] == 5


def test_skip_leaves_the_reading_out():
    readings = block([1, 2], [NAN, 4], [5, 6])
    used, counters = clean([Channel(name="a", on_missing="skip"), Channel(name="b")], readings)
    assert used == [0, 2]
    assert (counters.missing, counters.skipped) == (1, 1)


@pytest.mark.parametrize(
    ("on_range", "expected"), [("keep", [-2, 0.5, 3]), ("clip", [0, 0.5, 1]), ("missing", None)]
)
def test_out_of_range(on_range: str, expected: list[float] | None):
    readings = block([-2], [0.5], [3])
    channel = Channel(name="a", minimum=0, maximum=1, on_range=on_range)
    used, counters = clean([channel], readings)
    assert (counters.out_of_range, counters.missing) == (2, 0)
    if expected is None:
        assert used == [1, 2]  # the first has no good value before it
        assert readings[:, 0].tolist()[1:] == [0.5, 0.5]
    else:
        assert used == [0, 1, 2]
        assert readings[:, 0].tolist() == expected


def test_bounds_belong_to_the_range_as_float32():
    readings = block([0.1], [0.3])  # in float32 the first is above, the second below their bounds
    used, counters = clean([Channel(name="a", minimum=0.1, maximum=0.3)], readings)
    assert used == [0, 1]
    assert counters.out_of_range == 0


def test_infinity_is_missing_even_where_a_bound_would_clip_it():
    readings = block([1], [INF])
    used, counters = clean([Channel(name="a", maximum=2, on_range="clip")], readings)
    assert used == [0, 1]
    assert readings[1, 0] == 1
    assert (counters.missing, counters.out_of_range) == (1, 0)


def test_another_model_goes_on_from_the_last_good_values_and_clear_forgets_them():
    first = Quality([Channel(name="a")], Counters())
    first.clean(block([5]))
    second = Quality([Channel(name="a")], Counters())
    second.adopt(first)
    readings = block([NAN])
    assert list(second.clean(readings)) == [0]
    assert readings[0, 0] == 5
    second.clear()
    assert list(second.clean(block([NAN]))) == []


VALUES = st.sampled_from([NAN, INF, -3.0, -1.0, 0.0, 0.5, 1.0, 4.0])
CHANNELS = st.builds(
    Channel,
    name=st.just("a"),
    minimum=st.sampled_from([None, -1.0]),
    maximum=st.sampled_from([None, 1.0]),
    on_missing=st.sampled_from(["hold", "skip"]),
    on_range=st.sampled_from(["keep", "clip", "missing"]),
)


@given(
    st.lists(CHANNELS, min_size=2, max_size=2),
    st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=20),
    st.integers(1, 7),
)
def test_blocks_are_treated_as_single_readings(channels, values, size):
    whole, single = np.array(values, np.float32), np.array(values, np.float32)
    in_blocks, one_by_one = Counters(), Counters()
    by_block, by_row = Quality(channels, in_blocks), Quality(channels, one_by_one)
    used_whole, used_single = [], []
    for start in range(0, len(values), size):
        used_whole += [start + at for at in by_block.clean(whole[start : start + size])]
    for at in range(len(values)):
        used_single += [at] * len(by_row.clean_one(single[at]))
    assert used_whole == used_single
    assert in_blocks == one_by_one
    np.testing.assert_array_equal(whole[used_whole], single[used_single])
    assert np.isfinite(whole[used_whole]).all()
