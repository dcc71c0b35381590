"""``edge-fleet provision``: a credential of its own for everybody who connects to the broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click
import msgspec

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.names import name_fault, prefix_fault
from edge_agent.fleet.options import BROKER_ENV
from edge_agent.fleet.trust.options import (
    FILE,
    Secret,
    keys_option,
    need_keys,
    passphrase_option,
    repo_option,
)

if TYPE_CHECKING:
    from edge_agent.fleet.access.book import Book, Given
    from edge_agent.fleet.trust.authority import Authority

_PREFIX: Final = "edge"
_OUT = click.Path(dir_okay=False, path_type=Path, writable=True)


class _Keys(NamedTuple):
    """Where the authority's key is, and what opens it."""

    folder: Path | None
    passphrase: Secret


@click.command()
@click.argument("user", metavar="DEVICE")
@click.option("--mtls", is_flag=True, help="By a TLS certificate; needs --keys.")
@click.option("--password", is_flag=True, help="By a random password.")
@click.option("--config", type=FILE, help="What all devices of this kind have in common.")
@click.option("--group", "groups", multiple=True, help="A group that it belongs to; repeat.")
@click.option(
    "--broker",
    "url",
    metavar="URL",
    envvar=BROKER_ENV,
    show_envvar=True,
    help="mqtts://HOST[:PORT]; by default that of --config.",
)
@click.option("--prefix", help="What every topic begins with; by default that of --config.")
@click.option("--ca-file", type=FILE, help="To check the broker by; by default the fleet's own.")
@click.option("--host", "hosts", multiple=True, help="For `broker`: a name that it has; repeat.")
@click.option("--nats", is_flag=True, help="The broker is nats-server: list the password in clear.")
@click.option("--out", type=_OUT, help="The archive; by default DEVICE.tar.gz.")
@click.option("--force", is_flag=True, help="Replace what it was given before.")
@click.option("--revoke", is_flag=True, help="Take back what it was given.")
@repo_option
@keys_option
@passphrase_option
def provision(
    user: str,
    *,
    mtls: bool,
    password: bool,
    config: Path | None,
    groups: tuple[str, ...],
    url: str | None,
    prefix: str | None,
    ca_file: Path | None,
    hosts: tuple[str, ...],
    nats: bool,
    out: Path | None,
    force: bool,
    revoke: bool,
    repo: Path | None,
    keys: Path | None,
    passphrase: Secret,
) -> None:
    """Make the credential of a device, and one archive for its SD card.

    In it: configuration, root of trust, certificate and key, or password. The lists that brokers
    read are kept in the folder `access` of the repository. DEVICE may also be one of the operators,
    `publisher`, `collector` or `viewer`, or `broker`, for the broker's own certificate.

    Example: edge-fleet provision pi-7 --group kitchen --mtls --config base.yaml --repo fleet

    Example: edge-fleet provision collector --password --repo fleet

    Example: edge-fleet provision broker --mtls --host broker.example.org --repo fleet

    Example: edge-fleet provision pi-7 --revoke --repo fleet
    """
    from edge_agent.contract.bundle import write_bundle
    from edge_agent.fleet.access.archive import pack
    from edge_agent.fleet.access.book import FOLDER, read_book
    from edge_agent.fleet.access.rendering import README, Device, render, user_readme
    from edge_agent.fleet.trust.approving import open_repository

    repository = open_repository(repo)
    folder, held = repository.folder / FOLDER, _Keys(keys, passphrase)
    book = read_book(folder)
    _require_names(user, groups)
    if revoke:
        _require_known(book, user)
        _write(folder, book.with_user(user, None), held)
        click.echo(f"{user} holds no credential any more; {_reload(folder)}")
        if book.given[user].serial:
            click.echo("mosquitto ends open connections of a certificate only when it is restarted")
        return
    target, prefix = out or Path(f"{user}.tar.gz"), _prefix(prefix, config)
    _require_choices(user, config, hosts, mtls=mtls, password=password)
    _require_new(book, user, target, force=force)
    authority = _authority(folder, held) if mtls else None
    given, files = _credential(folder, user, authority, hosts=hosts, ca_file=ca_file, nats=nats)
    given = msgspec.structs.replace(given, prefix=prefix)
    if config is None:
        files[README] = user_readme(user, url, files).encode()
    else:
        device = Device(
            name=user,
            base=config,
            groups=groups,
            url=url,
            prefix=prefix,
            root=repository.files()[f"{repository.root.signed.version}.root.json"],
            credential=files,
            archive=target.name,
        )
        files, tls, reads, writes = render(device)
        if not tls:
            click.echo(
                "the broker is not at mqtts://: the network reads the password along", err=True
            )
        given = msgspec.structs.replace(given, reads=reads, writes=writes)
    write_bundle(target, pack("edge-agent" if config else user, files), private=True)
    _write(folder, book.with_user(user, given), held, authority)
    click.echo(f"wrote {target}: it holds a secret, so carry it like one; README.txt says how")
    click.echo(_reload(folder))


