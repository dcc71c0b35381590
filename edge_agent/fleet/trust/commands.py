"""The commands of ``edge-fleet`` that make and keep the signed repository."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.release import SCOPE_ALL
from edge_agent.fleet.options import broker_options

if TYPE_CHECKING:
    from edge_agent.fleet.parcel import Parcel, Target
    from edge_agent.fleet.trust.release import Release
    from edge_agent.fleet.trust.repository import Repository

REPO_ENV: Final = "EDGE_FLEET_REPO"
KEYS_ENV: Final = "EDGE_FLEET_KEYS"
PASSPHRASE_ENV: Final = "EDGE_FLEET_PASSPHRASE"  # noqa: S105 (the name of a variable)
_CONNECT_S: Final = 30.0
_ANSWER_S: Final = 3.0
BASES_N: Final = 4
"""The newest approved bundles of a model that a new one is compared with, for deltas."""

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

repo_option = click.option(
    "--repo",
    type=_FOLDER,
    envvar=REPO_ENV,
    show_envvar=True,
    help="Folder of the signed repository, made by init.",
)
Secret = Callable[[], bytes | None]
"""Asks for the passphrase when it is first called."""

keys_option = click.option(
    "--keys",
    type=_FOLDER,
    envvar=KEYS_ENV,
    show_envvar=True,
    help="Folder of the offline keys, such as a USB stick.",
)


def passphrase_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``passphrase: Secret``, which asks for it when it is first needed."""

    @functools.wraps(command)
    def wrapped(passphrase_file: Path | None, **values: Any) -> None:
        ask: Secret = functools.cache(lambda: _passphrase(passphrase_file))
        command(passphrase=ask, **values)

    help_text = f"File whose first line opens the offline keys; or set {PASSPHRASE_ENV}."
    option: Callable[..., Callable[..., None]] = click.option(
        "--passphrase-file", type=_FILE, help=help_text
    )
    return option(wrapped)


@click.command()
@click.argument("repo", type=_FOLDER)
@click.option("--keys", type=_FOLDER, required=True, help="Folder for the offline keys.")
@click.option("--group", "groups", multiple=True, help="A group with a key of its own; repeat.")
@click.option("--no-passphrase", is_flag=True, help="Leave the offline keys in the clear.")
@passphrase_option
def init(
    repo: Path, *, keys: Path, groups: tuple[str, ...], no_passphrase: bool, passphrase: Secret
) -> None:
    """Make a signed repository: root of trust, keys, first metadata.

    Three root keys (two must sign), one key that approves bundles, and two online keys. Keep the
    root keys on three sticks in three places afterwards.

    Example: edge-fleet init fleet --keys /media/stick/keys
    """
    from edge_agent.fleet.trust.repository import Repository

    secret = None if no_passphrase else passphrase()
    if secret is None and not no_passphrase:
        raise ConfigError("a passphrase is needed: give --passphrase-file, or --no-passphrase")
    Repository.create(repo, keys, secret, groups)
    root = repo / "root.json"
    root.write_bytes((repo / "trust" / "1.root.json").read_bytes())
    click.echo(f"made {repo}; devices need {root} (update.root_file)")
    click.echo(f"  keep root-1, root-2, root-3 of {keys} in three places, offline")
    click.echo(f"  edge-fleet publish BUNDLE --to DEVICE --repo {repo} --keys {keys}")
    click.echo("  and renew it by edge-fleet refresh, at least once a week: ship the timer")


