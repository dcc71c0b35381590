"""The demo from beginning to end."""

from __future__ import annotations

import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import click

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import encode
from edge_agent.demo.programs import StepError, console
from edge_agent.demo.scoring import Score, score
from edge_agent.demo.stage import Outage, Stage
from edge_agent.demo.summary import Delivery, Figures, faults, format_text, make_figures
from edge_agent.demo.tape import TRUTH_COLUMN
from edge_agent.demo.training import HOP, LENGTH
from edge_agent.demo.workshop import REPLAYED, Desk, Plan, Say, conversion, prepare, say_built

_RESULT: Final = b"RESULT "
_CONVERT_S: Final = 300.0
_STEP_S: Final = 60.0  # longest that the play waits beyond what it should take


def run(out: Path, json_file: Path | None, plan: Plan | None = None) -> int:
    """Run the demo. The main thread.

    Args:
        out: folder for everything that it makes; an earlier demo in it is replaced.
        json_file: also write the figures there.
        plan: how long what takes; by default as the demo is meant to be seen.

    Returns:
        0, or 1 when something was lost or missed, which is said.

    Raises:
        EdgeError: a step failed.
    """
    began, plan = time.monotonic(), plan or Plan()
    if json_file and not json_file.parent.is_dir():
        raise ConfigError(f"--json: there is no folder {json_file.parent}")

    def say(text: str) -> None:
        click.echo(f"[{time.monotonic() - began:5.1f} s] {text}")

    with _terminable():
        desk = prepare(out, plan, say)
        _build(desk, say)
        with Stage(desk, plan.brokers, say) as stage:
            outage = _play(stage, desk, plan, say)
            figures = _measure(stage, desk, outage, say, began)
    wrong = faults(figures, due=len(desk.tape.due(LENGTH, HOP)), versions=2)
    click.echo(f"\n{format_text(figures)}\n\n{_go_on(desk)}\n")
    for sentence in wrong:
        click.echo(f"edge-agent: demo: {sentence}: see {desk.files.logs}", err=True)
    data = encode(figures)
    if json_file:
        json_file.write_bytes(data + b"\n")
    click.echo(_RESULT + data)
    return 1 if wrong else 0


def _build(desk: Desk, say: Say) -> None:
    """Build both bundles, at once: the second is only pushed later."""
    both = (desk.first, desk.second)
    say(
        "building both: "
        + ", ".join(f"edge-convert build {desk.files.recipe(v).name}" for v in both)
    )
    programs = [conversion(version, desk.files) for version in both]
    with ExitStack() as stack:
        for program in programs:
            stack.callback(program.end)
            program.start()
        for program in programs:
            program.wait(_CONVERT_S)
    for program in programs:
        say_built(program.result(), say)


def _play(stage: Stage, desk: Desk, plan: Plan, say: Say) -> Outage:
    """Everything from the first push until the device has taken the second version."""
    first, second = desk.first, desk.second
    say(f"{stage.broker_kind}, a collector and the agent run; the agent waits for a model")
    report = stage.push(first)
    say(f"{first.number} pushed over MQTT, {report['bytes']} bytes; the device has taken it")
    say(
        f"{desk.tape.seconds:.0f} s of subject {REPLAYED}, whom neither model knows, begin at "
        "the real rate; <> marks a decision other than the truth"
    )
    stage.follow(lambda: stage.position_s >= plan.before_s, most_s=plan.before_s + _STEP_S)
    stage.cut_broker()
    say(f"the broker is killed; for {plan.outage_s:g} s the device is alone")
    until = time.monotonic() + plan.outage_s
    stage.follow(lambda: time.monotonic() >= until, most_s=plan.outage_s + _STEP_S)
    outage = stage.restore_broker()
    say(f"the broker is back, after {outage.seconds:.1f} s")
    say(f"pushing {second.number} to the running device")
    report = stage.push(second)
    say(f"{second.number} pushed over MQTT, {report['bytes']} bytes; the device has taken it")
    return outage


def _measure(stage: Stage, desk: Desk, outage: Outage, say: Say, began: float) -> Figures:
    """Let the recording end, and compare what was collected with what should be."""
    produced, report = stage.finish()
    say("the recording is over, the agent has ended by itself, then the collector was stopped")
    decisions, metrics = stage.collected.decisions(), stage.collected.metrics()
    if metrics is None:
        raise StepError(f"no metrics record was collected: see {desk.files.logs}")
    delivery = Delivery(
        produced=produced,
        received=report["received"],
        lost=produced - report["received"] + report["unsequenced"],
        offline_s=outage.seconds,
        offline_windows=sum(outage.first_t <= d.t <= outage.last_t for d in decisions),
    )
    originals = {item.number: item.estimator.predict for item in (desk.first, desk.second)}
    found: Score = score(decisions, desk.tape, originals, length=LENGTH, hop=HOP)
    return make_figures(
        found,
        delivery,
        metrics.latency_us,
        broker=stage.broker_kind,
        elapsed_s=time.monotonic() - began,
    )


def _go_on(desk: Desk) -> str:
    """Three commands that work as they are printed."""
    files, second = desk.files, desk.second
    replay = ("replay", files.bundle(second), files.recording, "--labels", TRUTH_COLUMN)
    commands = [
        ("the same decisions, without any broker", "edge-agent", *replay),
        (
            "change the recipe or the model, and build again",
            "edge-convert",
            "build",
            files.recipe(second),
        ),
        (
            "the agent on its own; put your broker and sensor into its file",
            "edge-agent",
            "run",
            files.config,
        ),
    ]
    lines = [f"Go on from {files.out}:"]
    for why, name, *arguments in commands:
        lines += [f"  # {why}", f"  {_typed(str(name), *arguments)}"]
    return "\n".join(lines)


def _typed(name: str, *arguments: str | Path) -> str:
    """A command as one would type it here: by name where the shell finds this very one."""
    command = console(name, *arguments)
    program = Path(command[0])
    if shutil.which(name) == command[0]:
        command[0] = name
    elif program.is_relative_to(Path.cwd()):
        command[0] = str(program.relative_to(Path.cwd()))
    return shlex.join(command)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that what it started ends too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
