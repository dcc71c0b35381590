"""The stage: broker, collector and agent, as processes, and what an observer sees of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from edge_agent.contract.messages import Decision
from edge_agent.demo.broker import LocalBroker
from edge_agent.demo.programs import Program, StepError, console
from edge_agent.demo.recording import RATE_HZ
from edge_agent.demo.training import Version
from edge_agent.demo.witness import Collected, Kept, look_into
from edge_agent.demo.workshop import DEVICE, Desk, Say, sign_for, write_config

_POLL_S: Final = 0.25
_LINE_EVERY: Final = round(RATE_HZ)  # readings between two lines
_SILENT_S: Final = 30.0  # without a new decision, something is wrong
_PUSH_S: Final = 75.0
_ARRIVE_S: Final = 15.0


class Outage(msgspec.Struct, frozen=True):
    """When there was no broker, in seconds since 1970."""

    first_t: float
    last_t: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.last_t - self.first_t


class Stage:
    """A context manager: everything runs within it, and nothing is left running behind it.

    Args:
        desk: what was prepared.
        brokers: see :class:`~edge_agent.demo.workshop.Plan`.
        say: takes one line for people.
    """

    def __init__(self, desk: Desk, brokers: Sequence[str], say: Say) -> None:
        files = desk.files
        self._desk, self._say = desk, say
        self._broker = LocalBroker(files.broker, files.logs, brokers)
        self._fleet = ("--broker", self._broker.url)
        write_config(files, self._broker.url)
        sign_for(files)
        collect = console("edge-fleet", "collect", "--to", files.collected, "--json", *self._fleet)
        self._collector = Program("collector", collect, files.logs)
        self._agent = Program("agent", console("edge-agent", "run", files.config), files.logs)
        self._stack = ExitStack()
        self._away_since: float | None = None
        self._newest: Decision | None = None
        self._shown = 0
        self.collected = Collected(files.collected, DEVICE)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._broker.end)
            self._broker.start()
            for program in (self._collector, self._agent):
                stack.callback(program.end)
                program.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def broker_kind(self) -> str:
        """Name of the broker's program."""
        return self._broker.kind

    @property
    def position_s(self) -> float:
        """How far into the recording the newest known decision is."""
        return self._newest.reading / RATE_HZ if self._newest else 0.0

    def push(self, version: Version) -> dict[str, Any]:
        """Publish a version and follow the device until it has judged it.

        Returns:
            The report of ``edge-fleet publish``.

        Raises:
            StepError: the device has not taken it.
        """
        bundle = self._desk.files.bundle(version)
        signed = ("--repo", self._desk.files.fleet, "--keys", self._desk.files.keys, "--yes")
        command = console(
            "edge-fleet", "publish", bundle, "--to", DEVICE, "--json", *signed, *self._fleet
        )
        program = Program(f"publish-{version.number}", command, self._desk.files.logs)
        self._stack.callback(program.end)
        program.start()
        self.follow(lambda: not program.running, most_s=_PUSH_S)
        program.wait(0)
        report = program.result()
        if report["committed"] != 1:
            raise StepError(f"the device has not taken {version.number}: {report['devices']}")
        return report

    def follow(self, until: Callable[[], bool], *, most_s: float) -> None:
        """Show decisions beside the truth until something has happened.

        Raises:
            StepError: it does not happen in time, or a program has ended that should run.
        """
        end = time.monotonic() + most_s
        while not until():
            self._require()
            if time.monotonic() > end:
                raise StepError(f"nothing goes on: look into {self._desk.files.logs}")
            time.sleep(_POLL_S)
            self._look()

    def cut_broker(self) -> None:
        """Let the broker die as in a power cut."""
        self._broker.cut()
        self._away_since = time.time()

    def restore_broker(self) -> Outage:
        """Start it again, on the same port and storage; how long it was away."""
        assert self._away_since is not None, "cut before"
        self._broker.start()
        outage = Outage(self._away_since, time.time())
        self._away_since = None
        return outage

    def finish(self) -> tuple[int, dict[str, Any]]:
        """Follow until the recording is over and the agent has ended, then end the collector.

        Returns:
            How many records the device has produced, and the collector's report.

        Raises:
            StepError: the agent or the collector has not ended well.
        """
        left_s = self._desk.tape.seconds - self.position_s
        self.follow(lambda: not self._agent.running, most_s=left_s + _SILENT_S)
        self._agent.wait(0)
        kept = self._kept()
        if kept is None:
            raise StepError(f"the agent has left no outbox in {self._desk.files.device}")
        until = time.monotonic() + _ARRIVE_S
        while self.collected.count() < kept.produced and time.monotonic() < until:
            self._collector.require_running()
            time.sleep(_POLL_S)
        self._collector.end()
        self._collector.wait(0)
        return kept.produced, self._collector.result()

    # --- what is seen ----------------------------------------------------------------------------

    def _look(self) -> None:
        """Take in the newest decision, and show it when a second has passed since the last.

        What the collector does not have yet is looked for on the device itself.
        """
        kept: Kept | None = None
        if not self._is_news(seen := self.collected.newest()):
            kept = self._kept()
            seen = kept.newest if kept else None
        if seen is None or not self._is_news(seen):
            return
        self._newest = seen
        if seen.reading < self._shown + _LINE_EVERY:
            return
        self._shown = seen.reading
        where = [f"{self.collected.count()} received"]
        if kept:
            where.append(f"{kept.waiting} wait on the device")
        if self._away_since is not None:
            where.append(f"broker away {time.time() - self._away_since:.0f} s")
        self._say(self._line(seen, ", ".join(where)))

    def _is_news(self, seen: Decision | None) -> bool:
        """Whether it came after the newest that is known."""
        return seen is not None and (self._newest is None or seen.reading > self._newest.reading)

    def _line(self, decision: Decision, where: str) -> str:
        truth = str(self._desk.tape.truth[decision.reading - 1])
        mark = "  " if decision.label == truth else "<>"
        return (
            f"  at {decision.reading / RATE_HZ:4.1f} s  truth {truth:4} {mark} device "
            f"{decision.label:4} {decision.score:.2f}  by {decision.model}  {where}"
        )

    def _kept(self) -> Kept | None:
        return look_into(self._desk.files.outbox)

    def _require(self) -> None:
        """What has to run runs; the agent may have come to the end of its recording."""
        self._collector.require_running()
        if self._away_since is None:
            self._broker.require_running()
        if not self._agent.running:
            self._agent.wait(0)
