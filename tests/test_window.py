"""Every window is the last readings in order, whatever came before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.arrays import F32
from edge_agent.window import Window


def rows(count: int, channels: int = 2) -> F32:
    """Readings that are all different."""
    return np.arange(count * channels, dtype=np.float32).reshape(count, channels)


def due(window: Window, readings: F32, start: int = 0) -> list[int]:
    """After which readings (from ``start``) a window was due, each checked against a slice."""
    found = []
    for at in range(start, len(readings)):
        if window.push(readings[at]):
            np.testing.assert_array_equal(window.view, readings[at + 1 - window.length : at + 1])
            found.append(at)
    return found


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 60))
def test_windows_are_slices_of_the_readings(length: int, hop: int, count: int):
    window = Window(length, hop, 2)
    assert due(window, rows(count)) == list(range(length - 1, count, hop))


def test_a_window_is_contiguous_float32_and_not_a_copy():
    window = Window(4, 1, 3)
    due(window, rows(7, 3))
    assert window.view.dtype == np.float32
    assert window.view.flags.c_contiguous
    assert window.view.base is not None


def test_the_same_geometry_keeps_the_window_itself():
    window = Window(4, 3, 2)
    assert window.resized(4, 3) is window


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 40), st.integers(1, 9))
def test_another_hop_keeps_the_readings(length: int, hop: int, before: int, new_hop: int):
    readings = rows(before + 40)
    window = Window(length, hop, 2)
    due(window, readings[:before])
    found = due(window.resized(length, new_hop), readings, before)
    assert found
    assert np.all(np.diff(found) == new_hop)
    latest = max(before + new_hop, length) - 1
    assert max(before, length - 1) <= found[0] <= latest


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 40), st.integers(1, 20))
def test_another_length_keeps_what_history_there_is(
    length: int, hop: int, before: int, new_length: int
):
    readings = rows(before + 40)
    window = Window(length, hop, 2)
    due(window, readings[:before])
    found = due(window.resized(new_length, 1), readings, before)
    known = min(before, length)
    assert found[0] == before + max(new_length - known, 1) - 1


def test_a_window_that_was_due_next_stays_due_in_a_shorter_one():
    readings = rows(20)
    window = Window(8, 4, 2)
    assert due(window, readings[:10]) == [7]  # the next would be due after reading 11
    assert due(window.resized(4, 4), readings, 10)[0] == 11


def test_resizing_does_not_change_the_old_window():
    readings = rows(20)
    window = Window(5, 2, 2)
    due(window, readings[:8])
    other = window.resized(3, 1)
    for row in readings:
        other.push(row + 100)
    assert due(window, readings, 8) == list(range(8, 20, 2))


@pytest.mark.parametrize("before", [2, 5, 7])
def test_nothing_is_left_after_clear(before: int):
    readings = rows(30)
    window = Window(5, 2, 2)
    due(window, readings[:before])
    window.clear()
    assert due(window, readings[before:]) == list(range(4, 30 - before, 2))