@click.command()
@click.argument("bundle", type=_FILE)
@click.option("--for", "scope", default=SCOPE_ALL, metavar="GROUP", help="Only for this group.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@repo_option
@keys_option
@passphrase_option
def approve(
    bundle: Path,
    *,
    scope: str,
    yes: bool,
    repo: Path | None,
    keys: Path | None,
    passphrase: Secret,
) -> None:
    """Say with an offline key that devices may run a bundle.

    Example: edge-fleet approve motion-1.1.0.bundle --repo fleet --keys /media/stick/keys
    """
    repository = open_repository(repo)
    approve_bundle(repository, bundle, scope, keys, passphrase, yes=yes)


@click.command()
@repo_option
@click.option("--publish", "is_out", is_flag=True, help="Put it on the broker too.")
@click.option("--json", "as_json", is_flag=True, help="Print what expires when as JSON.")
@broker_options
def refresh(*, repo: Path | None, is_out: bool, as_json: bool, broker: BrokerConfig) -> None:
    """Renew what the online keys sign, before it expires. A timer calls this once a day.

    Example: edge-fleet refresh --publish --repo fleet
    """
    import json

    repository = open_repository(repo)
    repository.refresh()
    if is_out:
        publish_trust(repository, broker)
    ends = {
        "root": repository.root.signed.expires,
        "timestamp": repository.timestamp.signed.expires,
        **{name: role.signed.expires for name, role in repository.roles.items()},
    }
    if as_json:
        click.echo(json.dumps({name: end.isoformat() for name, end in ends.items()}))
        return
    for name, end in ends.items():
        click.echo(f"{name:20} until {end:%Y-%m-%d}")


@click.command()
@click.argument("folder", type=_FOLDER)
@repo_option
def export(folder: Path, *, repo: Path | None) -> None:
    """Write what devices fetch into a folder: for a web server, or a USB stick.

    Example: edge-fleet export /media/stick/edge --repo fleet
    """
    from edge_agent.fleet.export import export as write

    written = write(open_repository(repo), folder)
    click.echo(f"{written} files written to {folder}")


@click.command()
@repo_option
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks at what the broker holds.",
)
@click.option("--for", "for_s", type=click.FloatRange(min=0), metavar="S", help="End after S.")
@broker_options
def serve(*, repo: Path | None, every_s: float, for_s: float | None, broker: BrokerConfig) -> None:
    """Keep the broker supplied: put again what it has lost, answer requests, clean up.

    Example: edge-fleet serve --repo fleet --broker mqtts://broker.example.org
    """
    import threading

    from edge_agent.contract.topics import Topics
    from edge_agent.fleet.depot import Depot
    from edge_agent.fleet.session import open_session

    open_repository(repo)
    stop = threading.Event()
    if for_s is not None:
        timer = threading.Timer(for_s, stop.set)
        timer.daemon = True
        timer.start()
    with open_session(broker) as session:
        depot = Depot(
            session,
            Topics(broker.prefix),
            repo or Path(),
            every_s=every_s,
            connect_s=_CONNECT_S,
            tell=click.echo,
        )
        with suppress(KeyboardInterrupt):
            depot.run(stop)


@click.group()
def keys() -> None:
    """Show, replace and add keys.

    Example: edge-fleet keys list --repo fleet
    """


@keys.command("list")
@repo_option
def keys_list(*, repo: Path | None) -> None:
    """Show the ids of the keys of every role.

    Example: edge-fleet keys list --repo fleet
    """
    for role, ids in open_repository(repo).key_ids().items():
        click.echo(f"{role:20} {' '.join(ids)}")


@keys.command("rotate")
@click.argument("role")
@repo_option
@keys_option
@passphrase_option
def keys_rotate(role: str, *, repo: Path | None, keys: Path | None, passphrase: Secret) -> None:
    """Replace the keys of ROLE (targets, online, rollout, group-NAME) by one, or add one to root.

    Example: edge-fleet keys rotate online --repo fleet --keys /media/stick/keys
    """
    path = open_repository(repo).rotate(role, _need(keys), passphrase())
    click.echo(f"{role} has a new key: {path}; publish once more, so that devices learn of it")


@keys.command("revoke")
@click.argument("keyid")
@repo_option
@keys_option
@passphrase_option
def keys_revoke(keyid: str, *, repo: Path | None, keys: Path | None, passphrase: Secret) -> None:
    """Take a key away from the role that has it, and give that role a new one.

    Example: edge-fleet keys revoke 3f2a… --repo fleet --keys /media/stick/keys
    """
    repository = open_repository(repo)
    owners = [role for role, ids in repository.key_ids().items() if keyid in ids]
    if not owners:
        raise ConfigError(f"no role has the key {keyid}: see edge-fleet keys list")
    role = "online" if owners[0] in {"snapshot", "timestamp"} else owners[0]
    path = repository.rotate(role, _need(keys), passphrase(), revoke=(keyid,))
    click.echo(f"{role} has a new key: {path}; publish once more, so that devices learn of it")


