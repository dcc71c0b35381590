"""The commands of ``edge-fleet`` that make and keep the signed repository."""

from __future__ import annotations

from pathlib import Path

import click

from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.release import SCOPE_ALL
from edge_agent.fleet.options import broker_options
from edge_agent.fleet.trust.options import (
    FILE,
    FOLDER,
    Secret,
    keys_option,
    need_keys,
    passphrase_option,
    repo_option,
)


@click.command()
@click.argument("repo", type=FOLDER)
@click.option("--keys", type=FOLDER, required=True, help="Folder for the offline keys.")
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
@click.argument("bundle", type=FILE)
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
    from edge_agent.fleet.trust.approving import approve_bundle, open_repository

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

    from edge_agent.fleet.trust.approving import open_repository, publish_trust

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
    from edge_agent.fleet.trust.approving import open_repository

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
    from edge_agent.fleet.trust.approving import open_repository

    path = open_repository(repo).rotate(role, need_keys(keys), passphrase())
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
    from edge_agent.fleet.trust.approving import open_repository

    repository = open_repository(repo)
    owners = [role for role, ids in repository.key_ids().items() if keyid in ids]
    if not owners:
        raise ConfigError(f"no role has the key {keyid}: see edge-fleet keys list")
    role = "online" if owners[0] in {"snapshot", "timestamp"} else owners[0]
    path = repository.rotate(role, need_keys(keys), passphrase(), revoke=(keyid,))
    click.echo(f"{role} has a new key: {path}; publish once more, so that devices learn of it")


@keys.command("renew")
@repo_option
@keys_option
@passphrase_option
def keys_renew(*, repo: Path | None, keys: Path | None, passphrase: Secret) -> None:
    """Sign what the offline keys sign (root, targets) for another year.

    Example: edge-fleet keys renew --repo fleet --keys /media/stick/keys
    """
    from edge_agent.fleet.trust.approving import open_repository

    open_repository(repo).renew(need_keys(keys), passphrase())
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
    from edge_agent.fleet.trust.approving import open_repository
    from edge_agent.fleet.trust.keys import read_keys

    folder, secret = need_keys(keys), passphrase()
    signers = read_keys(folder, "targets", secret)
    open_repository(repo).add_group(group, folder, secret, signers)
    click.echo(f"{group} has a key: {folder / f'group-{group}-1.key'}")
