"""From what an operator types to the plan of a rollout."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Final

import click
import msgspec

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import Status
from edge_agent.contract.names import name_fault
from edge_agent.contract.release import Choice, Ring, group_path
from edge_agent.fleet.options import share_ppm
from edge_agent.fleet.parcel import Target
from edge_agent.fleet.rollout.plan import Part, Plan
from edge_agent.fleet.trust.approving import earlier_bundle, find_approval
from edge_agent.fleet.trust.repository import Repository

_SALTS_N: Final = 2_000


def parse_rings(text: str) -> tuple[Part, ...]:
    """Read ``1%,group:canary,100%``."""
    return tuple(_part(word.strip()) for word in text.split(","))


def make_plan(
    repository: Repository,
    digest: str,
    target: Target,
    *,
    statuses: Iterable[Status],
    rings: Sequence[Part],
    base: str | None,
    abort_over_ppm: int,
    failures_min: int,
    enough_ppm: int,
    window_s: float,
    start_within_s: int,
) -> Plan:
    """The plan of a rollout.

    Args:
        repository: in which the bundle is approved.
        digest: of the bundle.
        target: for whom.
        statuses: of the devices that are known.
        rings: one after the other.
        base: version to go back to; None for what is ordered now, or approved before.
        abort_over_ppm: as all below, see :class:`.Plan`.
        failures_min: fewer failures do not count.
        enough_ppm: how many must have answered.
        window_s: of a ring.
        start_within_s: for devices.

    Raises:
        ConfigError: a bundle is not approved, there is nothing to go back to, or it contradicts
            itself.
    """
    if not target.group:
        raise ConfigError("--to: a rollout is for group:NAME, or all; publish is for one device")
    choice, model = _choice(repository, digest, target)
    standing = repository.orders()
    paths = sorted({group_path(part.group or target.name, model) for part in rings})
    back = _base(repository, model, digest, target, base)
    before = {path: standing[path] for path in paths if path in standing}
    if base is not None:  # somebody wants another one than what is ordered
        before = {p: msgspec.structs.replace(o, choice=back) for p, o in before.items()}
    plan = Plan(
        model=model,
        to=target.name,
        choice=choice,
        base=back,
        before=before,
        revision=repository.next_revision(),
        salt=_salt(target, model, rings, statuses),
        rings=tuple(rings),
        abort_over_ppm=abort_over_ppm,
        failures_min=failures_min,
        enough_ppm=enough_ppm,
        window_s=window_s,
        start_within_s=start_within_s,
    )
    if plan.fault:
        raise ConfigError(plan.fault)
    return plan


def _part(word: str) -> Part:
    name = word.removeprefix("group:")
    if name == word:
        return Part(share_ppm=share_ppm(word))
    if fault := name_fault("group", name):
        raise click.BadParameter(fault)
    return Part(group=name)


def _choice(repository: Repository, digest: str, target: Target) -> tuple[Choice, str]:
    scope, approval, _ = find_approval(repository, digest, target)
    return Choice(sha256=digest, version=approval.version, scope=scope), approval.model


def _base(
    repository: Repository, model: str, digest: str, target: Target, version: str | None
) -> Choice:
    """What to go back to: as named; else what is ordered now; else what was approved before."""
    standing = repository.orders().get(target.path(model))
    if version is not None:
        found = earlier_bundle(repository, model, target, version)
        return _choice(repository, found, target)[0]
    if standing is not None:
        return standing.choice
    known = repository.bundles_of(model)
    earlier = known[: known.index(digest)]
    if not earlier:
        raise ConfigError(
            f"there is no approved {model} to go back to: approve the bundle that devices run now"
        )
    return _choice(repository, earlier[-1], target)[0]


def _salt(target: Target, model: str, rings: Sequence[Part], statuses: Iterable[Status]) -> str:
    """A random salt by which the first share holds a device that is online, if that can be.

    A hundredth of fifty devices may be nobody, and a ring of nobody teaches nothing.
    """
    first = next((part.share_ppm for part in rings if not part.group), 0)
    online = [
        status.device
        for status in statuses
        if status.online and target.addresses(status) and model in _models(status)
    ]
    stem = secrets.token_hex(4)
    salts = [f"{stem}-{number}" for number in range(_SALTS_N)] if online else []
    rings_of = (Ring(salt=salt, share_ppm=first) for salt in salts)
    return next((r.salt for r in rings_of if any(map(r.holds, online))), stem)


def _models(status: Status) -> set[str]:
    return {pipeline.model for pipeline in status.pipelines}
