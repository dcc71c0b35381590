"""What the supervisor says of sensors, losses and the clock, by pure rules."""

import pytest

from edge_agent.watch import ClockWatch, LossWatch, ReadingWatch

S = 1_000_000_000


def test_a_sensor_is_silent_after_its_time_and_until_it_speaks_again():
    watch = ReadingWatch(5.0, 0)

    def fault(second, readings):
        return watch.look(second * S, readings=readings, overrun=0, expected=True)

    assert fault(4, 0) == ""
    assert fault(5, 0) == "no reading for 5 s: check the sensor"
    assert fault(6, 1) == ""
    assert fault(10, 1) == ""
    assert "no reading" in fault(11, 1)


def test_silence_does_not_count_while_no_source_is_open_or_none_is_wanted():
    watch = ReadingWatch(5.0, 0)
    assert watch.look(60 * S, readings=0, overrun=0, expected=False) == ""
    assert watch.look(64 * S, readings=0, overrun=0, expected=True) == ""
    assert watch.look(65 * S, readings=0, overrun=0, expected=True) != ""
    never = ReadingWatch(None, 0)
    assert never.look(10**9 * S, readings=0, overrun=0, expected=True) == ""


def test_a_flood_is_said_while_readings_are_dropped_and_a_little_longer():
    watch = ReadingWatch(5.0, 0)
    looks = [(1, 100, 0), (2, 200, 7), (11, 300, 7), (12, 400, 7)]
    faults = [
        watch.look(second * S, readings=readings, overrun=overrun, expected=True)
        for second, readings, overrun in looks
    ]
    assert ["dropped" in fault for fault in faults] == [False, True, True, False]


def test_losses_that_go_on_are_one_stretch():
    watch = LossWatch(0)
    assert [
        watch.look(at * S, lost) for at, lost in [(1, 0), (2, 1), (9, 2), (18, 2), (19, 2)]
    ] == [
        False,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("step_s", [3600.0, -172_800.0])
def test_a_clock_that_is_set_is_found_once_and_summed(step_s):
    watch = ClockWatch(0, 1000.0)
    assert watch.look(10 * S, 1010.4) == 0.0  # slewed
    assert watch.look(11 * S, 1011.4 + step_s) == pytest.approx(step_s)
    assert watch.look(12 * S, 1012.4 + step_s) == 0.0
    assert watch.look(13 * S, 1013.4) == pytest.approx(-step_s)
    assert watch.set_s == pytest.approx(0.0)
