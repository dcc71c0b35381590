"""What several commands do with a repository: open it, approve, find what is to be ordered."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from edge_agent.config import BrokerConfig
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.release import SCOPE_ALL, Approval
from edge_agent.contract.topics import Topics
from edge_agent.fleet.parcel import Parcel, Target, approved_parcel, trust_files
from edge_agent.fleet.seed import put_index, seed
from edge_agent.fleet.session import open_session
from edge_agent.fleet.trust.keys import read_keys
from edge_agent.fleet.trust.options import REPO_ENV, Secret, need_keys
from edge_agent.fleet.trust.release import Release, make_release
from edge_agent.fleet.trust.repository import Repository, role_of

_CONNECT_S: Final = 30.0
_ANSWER_S: Final = 3.0
BASES_N: Final = 4
"""The newest approved bundles of a model that a new one is compared with, for deltas."""


def open_repository(folder: Path | None) -> Repository:
    """The repository that a command names.

    Raises:
        ConfigError: it names none, or there is none.
    """
    if folder is None:
        raise ConfigError(
            f"--repo or {REPO_ENV} must name the signed repository (made by edge-fleet init); "
            "for devices in development that run unsigned, give --unsigned"
        )
    return Repository(folder)


def approve_bundle(
    repository: Repository,
    bundle: Path,
    scope: str,
    keys: Path | None,
    passphrase: Secret,
    *,
    yes: bool,
) -> None:
    """Show what is to be approved, ask, and sign."""
    release = _release(repository, bundle)
    manifest = release.manifest
    click.echo(f"{manifest.name} {manifest.version}, {len(release.data)} bytes, for {scope}")
    click.echo(f"  sha256 {release.sha256}")
    for pieces, _ in release.payloads:
        payload = pieces.payload
        base = f" on {payload.base[:12]}…" if payload.base else ""
        click.echo(f"  travels as {payload.encoding}{base}: {payload.bytes} bytes")
    if not yes:
        click.confirm("Approve it?", abort=True)
    signers = read_keys(need_keys(keys), role_of(scope), passphrase())
    repository.approve(release, signers, scope)
    click.echo("approved")


def publish_trust(repository: Repository, broker: BrokerConfig) -> None:
    """Put the signed metadata on the broker, and read them back.

    Raises:
        LinkError: the broker cannot be reached, or does not keep them.
    """
    trust, topics = trust_files(repository.files()), Topics(broker.prefix)
    with open_session(broker) as session:
        session.connect(_CONNECT_S)
        seed(session, topics, trust.blobs, answer_s=_ANSWER_S, progress=lambda *_: None)
        put_index(session, topics, trust.index, _ANSWER_S)


def approved_digest(
    repository: Repository,
    bundle: Path,
    target: Target,
    keys: Path | None,
    passphrase: Secret,
    *,
    yes: bool,
) -> str:
    """The digest of a bundle file, which is approved on the way where ``keys`` are given."""
    read = read_bundle(bundle)
    if keys is not None and read.digest not in repository.bundles_of(read.manifest.name):
        own = target.group and role_of(target.name) in repository.roles
        scope = target.name if own else SCOPE_ALL
        approve_bundle(repository, bundle, scope, keys, passphrase, yes=yes)
    return read.digest


def find_approval(repository: Repository, sha256: str, target: Target) -> tuple[str, Approval, int]:
    """The scope, the approval and the size of a bundle that is approved for a target.

    Raises:
        ConfigError: it is not approved.
    """
    scopes = [SCOPE_ALL, *([target.name] if target.group else repository_groups(repository))]
    found = repository.approval(sha256, scopes)
    if found is None:
        raise ConfigError(
            f"{sha256[:12]}… is not approved for {target}: run edge-fleet approve BUNDLE with the "
            "offline key, or give its folder by --keys"
        )
    return found


def ordered_parcel(repository: Repository, sha256: str, target: Target) -> tuple[str, Parcel]:
    """The scope and the parcel of a bundle that is approved for a target.

    Raises:
        ConfigError: it is not approved.
    """
    scope, approval, size = find_approval(repository, sha256, target)
    files = {payload.sha256: repository.payload(payload.sha256) for payload in approval.payloads}
    return scope, approved_parcel(sha256, size, approval, files)


def earlier_bundle(repository: Repository, model: str, target: Target, version: str | None) -> str:
    """The digest of the approved bundle to go back to.

    Raises:
        ConfigError: there is none.
    """
    order = repository.orders().get(target.path(model))
    known = repository.bundles_of(model)
    if version is not None:
        scopes = [SCOPE_ALL, *repository_groups(repository)]
        found = [repository.approval(sha256, scopes) for sha256 in known]
        fits = [s for s, a in zip(known, found, strict=True) if a and a[1].version == version]
        if not fits:
            raise ConfigError(f"{model} {version} is not among the approved bundles")
        return fits[-1]
    if order is None or order.choice.sha256 not in known:
        raise ConfigError(f"nothing is ordered for {model} on {target}: give --version")
    at = known.index(order.choice.sha256)
    if at == 0:
        raise ConfigError(f"there is no approved bundle of {model} before the ordered one")
    return known[at - 1]


def repository_groups(repository: Repository) -> list[str]:
    """The groups that have a key of their own."""
    names = (name.removeprefix("group-") for name in repository.roles if name.startswith("group-"))
    return list(names)


def _release(repository: Repository, bundle: Path) -> Release:
    """The bundle, with deltas against the newest approved ones of its model."""
    model = read_bundle(bundle).manifest.name
    known = repository.bundles_of(model)[-BASES_N:]
    return make_release(bundle, {sha256: repository.bundle(sha256) for sha256 in known})
