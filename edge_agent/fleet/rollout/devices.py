"""What the devices of a rollout have said of it: a final word stands, whatever comes after."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from edge_agent.contract.messages import Status
from edge_agent.contract.release import SCOPE_ALL
from edge_agent.fleet.rollout.plan import Counts, Plan
from edge_agent.fleet.verdicts import State, Verdict

_FAILED: Final[frozenset[State]] = frozenset({"rolled_back", "refused"})


class Member(msgspec.Struct, frozen=True):
    """One device of a rollout.

    Attributes:
        ring: the first that holds it, from 1.
        verdict: where it stands.
    """

    ring: int
    verdict: Verdict


class Devices:
    """All devices of a rollout that are known. Used by one thread.

    Args:
        plan: of the rollout.
        known: as they were kept.
    """

    def __init__(self, plan: Plan, known: Iterable[Member] = ()) -> None:
        self._plan = plan
        self._members = {member.verdict.device: member for member in known}
        self._changed: set[str] = set()

    def hear(self, status: Status) -> None:
        """Take in what a device says of itself, at any time and in any order.

        A will tells neither groups nor models: it says of a known device that it is offline.
        """
        before = self._members.get(status.device)
        member = before
        if self._addressed(status):
            ring = self._plan.ring_of(status.device, status.groups)
            verdict = before.verdict if before else Verdict(device=status.device)
            member = Member(ring, verdict)
        if member is None:
            return
        verdict = msgspec.structs.replace(member.verdict, online=status.online)
        for report in status.updates:
            if report.model == self._plan.model:
                verdict = verdict.heard(report, self._plan.revision)
        member = Member(member.ring, verdict)
        if member != before:
            self._members[status.device] = member
            self._changed.add(status.device)

    def take_changed(self) -> list[Member]:
        """Those that have changed since the last call, to be kept."""
        changed, self._changed = self._changed, set()
        return [self._members[device] for device in sorted(changed)]

    def counts(self) -> tuple[Counts, ...]:
        """One for each ring."""
        return count(self._plan, self._members.values())

    def _addressed(self, status: Status) -> bool:
        models = {pipeline.model for pipeline in status.pipelines}
        meant = self._plan.to == SCOPE_ALL or self._plan.to in status.groups
        return meant and self._plan.model in models


def count(plan: Plan, members: Iterable[Member]) -> tuple[Counts, ...]:
    """How many devices of each ring stand where."""
    found = [dict.fromkeys(Counts.__struct_fields__, 0) for _ in plan.rings]
    for member in members:
        found[member.ring - 1][_column(member.verdict)] += 1
    return tuple(Counts(**columns) for columns in found)


def _column(verdict: Verdict) -> str:
    if verdict.state in _FAILED:
        return "failed"
    if verdict.state in ("committed", "superseded"):
        return verdict.state
    return "waiting" if verdict.online else "away"
