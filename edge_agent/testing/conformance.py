"""What every source and every action must do, as checks that a plug-in's own tests can run.

::

    def test_thermometer_is_a_source():
        check_source(lambda: Thermometer(bus=FakeBus()), channels=2)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np
from msgspec.structs import replace

from edge_agent.actions.base import Action
from edge_agent.arrays import F32
from edge_agent.contract.errors import EdgeError
from edge_agent.contract.messages import Decision
from edge_agent.sources.base import Source

READ_S_MAX: Final = 2.0
"""Longest ``read`` that passes: the second that it may wait, and a margin for a busy machine."""

FIRE_S_MAX: Final = 0.1
"""Longest ``fire`` of an action that does not block that passes; on a device aim for 100 us."""

_FIRST_S: Final = 10.0  # for a source to give its first reading
_READINGS: Final = 8  # to be seen of each source, unless it ends before
_UNTOUCHED: Final = np.float32(-1.2345678e30)  # no sensor gives this
_FIRES: Final = 5


def check_source(make: Callable[[], Source], channels: int) -> None:
    """Check a source against :class:`edge_agent.sources.base.Source`.

    Args:
        make: a new source, not open, that has at least one reading to give.
        channels: values in a reading.

    Raises:
        AssertionError: what the source does that it must not, or the other way round.
    """
    never_opened = make()
    _check_faults(never_opened)
    never_opened.close()
    never_opened.close()

    for block in (4, 1):
        source = make()
        source.open()
        try:
            _check_reads(source, block, channels)
        finally:
            source.close()
            source.close()
        _check_faults(source)

    reopened = make()
    for _ in range(2):
        reopened.open()
        try:
            _read_once(reopened, 1, channels)
        finally:
            reopened.close()


def check_action(make: Callable[[], Action]) -> None:
    """Check an action against :class:`edge_agent.actions.base.Action`.

    Args:
        make: a new action that works, or fails with an ``EdgeError``.

    Raises:
        AssertionError: what the action does that it must not, or the other way round.
    """
    never_fired = make()
    never_fired.close()
    never_fired.close()

    action = make()
    blocking = type(action).blocking
    assert type(blocking) is bool, "blocking must be True or False, on the class"
    try:
        for decision in _decisions():
            taken_s = min(_fire(action, decision) for _ in range(1 if blocking else _FIRES))
            assert blocking or taken_s < FIRE_S_MAX, (
                f"fire() took {taken_s * 1e3:.0f} ms in the pipeline's thread: set blocking = True"
            )
    finally:
        action.close()
        action.close()


def _check_reads(source: Source, block: int, channels: int) -> None:
    """Read until enough readings came or the source has ended."""
    seen, deadline = 0, time.monotonic() + _FIRST_S
    before = _check_faults(source)
    while seen < _READINGS:
        count = _read_once(source, block, channels)
        after = _check_faults(source)
        falling = [reason for reason, number in before.items() if after.get(reason, 0) < number]
        assert not falling, f"faults are totals, but {', '.join(falling)} went down"
        before = after
        if count is None:
            assert seen, "the source ended before its first reading: make() must give one that has"
            again = _read_once(source, block, channels)
            assert again is None, "read() after EOFError must raise EOFError again"
            return
        seen += count
        assert seen or time.monotonic() < deadline, f"no reading came within {_FIRST_S:g} s"


def _read_once(source: Source, block: int, channels: int) -> int | None:
    """One checked ``read``: the number of readings, or None at the end."""
    guarded: F32 = np.full((block + 2, channels), _UNTOUCHED, np.float32)
    out = guarded[1:-1]  # a row before and after it shows what is written outside
    begin = time.monotonic()
    try:
        count = source.read(out)
    except EOFError:
        return None
    taken_s = time.monotonic() - begin
    assert taken_s < READ_S_MAX, f"read() took {taken_s:.1f} s, it may wait 1 s"
    assert type(count) is int, f"read() gave a {type(count).__name__}, not an int"
    assert 0 <= count <= block, f"read() gave {count}, but out has {block} rows"
    for beside in ("sensors", "stamps"):  # some sources have them
        said = len(getattr(source, beside, ()))
        assert said in {0, count}, f"read() gave {count} rows, but {beside} has {said}"
    given, rest = out[:count], (guarded[0], out[count:], guarded[-1])
    assert not (given == _UNTOUCHED).any(), "read() left values of its rows as they were: NaN them"
    assert all((part == _UNTOUCHED).all() for part in rest), "read() wrote outside of out[:n]"
    return count


def _check_faults(source: Source) -> dict[str, int]:
    """The faults, checked to be counts by reason."""
    faults = source.faults
    assert type(faults) is dict, "faults must be a dict"
    for reason, count in faults.items():
        assert type(reason) is str, f"faults has the key {reason!r}, not a reason in words"
        assert type(count) is int, f"faults[{reason!r}] is {count!r}, not an int"
        assert count >= 0, f"faults[{reason!r}] is {count}: counts are not negative"
    return dict(faults)


def _fire(action: Action, decision: Decision) -> float:
    """Fire once; the seconds that it took. An ``EdgeError`` is allowed, anything else is not."""
    fault = "-"
    begin = time.monotonic()
    try:
        action.fire(decision)
    except EdgeError as exc:
        fault = str(exc)
    assert fault, "an error must say what to do"
    return time.monotonic() - begin


def _decisions() -> list[Decision]:
    """One decision for each kind of model, and one with all that a name may hold."""
    plain = Decision(
        t=1_700_000_000.0, pipeline="check", model="1.0.0", reading=1, score=0.9, fired=True
    )
    odd = "{state} $(x) ; 'ü' \n"
    return [
        replace(plain, label="walk", state="walk"),
        replace(plain, label="anomaly", score=-0.1, state="normal", synced=False),
        replace(plain, score=21.5, values=(21.5, 3.0), state="active"),
        replace(plain, label=odd, score=float("inf"), state=odd),
    ]
