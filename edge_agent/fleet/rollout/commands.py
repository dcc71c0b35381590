"""The commands of ``edge-fleet`` for rollouts: ``rollout`` begins one, ``rollouts`` keeps them."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import encode
from edge_agent.contract.topics import Topics
from edge_agent.fleet.options import broker_options, duration, share_ppm, start_within_option
from edge_agent.fleet.publishing import CONNECT
from edge_agent.fleet.trust.options import (
    FILE,
    Secret,
    keys_option,
    passphrase_option,
    repo_option,
)

if TYPE_CHECKING:
    from edge_agent.fleet.rollout.plan import State
    from edge_agent.fleet.rollout.state import Rollout, Rollouts
    from edge_agent.fleet.rollout.views import Report

EXIT_RETURNED: Final = 8
"""``rollout``, ``rollouts abort``: it went back, or somebody ordered something newer."""
EXIT_OPEN: Final = 9
"""``rollout``: it was left before its end, and goes on with ``edge-fleet rollouts run``."""

STATE_ENV: Final = "EDGE_FLEET_ROLLOUTS"
_FILE: Final = "rollouts.db"
_WATCH_S: Final = 1.0
_ANSWER_S: Final = 3.0

_state_option = click.option(
    "--state",
    metavar="FILE|URL",
    envvar=STATE_ENV,
    show_envvar=True,
    help="Where rollouts are kept: a SQLite file, or postgresql://USER@HOST/NAME.  "
    f"[default: {_FILE} in the repository]",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
_name = click.argument("name", required=False)


@click.command()
@click.argument("bundle", type=FILE)
@click.option(
    "--to", "target", default="all", show_default=True, metavar="group:NAME|all", help="For whom."
)
@click.option(
    "--rings",
    default="1%,10%,100%",
    show_default=True,
    metavar="RING,…",
    help="One after the other: a share of the devices, or group:NAME; the last is 100%.",
)
@click.option(
    "--abort-over",
    "abort_over_ppm",
    type=share_ppm,
    default="5%",
    show_default=True,
    metavar="SHARE",
    help="Go back when more than this share of the answers are failures.",
)
@click.option(
    "--failures-min",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Never go back for fewer failures.",
)
@click.option(
    "--window",
    "window_s",
    type=duration,
    default="30m",
    show_default=True,
    metavar="TIME",
    help="How long a ring is watched before the next one opens.",
)
@click.option(
    "--enough",
    "enough_ppm",
    type=share_ppm,
    default="90%",
    show_default=True,
    metavar="SHARE",
    help="How many of a ring's devices that are online must have answered by then.",
)
@click.option("--base", metavar="VERSION", help="What to go back to; by default what is ordered.")
@start_within_option
@click.option("--detach", is_flag=True, help="Only put it down: a service leads it.")
@click.option("--yes", is_flag=True, help="Approve without asking, where --keys allow it.")
@repo_option
@keys_option
@passphrase_option
@_state_option
@_json
@CONNECT
@broker_options
def rollout(  # one for each option
    bundle: Path,
    *,
    target: str,
    rings: str,
    abort_over_ppm: int,
    failures_min: int,
    window_s: float,
    enough_ppm: int,
    base: str | None,
    start_within_s: int,
    detach: bool,
    yes: bool,
    repo: Path | None,
    keys: Path | None,
    passphrase: Secret,
    state: str | None,
    as_json: bool,
    connect_s: float,
    broker: BrokerConfig,
) -> None:
    """Bring an approved bundle to the fleet ring by ring; go back when too many devices fail.

    Leads the rollout to its end; it may be left (Ctrl-C) and goes on with edge-fleet rollouts run.
    Ends with 0 when all rings are done, with 8 when it went back, and with 9 when it was left.

    Example: edge-fleet rollout motion-1.1.0.bundle --rings 1%,10%,100% --abort-over 5% --window 30m

    Example: edge-fleet rollout motion-1.1.0.bundle --rings group:canary,100% --repo fleet
    """
    from edge_agent.fleet.devices import read_statuses
    from edge_agent.fleet.parcel import Target
    from edge_agent.fleet.rollout.begin import make_plan, parse_rings
    from edge_agent.fleet.session import open_session
    from edge_agent.fleet.trust.approving import approved_digest, open_repository

    whom, parts, topics = Target.parse(target), parse_rings(rings), Topics(broker.prefix)
    repository = open_repository(repo)
    digest = approved_digest(repository, bundle, whom, keys, passphrase, yes=yes)
    with open_session(broker) as session:
        session.connect(connect_s)
        answers = session.ask_all([topics.status("+")], _ANSWER_S)
    plan = make_plan(
        repository,
        digest,
        whom,
        statuses=read_statuses(topics, answers)[0],
        rings=parts,
        base=base,
        abort_over_ppm=abort_over_ppm,
        failures_min=failures_min,
        enough_ppm=enough_ppm,
        window_s=window_s,
        start_within_s=start_within_s,
    )
    rollouts = _open_rollouts(state, repo)
    begun = rollouts.begin(plan, time.time())
    click.echo(f"{begun.name} goes back to {plan.base.version} if it must", err=True)
    if not detach:
        _lead(rollouts, begun.name, repo, broker, connect_s=connect_s, as_json=as_json)
    _end(rollouts, begun.name, as_json=as_json, left=0 if detach else EXIT_OPEN)


@click.group()
def rollouts() -> None:
    """Show, watch, lead, pause, resume and abort rollouts.

    Example: edge-fleet rollouts status --repo fleet
    """


@rollouts.command("status")
@_name
@repo_option
@_state_option
@_json
def show_status(name: str | None, *, repo: Path | None, state: str | None, as_json: bool) -> None:
    """Show one rollout and its history; without NAME, all of them.

    Example: edge-fleet rollouts status motion-1.1.0 --repo fleet
    """
    from edge_agent.fleet.rollout.views import HEADER, headline, history_lines, ring_rows
    from edge_agent.fleet.screen import show_table

    kept = _open_rollouts(state, repo)
    found = [kept.load(name)] if name else kept.all()
    if as_json:
        click.echo(encode([_report(kept, rollout) for rollout in found]))
        return
    for rollout in found:
        counts = _report(kept, rollout).counts
        click.echo(headline(rollout, counts, time.time()))
        if name or not rollout.state.over:
            show_table(HEADER, ring_rows(rollout, counts))
        if name:
            click.echo("\n".join(history_lines(kept.history(name))))
    if not found:
        click.echo("no rollout yet: begin one by edge-fleet rollout BUNDLE")


@rollouts.command("watch")
@_name
@repo_option
@_state_option
def watch(name: str | None, *, repo: Path | None, state: str | None) -> None:
    """Follow a rollout that is led elsewhere until it is over; needs no broker.

    Example: edge-fleet rollouts watch --repo fleet
    """
    from edge_agent.fleet.rollout.show import Shown

    kept, stop = _open_rollouts(state, repo), _stop_on_signals()
    name = _only(kept, name)
    with Shown(live=True) as shown:
        while not stop.is_set():
            rollout = kept.load(name)
            shown.show(rollout, _report(kept, rollout).counts)
            if rollout.state.over:
                return
            stop.wait(_WATCH_S)


@rollouts.command("run")
@click.option("--once", is_flag=True, help="Look once, do what is due, and end: for a timer.")
@repo_option
@_state_option
@CONNECT
@broker_options
def run(
    *, once: bool, repo: Path | None, state: str | None, connect_s: float, broker: BrokerConfig
) -> None:
    """Lead every rollout that is not over: as a service, or now and then with --once.

    Example: edge-fleet rollouts run --repo fleet

    Example: edge-fleet rollouts run --once --repo fleet
    """
    kept = _open_rollouts(state, repo)
    _lead(kept, None, repo, broker, connect_s=connect_s, once=once)


@rollouts.command("pause")
@_name
@repo_option
@_state_option
def pause(name: str | None, *, repo: Path | None, state: str | None) -> None:
    """Order nothing until it is resumed; what is out stays out, and devices are still counted.

    Example: edge-fleet rollouts pause motion-1.1.0 --repo fleet
    """
    from edge_agent.fleet.rollout import plan

    _change(_open_rollouts(state, repo), name, plan.pause, "paused")


@rollouts.command("resume")
@_name
@repo_option
@_state_option
def resume(name: str | None, *, repo: Path | None, state: str | None) -> None:
    """Go on after a pause, as soon as somebody leads it.

    Example: edge-fleet rollouts resume motion-1.1.0 --repo fleet
    """
    from edge_agent.fleet.rollout import plan

    _change(_open_rollouts(state, repo), name, plan.resume, "resumed")


@rollouts.command("abort")
@_name
@repo_option
@_state_option
@CONNECT
@broker_options
def abort(
    name: str | None,
    *,
    repo: Path | None,
    state: str | None,
    connect_s: float,
    broker: BrokerConfig,
) -> None:
    """Order what was before, now. Ends when that is out.

    Example: edge-fleet rollouts abort motion-1.1.0 --repo fleet
    """
    from edge_agent.fleet.rollout import plan

    kept = _open_rollouts(state, repo)
    aborted = _change(kept, name, plan.abort, "aborted by hand")
    _lead(kept, aborted.name, repo, broker, connect_s=connect_s)


def _open_rollouts(where: str | None, repo: Path | None) -> Rollouts:
    """The rollouts in the database that was named, or else in the repository's folder."""
    from edge_agent.fleet.rollout.database import open_database
    from edge_agent.fleet.rollout.state import Rollouts
    from edge_agent.fleet.trust.approving import open_repository

    if where is None:
        where = str(open_repository(repo).folder / _FILE)
    return Rollouts(open_database(where))


