"""The ``edge-fleet`` command: the operator's side."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

import click

from edge_agent import __version__
from edge_agent.command import run_command
from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import encode
from edge_agent.contract.names import name_fault
from edge_agent.contract.release import SCOPE_ALL
from edge_agent.contract.topics import Topics
from edge_agent.fleet.options import broker_options
from edge_agent.fleet.text import clean
from edge_agent.fleet.trust.commands import (
    Secret,
    approve,
    approve_bundle,
    earlier_bundle,
    export,
    init,
    keys,
    keys_option,
    open_repository,
    ordered_parcel,
    passphrase_option,
    refresh,
    repo_option,
    serve,
)

if TYPE_CHECKING:
    from edge_agent.fleet.parcel import Parcel, Target, TrustFiles
    from edge_agent.fleet.trust.repository import Repository

EXIT_REFUSED: Final = 8
"""``publish``: at least one device has refused the bundle."""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_SECONDS = click.FloatRange(min=0)
_EVERYBODY: Final = "+"
_connect = click.option(
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


def main() -> None:
    """Run the command."""
    run_command("edge-fleet", cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-fleet")
def cli() -> None:
    """Publish models, collect records and look at devices, over any MQTT broker."""
    logging.basicConfig(level=logging.WARNING, format="edge-fleet: %(message)s")


for command in (init, approve, refresh, keys, export, serve):
    cli.add_command(command)


@cli.command()
@click.argument("bundle", type=_FILE)
@click.option("--to", "target", required=True, metavar="DEVICE|group:NAME", help="For whom.")
@click.option("--yes", is_flag=True, help="Approve without asking, where --keys allow it.")
@click.option("--unsigned", is_flag=True, help="For devices in development that run unsigned.")
@repo_option
@keys_option
@passphrase_option
@_wait
@_json
@_connect
@broker_options
def publish(
    bundle: Path,
    target: str,
    *,
    yes: bool,
    unsigned: bool,
    repo: Path | None,
    keys: Path | None,
    passphrase: Secret,
    wait_s: float,
    as_json: bool,
    connect_s: float,
    broker: BrokerConfig,
) -> None:
    """Order a device, or every device of a group, to run a bundle, and put it on the broker.

    The bundle must be approved; with --keys this is done on the way. Everything is read back from
    the broker before it counts as published. Ends with 0 when the devices have committed it or
    have not answered yet, and with 8 when one has refused it or gone back.

    Example: edge-fleet publish motion-1.1.0.bundle --to pi-7 --repo fleet --keys /media/stick/keys

    Example: edge-fleet publish motion-1.1.0.bundle --to group:line-2 --wait 0 --repo fleet
    """
    from edge_agent.contract.bundle import read_bundle
    from edge_agent.fleet.parcel import Target, read_parcel
    from edge_agent.fleet.trust.repository import role_of

    whom = Target.parse(target)
    if unsigned:
        _send(
            read_parcel(bundle),
            whom,
            broker=broker,
            wait_s=wait_s,
            connect_s=connect_s,
            as_json=as_json,
        )
        return
    repository, digest = open_repository(repo), read_bundle(bundle).digest
    if keys is not None and digest not in repository.bundles_of(read_bundle(bundle).manifest.name):
        scope = whom.name if whom.group and role_of(whom.name) in repository.roles else SCOPE_ALL
        approve_bundle(repository, bundle, scope, keys, passphrase, yes=yes)
    _order(
        repository,
        digest,
        whom,
        broker=broker,
        wait_s=wait_s,
        connect_s=connect_s,
        as_json=as_json,
    )


@cli.command()
@click.argument("model")
@click.option("--to", "target", required=True, metavar="DEVICE|group:NAME", help="For whom.")
@click.option("--version", "version", help="Which one; by default the one before.")
@repo_option
@_wait
@_json
@_connect
@broker_options
def rollback(
    model: str,
    target: str,
    *,
    version: str | None,
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
    )


@cli.command()
@click.option("--to", "target", required=True, metavar="FILE", help="JSON lines, or SQLite (.db).")
@click.option(
    "--share", default="edge-collect", show_default=True, help="Collectors that divide the work."
)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=1),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds between two tables on a terminal.",
)
@click.option("--for", "for_s", type=_SECONDS, metavar="S", help="End after so many seconds.")
@click.option(
    "--until-idle", "idle_s", type=_SECONDS, metavar="S", help="End when no record came for S."
)
@click.option("--summary", is_flag=True, help="Only print what FILE holds; needs no broker.")
@click.option("--json", "as_json", is_flag=True, help="No table, only the last line.")
@broker_options
def collect(
    target: str,
    *,
    share: str,
    every_s: float,
    for_s: float | None,
    idle_s: float | None,
    summary: bool,
    as_json: bool,
    broker: BrokerConfig,
) -> None:
    """Store the records of all devices durably, and acknowledge them.

    Several collectors may run at once: with one .db file for all, or one file each. Prints per
    device what was produced, received, ledgered (dropped on purpose) and is missing; the last line
    is RESULT and the same as JSON. Ends in order at Ctrl-C and SIGTERM.

    Example: edge-fleet collect --to records.db

    Example: edge-fleet collect --to records.db --summary
    """
    from edge_agent.fleet.collect import CollectReport, report
    from edge_agent.fleet.screen import show_table
    from edge_agent.fleet.serve import run_collector
    from edge_agent.fleet.sinks import open_sink
    from edge_agent.fleet.views import REPORT_HEADER, report_rows

    def show(found: CollectReport) -> None:
        if not as_json:
            show_table(REPORT_HEADER, report_rows(found))

    if for_s is not None and idle_s is not None:
        raise ConfigError("--for and --until-idle: give one of them")
    if fault := name_fault("--share", share):
        raise ConfigError(fault)
    if summary and not Path(target.removeprefix("sqlite:")).exists():
        raise ConfigError(f"--summary: {target} does not exist: name the file of a collector")
    sink = open_sink(target, read_only=summary)
    try:
        if summary:
            last = report(sink)
        else:
            _log_as_a_service()
            last = run_collector(
                broker,
                sink,
                share=share,
                for_s=for_s,
                idle_s=idle_s,
                every_s=every_s if sys.stdout.isatty() else None,
                show=show,
                stop=_stop_on_signals(),
            )
    finally:
        sink.close()
    show(last)
    click.echo(f"RESULT {encode(last).decode()}")


@cli.command()
@click.option("--device", help="Only this one.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="S",
    help="How long to listen for devices.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the statuses as JSON on stdout.")
@_connect
@broker_options
def status(
    device: str | None, *, wait_s: float, as_json: bool, connect_s: float, broker: BrokerConfig
) -> None:
    """Show the devices that the broker knows: versions, health, updates.

    Example: edge-fleet status --broker mqtt://gateway.local
    """
    from edge_agent.fleet.devices import read_statuses
    from edge_agent.fleet.screen import show_table
    from edge_agent.fleet.session import open_session
    from edge_agent.fleet.views import STATUS_HEADER, status_notes, status_rows

    topics = Topics(broker.prefix)
    wanted = topics.status(_device(device))
    with open_session(broker) as session:
        session.connect(connect_s)
        answers = session.ask_all([wanted], wait_s)
    statuses, faults = read_statuses(topics, answers)
    for fault in faults:
        _tell(fault)
    if as_json:
        click.echo(encode(statuses))
    elif statuses:
        show_table(STATUS_HEADER, status_rows(statuses))
        for note in status_notes(statuses):
            click.echo(note)
    else:
        click.echo("no device has a status on this broker: check --broker and --prefix")


@cli.command()
@click.option("--device", help="Only this one.")
@click.option("--for", "for_s", type=_SECONDS, metavar="S", help="End after so many seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@_connect
@broker_options
def watch(
    device: str | None,
    *,
    for_s: float | None,
    as_json: bool,
    connect_s: float,
    broker: BrokerConfig,
) -> None:
    """Follow statuses and decisions as they come, until Ctrl-C.

    A live table on a terminal (needs the extra: pip install 'edge-agent[fleet]'), else lines.

    Example: edge-fleet watch --device pi-7
    """
    from edge_agent.fleet.screen import show_json, show_lines, show_live
    from edge_agent.fleet.session import open_session
    from edge_agent.fleet.watch import follow

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    deadline = None if for_s is None else time.monotonic() + for_s
    with suppress(KeyboardInterrupt), open_session(broker) as session:
        seen = follow(
            session,
            Topics(broker.prefix),
            device=_device(device),
            until=lambda: deadline is not None and time.monotonic() > deadline,
            connect_s=connect_s,
            tell=_tell,
        )
        if as_json:
            show_json(seen)
        elif sys.stdout.isatty():
            show_live(seen)
        else:
            show_lines(seen)


class _How(TypedDict):
    """Options of every command that sends a bundle."""

    broker: BrokerConfig
    wait_s: float
    connect_s: float
    as_json: bool


def _order(
    repository: Repository,
    digest: str,
    whom: Target,
    **how: Unpack[_How],
) -> None:
    """Sign the order, then put everything on the broker."""
    from edge_agent.contract.release import Choice, Order
    from edge_agent.fleet.parcel import trust_files

    scope, parcel = ordered_parcel(repository, digest, whom)
    revision = repository.next_revision()
    choice = Choice(sha256=digest, version=parcel.version, scope=scope)
    order = Order(revision=revision, model=parcel.model, choice=choice)
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
            f"{report.unanswered} not yet answered"
        )
    else:
        click.echo("published: devices take it when they are next connected")
    sys.exit(EXIT_REFUSED if report.refused else 0)


def _device(name: str | None) -> str:
    """A topic level: the device, or all of them."""
    if name is not None and (fault := name_fault("--device", name)):
        raise ConfigError(fault)
    return name or _EVERYBODY


def _tell(sentence: str) -> None:
    click.echo(clean(sentence), err=True)


def _log_as_a_service() -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set, so that the work ends in order."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    main()
