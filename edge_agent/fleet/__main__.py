"""The ``edge-fleet`` command: the operator's side."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from edge_agent import __version__
from edge_agent.command import run_command
from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import encode
from edge_agent.contract.names import name_fault
from edge_agent.contract.topics import Topics
from edge_agent.fleet.access.provisioning import provision
from edge_agent.fleet.options import broker_options
from edge_agent.fleet.publishing import CONNECT, export, publish, rollback, serve
from edge_agent.fleet.rollout.commands import rollout, rollouts
from edge_agent.fleet.text import clean
from edge_agent.fleet.trust.commands import approve, init, keys, refresh

_SECONDS = click.FloatRange(min=0)
_EVERYBODY: Final = "+"


def main() -> None:
    """Run the command."""
    run_command("edge-fleet", cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-fleet")
def cli() -> None:
    """Publish models, collect records and look at devices, over any MQTT broker."""
    logging.basicConfig(level=logging.WARNING, format="edge-fleet: %(message)s")


for command in (
    init,
    keys,
    approve,
    publish,
    rollback,
    rollout,
    rollouts,
    refresh,
    serve,
    export,
    provision,
):
    cli.add_command(command)


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
@CONNECT
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
    wanted = topics.status(_level("--device", device))
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
@click.option("--model", help="Only this one.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="S",
    help="How long to listen for devices.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON on stdout.")
@CONNECT
@broker_options
def bench(
    device: str | None,
    *,
    model: str | None,
    wait_s: float,
    as_json: bool,
    connect_s: float,
    broker: BrokerConfig,
) -> None:
    """Show what devices measured by 'edge-agent bench --publish', board by board.

    Example: edge-fleet bench --model motion
    """
    from edge_agent.fleet.benches import BENCH_HEADER, bench_notes, bench_rows, read_benches
    from edge_agent.fleet.screen import show_table
    from edge_agent.fleet.session import open_session

    topics = Topics(broker.prefix)
    wanted = topics.bench(_level("--device", device), _level("--model", model))
    with open_session(broker) as session:
        session.connect(connect_s)
        answers = session.ask_all([wanted], wait_s)
    results, faults = read_benches(topics, answers)
    for fault in faults:
        _tell(fault)
    if as_json:
        click.echo(encode(results))
    elif results:
        show_table(BENCH_HEADER, bench_rows(results))
        for note in bench_notes(results):
            click.echo(note)
    else:
        click.echo("no device has published figures: run 'edge-agent bench --publish' there")


@cli.command()
@click.option("--device", help="Only this one.")
@click.option("--for", "for_s", type=_SECONDS, metavar="S", help="End after so many seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@CONNECT
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
            device=_level("--device", device),
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


def _level(option: str, name: str | None) -> str:
    """A topic level: a device or a model, or all of them."""
    if name is not None and (fault := name_fault(option, name)):
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