def _only(kept: Rollouts, name: str | None) -> str:
    """The name that was given, or that of the only open rollout."""
    if name is not None:
        return name
    found = [rollout.name for rollout in kept.open()]
    if len(found) != 1:
        raise ConfigError(f"name one of the open rollouts: {', '.join(found) or 'there is none'}")
    return found[0]


def _change(kept: Rollouts, name: str | None, rule: Callable[[State], State], note: str) -> Rollout:
    changed = kept.change(_only(kept, name), rule, time.time(), note)
    click.echo(f"{changed.name}: {changed.state.phase}")
    return changed


def _lead(
    kept: Rollouts,
    only: str | None,
    repo: Path | None,
    broker: BrokerConfig,
    *,
    connect_s: float,
    once: bool = False,
    as_json: bool = False,
) -> None:
    """Lead one or all until the end, or a signal."""
    from edge_agent.fleet.rollout.controller import Controller
    from edge_agent.fleet.rollout.show import Shown
    from edge_agent.fleet.session import open_session
    from edge_agent.fleet.trust.approving import open_repository

    folder, stop = open_repository(repo).folder, _stop_on_signals()
    live = only is not None and not as_json
    with open_session(broker) as session, Shown(live=live, err=as_json) as shown:
        Controller(
            session,
            Topics(broker.prefix),
            folder,
            kept,
            connect_s=connect_s,
            tell=shown.tell,
            show=shown.show,
        ).run(stop, only=only, once=once)


def _end(kept: Rollouts, name: str, *, as_json: bool, left: int) -> None:
    """Say how it stands, and end with the exit code for it."""
    rollout = kept.load(name)
    if as_json:
        click.echo(encode(_report(kept, rollout)))
    elif not rollout.state.over:
        click.echo(f"{name} is not over: edge-fleet rollouts run leads it on", err=True)
    if not rollout.state.over:
        sys.exit(left)
    sys.exit(0 if rollout.state.phase == "finished" else EXIT_RETURNED)


def _report(kept: Rollouts, rollout: Rollout) -> Report:
    from edge_agent.fleet.rollout.devices import count
    from edge_agent.fleet.rollout.views import report

    counts = count(rollout.plan, kept.members(rollout.name))
    return report(rollout, counts, kept.history(rollout.name))


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set, so that the work ends in order."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
