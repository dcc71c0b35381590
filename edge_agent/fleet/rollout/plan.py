"""When a rollout goes on, waits, ends, or goes back. Pure: values in, values out.

The rules:

* A ring opens when the one before is done. Rings add up: what an earlier one holds stays in.
* **Who counts.** A device that has answered (committed, or failed: rolled back or refused), and one
  that is online and has not answered yet: these were *asked*. A device that is offline and silent
  is not waited for, and one that follows somebody's newer order says nothing.
* **A ring is done** when its window is over and ``enough_ppm`` of those of its devices that were
  asked have answered, within the threshold. Until some device has committed the bundle, a ring is
  passed only if nobody in it could be asked, and never to the last ring: that would be blind.
* **It goes back** when the failures of a ring, or of all open rings together, are more than
  ``abort_over_ppm`` of the answers. Failures come sooner than successes, which need a trial; so
  before the window is over they are measured by all that were asked: it goes back as soon as it
  cannot come out otherwise. One of one is more than 5 %: a ring of one device is its own
  warning. ``failures_min`` tolerates the odd broken device.
* Whoever has given a final answer is not asked again: all rings have one revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.release import Choice, Order, Ring

EVERYBODY_PPM: Final = 1_000_000

Phase = Literal["running", "paused", "returning", "returned", "finished", "superseded"]
OVER: Final[frozenset[Phase]] = frozenset({"returned", "finished", "superseded"})


class Part(msgspec.Struct, frozen=True):
    """What one ring adds: a group, or a share of all.

    Attributes:
        group: of devices; empty for a share.
        share_ppm: in millionths, of the devices that the rollout is for; 0 for a group.
    """

    group: str = ""
    share_ppm: int = 0

    def __str__(self) -> str:
        return f"group:{self.group}" if self.group else f"{self.share_ppm / 10_000:g} %"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided when a rollout was started; it never changes.

    Attributes:
        to: group whose devices it is for, or ``all``.
        choice: the new bundle.
        base: the bundle to go back to.
        before: orders that it replaces, by path: they come back with it.
        revision: of the orders of every ring.
        salt: of the shares.
        rings: one after the other; the last is everybody.
        abort_over_ppm: failures in millionths of the answers, above which it goes back.
        failures_min: fewer failures than these never make it go back.
        enough_ppm: of the devices that were asked, how many must have answered.
        window_s: how long a ring is watched, at least.
        start_within_s: devices begin at a stable random moment within so many seconds.
    """

    model: str
    to: str
    choice: Choice
    base: Choice
    before: dict[str, Order] = {}
    revision: int
    salt: str
    rings: tuple[Part, ...]
    abort_over_ppm: int
    failures_min: int = 1
    enough_ppm: int = 900_000
    window_s: float
    start_within_s: int = 0

    @property
    def fault(self) -> str | None:
        """The first contradiction, or None."""
        shares = [part.share_ppm for part in self.rings if not part.group]
        if not self.rings or self.rings[-1].share_ppm != EVERYBODY_PPM:
            return "the last ring must be 100%: everybody"
        if sorted(set(shares)) != shares or shares[0] < 1:
            return "the shares of the rings must rise"
        if self.to != "all" and any(part.group for part in self.rings):
            return "rings of groups need --to all: a group may have devices outside another one"
        if self.window_s <= self.start_within_s:
            return "the window must be longer than the time within which devices start"
        if self.choice.sha256 == self.base.sha256:
            return f"{self.model} {self.base.version} is what is ordered already"
        return None

    def ring_of(self, device: str, groups: Sequence[str]) -> int:
        """The first ring that holds a device, from 1."""
        for number, part in enumerate(self.rings, start=1):
            if part.group in groups if part.group else self._share(part).holds(device):
                return number
        return len(self.rings)

    def _share(self, part: Part) -> Ring:
        return Ring(salt=self.salt, share_ppm=part.share_ppm)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rollout is.

    Attributes:
        ring: the newest open one, from 1; 0 before the first.
        out_t: when its order was out, in seconds since 1970; None: that is still to be done.
        reason: why it went back, or ended before its time.
    """

    phase: Phase = "running"
    ring: int = 0
    out_t: float | None = None
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in OVER


class Open(msgspec.Struct, frozen=True):
    """Order the bundle for every ring up to this one. May be done again."""

    ring: int


class Return(msgspec.Struct, frozen=True):
    """Order what was before. May be done again."""


Action = Open | Return


class Counts(msgspec.Struct, frozen=True):
    """The devices that one ring adds.

    Attributes:
        waiting: online, and without a final answer.
        away: offline, and without a final answer.
        superseded: they follow a newer order of somebody else.
    """

    committed: int = 0
    failed: int = 0
    waiting: int = 0
    away: int = 0
    superseded: int = 0

    @property
    def answered(self) -> int:
        """Devices with a final answer."""
        return self.committed + self.failed

    @property
    def asked(self) -> int:
        """Devices that are known to have been asked."""
        return self.answered + self.waiting

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.committed + other.committed,
            self.failed + other.failed,
            self.waiting + other.waiting,
            self.away + other.away,
            self.superseded + other.superseded,
        )


def step(
    plan: Plan, state: State, counts: Sequence[Counts], now: float
) -> tuple[State, Action | None]:
    """What comes next.

    Args:
        plan: of the rollout.
        state: as it is on disk.
        counts: of every ring.
        now: seconds since 1970.

    Returns:
        The state to be written first, and then what is to be done; :func:`done` follows. Until
        then every call gives the same action again: so a controller that was killed goes on.
    """
    if state.phase != "running":
        return state, Return() if state.phase == "returning" else None
    closed = state.out_t is not None and now - state.out_t >= plan.window_s
    if reason := _too_many(plan, state, counts, closed=closed):
        return _go_back(state, reason), Return()
    if state.out_t is None:
        return _open(state, max(state.ring, 1))
    if not closed or waits_for(plan, state, counts):
        return state, None
    if state.ring < len(plan.rings):
        return _open(state, state.ring + 1)
    return msgspec.structs.replace(state, phase="finished"), None


def done(state: State, action: Action, now: float) -> State:
    """The state after an action; unchanged when that is no longer what was to be done."""
    if isinstance(action, Open) and state.ring == action.ring and state.out_t is None:
        return msgspec.structs.replace(state, out_t=now)
    if isinstance(action, Return) and state.phase == "returning":
        return msgspec.structs.replace(state, phase="returned")
    return state


def pause(state: State) -> State:
    """Order nothing until it is resumed; windows go on.

    Raises:
        ConfigError: it does not run.
    """
    _need(state, "running")
    return msgspec.structs.replace(state, phase="paused")


def resume(state: State) -> State:
    """Go on after a pause.

    Raises:
        ConfigError: it is not paused.
    """
    _need(state, "paused")
    return msgspec.structs.replace(state, phase="running")


def abort(state: State) -> State:
    """Go back because somebody says so.

    Raises:
        ConfigError: it is over, or goes back already.
    """
    _need(state, "running", "paused")
    return _go_back(state, "aborted by hand")


def supersede(state: State, reason: str) -> State:
    """End where it is, since somebody ordered something newer."""
    return msgspec.structs.replace(state, phase="superseded", reason=reason)


def waits_for(plan: Plan, state: State, counts: Sequence[Counts]) -> str:
    """What the newest ring lacks to be done once its window is over; empty for nothing."""
    newest, all_open = counts[state.ring - 1], _total(counts[: state.ring])
    if newest.answered * EVERYBODY_PPM < plan.enough_ppm * newest.asked:
        return f"{newest.waiting} of {newest.asked} devices of the ring have not answered yet"
    blind = all_open.answered > 0 or state.ring >= len(plan.rings) - 1
    return "no device has committed it yet" if blind and not all_open.committed else ""


def _too_many(plan: Plan, state: State, counts: Sequence[Counts], *, closed: bool) -> str:
    """Why there are too many failures; empty when there are not."""
    last = state.ring if state.out_t is not None else max(0, state.ring - 1)  # that was out
    rings = [(f"ring {n}", c, closed or n < state.ring) for n, c in enumerate(counts[:last], 1)]
    for name, found, judged in [*rings, ("all rings", _total(counts[:last]), closed)]:
        of = found.answered if judged else found.asked
        over = found.failed * EVERYBODY_PPM > plan.abort_over_ppm * of
        if over and found.failed >= max(plan.failures_min, 1):
            return f"{found.failed} of {of} devices of {name} failed"
    return ""


def _total(counts: Sequence[Counts]) -> Counts:
    return sum(counts, Counts())


def _open(state: State, ring: int) -> tuple[State, Action]:
    return msgspec.structs.replace(state, ring=ring, out_t=None), Open(ring)


def _go_back(state: State, reason: str) -> State:
    return msgspec.structs.replace(state, phase="returning", reason=reason)


def _need(state: State, *phases: Phase) -> None:
    if state.phase not in phases:
        raise ConfigError(f"the rollout is {state.phase}, not {' or '.join(phases)}")