@keys.command("renew")
@repo_option
@keys_option
@passphrase_option
def keys_renew(*, repo: Path | None, keys: Path | None, passphrase: Secret) -> None:
    """Sign what the offline keys sign (root, targets) for another year.

    Example: edge-fleet keys renew --repo fleet --keys /media/stick/keys
    """
    open_repository(repo).renew(_need(keys), passphrase())
    click.echo("root and targets hold for another year; edge-fleet refresh --publish sends them")


@keys.command("add-group")
@click.argument("group")
@repo_option
@keys_option
@passphrase_option
def keys_add_group(group: str, *, repo: Path | None, keys: Path | None, passphrase: Secret) -> None:
    """Give a group of devices a key of its own, whose approvals hold for that group alone.

    Example: edge-fleet keys add-group kitchen --repo fleet --keys /media/stick/keys
    """
    from edge_agent.fleet.trust.keys import read_keys

    folder, secret = _need(keys), passphrase()
    signers = read_keys(folder, "targets", secret)
    open_repository(repo).add_group(group, folder, secret, signers)
    click.echo(f"{group} has a key: {folder / f'group-{group}-1.key'}")


# --- what other commands use ---------------------------------------------------------------------


def open_repository(folder: Path | None) -> Repository:
    """The repository that a command names.

    Raises:
        ConfigError: it names none, or there is none.
    """
    from edge_agent.fleet.trust.repository import Repository

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
    from edge_agent.fleet.trust.keys import read_keys
    from edge_agent.fleet.trust.repository import role_of

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
    signers = read_keys(_need(keys), role_of(scope), passphrase())
    repository.approve(release, signers, scope)
    click.echo("approved")


def publish_trust(repository: Repository, broker: BrokerConfig) -> None:
    """Put the signed metadata on the broker, and read them back.

    Raises:
        LinkError: the broker cannot be reached, or does not keep them.
    """
    from edge_agent.contract.topics import Topics
    from edge_agent.fleet.parcel import trust_files
    from edge_agent.fleet.seed import put_index, seed
    from edge_agent.fleet.session import open_session

    trust, topics = trust_files(repository.files()), Topics(broker.prefix)
    with open_session(broker) as session:
        session.connect(_CONNECT_S)
        seed(session, topics, trust.blobs, answer_s=_ANSWER_S, progress=lambda *_: None)
        put_index(session, topics, trust.index, _ANSWER_S)


def ordered_parcel(repository: Repository, sha256: str, target: Target) -> tuple[str, Parcel]:
    """The scope and the parcel of a bundle that is approved for a target.

    Raises:
        ConfigError: it is not approved.
    """
    from edge_agent.fleet.parcel import approved_parcel

    scopes = [SCOPE_ALL, *([target.name] if target.group else repository_groups(repository))]
    found = repository.approval(sha256, scopes)
    if found is None:
        raise ConfigError(
            f"{sha256[:12]}… is not approved for {target}: run edge-fleet approve BUNDLE with the "
            "offline key, or give publish its folder by --keys"
        )
    scope, approval, size = found
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
    from edge_agent.contract.bundle import read_bundle
    from edge_agent.fleet.trust.release import make_release

    model = read_bundle(bundle).manifest.name
    known = repository.bundles_of(model)[-BASES_N:]
    return make_release(bundle, {sha256: repository.bundle(sha256) for sha256 in known})


def _need(keys: Path | None) -> Path:
    if keys is None:
        raise ConfigError(f"--keys or {KEYS_ENV} must name the folder of the offline keys")
    return keys


def _passphrase(file: Path | None) -> bytes | None:
    if file is not None:
        return file.read_bytes().split(b"\n")[0].rstrip(b"\r") or None
    if given := os.environ.get(PASSPHRASE_ENV):
        return given.encode()
    if sys.stdin.isatty():
        return getpass("Passphrase of the offline keys: ").encode() or None
    return None
