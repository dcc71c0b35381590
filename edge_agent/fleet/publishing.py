"""The commands of ``edge-fleet`` that bring bundles to devices."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NotRequired, TypedDict, Unpack

import click

from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import encode
from edge_agent.contract.release import SCOPE_ALL
from edge_agent.contract.topics import Topics
from edge_agent.fleet.comparing import compare_options
from edge_agent.fleet.options import broker_options, start_within_option
from edge_agent.fleet.trust.options import (
    FILE,
    FOLDER,
    Secret,
    keys_option,
    passphrase_option,
    repo_option,
)

if TYPE_CHECKING:
    from edge_agent.contract.experiment import Experiment
    from edge_agent.fleet.parcel import Parcel, Target, TrustFiles
    from edge_agent.fleet.trust.repository import Repository

EXIT_REFUSED: Final = 8
"""``publish``: at least one device has refused the bundle."""

_SECONDS = click.FloatRange(min=0)
_CONNECT_S: Final = 30.0

CONNECT = click.option(
    "--timeout",
    "connect_s",
    type=_SECONDS,
    default=30.0,
    show_default=True,
    metavar="S",
    help="How long the broker may be away.",
)


_wait = click.option(
    "--wait",
    "wait_s",
    type=_SECONDS,
    default=180.0,
    show_default=True,
    metavar="S",
    help="How long to wait for the devices' verdict; 0 leaves as soon as everything is out.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")


@click.command()
@click.argument("bundle", type=FILE)
@click.option("--to", "target", required=True, metavar="DEVICE|group:NAME|all", help="For whom.")
@click.option("--yes", is_flag=True, help="Approve without asking, where --keys allow it.")
@click.option("--unsigned", is_flag=True, help="For devices in development that run unsigned.")
@start_within_option
@compare_options
@repo_option
@keys_option
@passphrase_option
@_wait
@_json
@CONNECT
@broker_options
def publish(
    bundle: Path,
    target: str,
    *,
    yes: bool,
    unsigned: bool,
    start_within_s: int,
    experiment: Experiment | None,
    repo: Path | None,
    keys: Path | None,
    passphrase: Secret,
    wait_s: float,
    as_json: bool,
    connect_s: float,
    broker: BrokerConfig,
) -> None:
    """Order a device, a group of devices or all to run a bundle, and put it on the broker.

    The bundle must be approved; with --keys this is done on the way. Everything is read back from
    the broker before it counts as published. Ends with 0 when the devices have committed it or
    have not answered yet, and with 8 when one has refused it or gone back. With --shadow, --ab or
    --rule the devices first compare it with what they run; then the wait ends when they do so.

    Example: edge-fleet publish motion-1.1.0.bundle --to pi-7 --repo fleet --keys /media/stick/keys

    Example: edge-fleet publish motion-1.1.0.bundle --to group:line-2 --wait 0 --repo fleet

    Example: edge-fleet publish motion-1.1.0.bundle --to pi-7 --repo fleet --shadow
    """
    from edge_agent.fleet.parcel import Target, read_parcel
    from edge_agent.fleet.trust.approving import approved_digest, open_repository

    whom = Target.parse(target)
    if unsigned and whom.name == SCOPE_ALL:
        raise ConfigError("--to all needs signed orders: name a group, or a device")
    if unsigned:
        _send(
            read_parcel(bundle),
            whom,
            experiment=experiment,
            broker=broker,
            wait_s=wait_s,
            connect_s=connect_s,
            as_json=as_json,
            start_within_s=start_within_s,
        )
        return
    repository = open_repository(repo)
    digest = approved_digest(repository, bundle, whom, keys, passphrase, yes=yes)
    _order(
        repository,
        digest,
        whom,
        experiment=experiment,
        broker=broker,
        wait_s=wait_s,
        connect_s=connect_s,
        as_json=as_json,
        start_within_s=start_within_s,
    )


@click.command()
@click.argument("model")
@click.option("--to", "target", required=True, metavar="DEVICE|group:NAME|all", help="For whom.")
@click.option("--version", "version", help="Which one; by default the one before.")
@start_within_option
@repo_option
@_wait
@_json
@CONNECT
@broker_options
def rollback(
    model: str,
    target: str,
    *,
    version: str | None,
    start_within_s: int,
    repo: Path | None,
    wait_s: float,
    as_json: bool,
    connect_s: float,
    broker: BrokerConfig,
) -> None:
    """Order an earlier approved bundle, under a higher revision. Needs no offline key.

    Example: edge-fleet rollback motion --to group:line-2 --repo fleet
    """
    from edge_agent.fleet.parcel import Target
    from edge_agent.fleet.trust.approving import earlier_bundle, open_repository

    whom, repository = Target.parse(target), open_repository(repo)
    digest = earlier_bundle(repository, model, whom, version)
    _order(
        repository,
        digest,
        whom,
        broker=broker,
        wait_s=wait_s,
        connect_s=connect_s,
        as_json=as_json,
        start_within_s=start_within_s,
    )


@click.command()
@click.argument("folder", type=FOLDER)
@repo_option
def export(folder: Path, *, repo: Path | None) -> None:
    """Write what devices fetch into a folder: for a web server, or a USB stick.

    Example: edge-fleet export /media/stick/edge --repo fleet
    """
    from edge_agent.fleet.export import export as write
    from edge_agent.fleet.trust.approving import open_repository

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

    from edge_agent.fleet.depot import Depot
    from edge_agent.fleet.session import open_session
    from edge_agent.fleet.trust.approving import open_repository

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


class _How(TypedDict):
    """Options of every command that sends a bundle."""

    broker: BrokerConfig
    wait_s: float
    connect_s: float
    as_json: bool
    start_within_s: int
    experiment: NotRequired[Experiment | None]


def _order(
    repository: Repository,
    digest: str,
    whom: Target,
    **how: Unpack[_How],
) -> None:
    """Sign the order, then put everything on the broker."""
    from msgspec.structs import replace

    from edge_agent.contract.release import EXPERIMENT_SCHEMA, Choice, Order
    from edge_agent.fleet.parcel import trust_files
    from edge_agent.fleet.trust.approving import ordered_parcel

    scope, parcel = ordered_parcel(repository, digest, whom)
    revision = repository.next_revision()
    choice = Choice(sha256=digest, version=parcel.version, scope=scope)
    order = Order(
        revision=revision,
        model=parcel.model,
        choice=choice,
        start_within_s=how["start_within_s"],
    )
    if (experiment := how.get("experiment")) is not None:
        order = replace(order, experiment=experiment, schema=EXPERIMENT_SCHEMA)
    repository.order(whom.path(parcel.model), order)
    trust = trust_files(repository.files())
    _send(parcel, whom, trust, revision, **how)


def _send(
    parcel: Parcel,
    whom: Target,
    trust: TrustFiles | None = None,
    revision: int | None = None,
    **how: Unpack[_How],
) -> None:
    """Publish, tell what became of it, and end with the exit code that says so."""
    from edge_agent.fleet.publish import Publisher
    from edge_agent.fleet.screen import Meter
    from edge_agent.fleet.session import open_session

    meter = Meter()
    with open_session(how["broker"]) as session:
        report = Publisher(
            session,
            Topics(how["broker"].prefix),
            parcel,
            whom,
            trust=trust,
            revision=revision,
            start_within_s=how["start_within_s"],
            experiment=how.get("experiment"),
            wait_s=how["wait_s"],
            connect_s=how["connect_s"],
            tell=meter.tell,
            progress=meter.progress,
        ).run()
    if how["as_json"]:
        click.echo(encode(report))
    elif how["wait_s"] > 0:
        click.echo(
            f"{report.committed} committed, {report.refused} refused, "
            f"{report.comparing} comparing, {report.unanswered} not yet answered"
        )
    else:
        click.echo("published: devices take it when they are next connected")
    sys.exit(EXIT_REFUSED if report.refused else 0)