def _require_names(user: str, groups: tuple[str, ...]) -> None:
    for what, name in (("device", user), *(("group", group) for group in groups)):
        if fault := name_fault(what, name):
            raise ConfigError(fault)


def _require_choices(
    user: str, config: Path | None, hosts: tuple[str, ...], *, mtls: bool, password: bool
) -> None:
    """Everybody is given what only they need."""
    from edge_agent.fleet.access.roles import BROKER, OPERATORS

    if mtls == password:
        raise ConfigError("give --mtls or --password")
    if user == BROKER:
        if not mtls or not hosts or config:
            raise ConfigError(f"{BROKER} is given a certificate: --mtls --host NAME, no --config")
    elif hosts:
        raise ConfigError(f"--host is for {BROKER} alone")
    elif user in OPERATORS and config:
        raise ConfigError(f"{user} is an operator, not a device: leave --config out")
    elif user not in OPERATORS and config is None:
        raise ConfigError("--config must name the YAML file that all devices of its kind share")


def _require_new(book: Book, user: str, target: Path, *, force: bool) -> None:
    if force:
        return
    if user in book.given:
        raise ConfigError(f"{user} has a credential: --force replaces it, --revoke takes it back")
    if target.exists():
        raise ConfigError(f"{target} exists: --force replaces it")


def _require_known(book: Book, user: str) -> None:
    if user not in book.given:
        raise ConfigError(f"{user} has no credential: {', '.join(sorted(book.given)) or 'nobody'}")


def _prefix(given: str | None, config: Path | None) -> str:
    from edge_agent.fleet.access.rendering import prefix_of

    prefix = given or (prefix_of(config) if config else None) or _PREFIX
    if fault := prefix_fault(prefix):
        raise ConfigError(fault)
    return prefix


def _authority(folder: Path, held: _Keys) -> Authority:
    from edge_agent.fleet.access.rendering import CA
    from edge_agent.fleet.trust.authority import Authority

    return Authority.open(folder / CA, need_keys(held.folder), held.passphrase())


def _credential(
    folder: Path,
    user: str,
    authority: Authority | None,
    *,
    hosts: tuple[str, ...],
    ca_file: Path | None,
    nats: bool,
) -> tuple[Given, dict[str, bytes]]:
    """A new credential: what the book keeps of it, and the files that its holder gets."""
    from edge_agent.fleet.access.archive import KEY_SUFFIX, PASSWORD
    from edge_agent.fleet.access.book import Given, hashed, make_password
    from edge_agent.fleet.access.rendering import CA

    ca = ca_file or folder / CA
    files = {CA: ca.read_bytes()} if ca.exists() else {}
    if authority is None:
        secret = make_password()
        given = Given(hashed=hashed(secret), clear=secret if nats else "")
        return given, files | {PASSWORD: f"{secret}\n".encode()}
    made = authority.issue(user, hosts)
    given = Given(serial=f"{made.serial:x}")
    return given, files | {f"{user}.crt": made.certificate, f"{user}{KEY_SUFFIX}": made.key}


def _write(folder: Path, book: Book, held: _Keys, authority: Authority | None = None) -> None:
    """Write the book; the authority signs anew which certificates hold no more."""
    from edge_agent.fleet.access.book import read_book, write_book

    if authority is None and book.revoked != read_book(folder).revoked:
        authority = _authority(folder, held)
    serials = [int(serial, 16) for serial in book.revoked]
    write_book(folder, book, authority.revocations(serials) if authority else None)


def _reload(folder: Path) -> str:
    return f"the broker's lists are in {folder}: copy what yours reads there, and have it read them"
