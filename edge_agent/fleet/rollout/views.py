"""How a rollout looks in a terminal and to programs. Pure: values in, text out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec

from edge_agent.contract.release import SCOPE_ALL
from edge_agent.fleet.rollout.plan import Counts, waits_for
from edge_agent.fleet.rollout.state import Entry, Rollout
from edge_agent.fleet.text import clean

HEADER: Final = ("ring", "adds", "order", "committed", "failed", "waiting", "away", "superseded")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout for programs.

    Attributes:
        to: ``all`` or ``group:NAME``.
        ring: the newest open one, from 1.
        rings: what each adds, as it is typed.
        counts: one for each ring.
    """

    name: str
    model: str
    version: str
    base: str
    to: str
    phase: str
    reason: str
    ring: int
    rings: tuple[str, ...]
    revision: int
    begun_t: float
    out_t: float | None
    window_s: float
    counts: tuple[Counts, ...]
    history: tuple[Entry, ...]


def report(rollout: Rollout, counts: Sequence[Counts], history: Sequence[Entry]) -> Report:
    """All of it."""
    plan, state = rollout.plan, rollout.state
    return Report(
        name=rollout.name,
        model=plan.model,
        version=plan.choice.version,
        base=plan.base.version,
        to=_target(rollout),
        phase=state.phase,
        reason=state.reason,
        ring=state.ring,
        rings=tuple(str(part).replace(" ", "") for part in plan.rings),
        revision=plan.revision,
        begun_t=rollout.begun_t,
        out_t=state.out_t,
        window_s=plan.window_s,
        counts=tuple(counts),
        history=tuple(history),
    )


def ring_rows(rollout: Rollout, counts: Sequence[Counts]) -> list[tuple[str, ...]]:
    """One row for each ring, by :data:`HEADER`."""
    state = rollout.state
    rows = []
    for number, (part, found) in enumerate(zip(rollout.plan.rings, counts, strict=True), start=1):
        order = "" if number > state.ring else "out"
        if number == state.ring and state.out_t is None:
            order = "to be sent"
        cells = (found.committed, found.failed, found.waiting, found.away, found.superseded)
        rows.append((str(number), str(part), order, *map(str, cells)))
    return rows


def headline(rollout: Rollout, counts: Sequence[Counts], now: float) -> str:
    """Where it stands, in one line."""
    plan, state = rollout.plan, rollout.state
    text = f"{rollout.name} for {_target(rollout)}: {state.phase}"
    if state.reason:
        text += f": {state.reason}"
    if state.over or not state.ring:
        return clean(text)
    text += f", ring {state.ring} of {len(plan.rings)}"
    if state.phase in ("running", "paused") and state.out_t is not None:
        left_s = plan.window_s - (now - state.out_t)
        if left_s > 0:
            text += f", {_duration(left_s)} of its window left"
        elif lack := waits_for(plan, state, counts):
            text += f"; {lack}"
    return clean(text)


def line(rollout: Rollout, counts: Sequence[Counts]) -> str:
    """The sums of all open rings in one line, for what is no terminal."""
    total = sum(counts[: rollout.state.ring], Counts())
    state = rollout.state
    where = f"ring {state.ring} of {len(rollout.plan.rings)}"
    reason = f" ({state.reason})" if state.reason else ""
    return clean(
        f"{rollout.name}: {state.phase}{reason}, {where}: {total.committed} committed, "
        f"{total.failed} failed, {total.waiting} waiting, {total.away} away"
    )


def history_lines(history: Sequence[Entry]) -> list[str]:
    """One line for each step."""
    stamps = (time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.t)) for entry in history)
    return [clean(f"{stamp}  {entry.note}") for stamp, entry in zip(stamps, history, strict=True)]


def _target(rollout: Rollout) -> str:
    to = rollout.plan.to
    return to if to == SCOPE_ALL else f"group:{to}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
