"""Model updates: takes orders and leads each through the states below."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import msgspec

from edge_agent.clock import Clock
from edge_agent.config import UpdateConfig
from edge_agent.contract.errors import BundleError, InferenceError, LinkError, StorageError
from edge_agent.contract.experiment import Truth
from edge_agent.contract.messages import (
    Desired,
    Record,
    UpdateReport,
    UpdateState,
    decode,
)
from edge_agent.contract.topics import Topics
from edge_agent.infer import Model
from edge_agent.link import Denied, Down, Event, Message, Port, Published, Up, take_events
from edge_agent.update.field_test import Target
from edge_agent.update.job import Job, installed
from edge_agent.update.orders import Orders
from edge_agent.update.pointer import Journal
from edge_agent.update.recovery import Recovery, refusal_of
from edge_agent.update.reports import Reports
from edge_agent.update.states import TRANSITIONS
from edge_agent.update.store import Store
from edge_agent.update.trust.check import TrustCheck
from edge_agent.update.wanted import Wanted
from edge_agent.update.ways import make_ways
from edge_agent.update.ways.base import Answer, Blob

log = logging.getLogger(__name__)

_NS: Final = 1_000_000_000
_TURN_S: Final = 0.25
_CHILD_TURN_S: Final = 0.01  # while a child process or a pipeline is about to answer
_DISK_S: Final = 30.0  # after the disk has refused
_EVENTS_N: Final = 64  # taken in one step
_TRUST_S: Final = 300.0  # for a trust check, downloads included
_REMIND_S: Final = 3600.0  # between two warnings that nothing is signed
_WAKE: Final = Published(0)  # an event that only wakes the thread


class Updater:
    """Takes new models over. ``run`` is the body of its thread; ``reports`` is for any thread.

    Args:
        store: the bundles on disk.
        trust: folder for what is believed.
        port: of the link; None for a device without one.
        topics: names of the topics.
        device: this device's id.
        groups: that it belongs to.
        targets: the pipelines of each model.
        report: gets every state that an update enters, once, and the figures of comparisons;
            must not wait.
        config: bounds.
        clock: the time.
        at_once: whether somebody stands by, so that no order waits for its random start.

    Raises:
        StorageError: a pointer cannot be read.
    """

    def __init__(
        self,
        *,
        store: Store,
        trust: Path,
        port: Port | None,
        topics: Topics,
        device: str,
        groups: Sequence[str],
        targets: Mapping[str, Sequence[Target]],
        report: Callable[[Record], None],
        config: UpdateConfig,
        clock: Clock,
        at_once: bool = False,
    ) -> None:
        self._store, self._port, self._at_once = store, port, at_once
        self._device, self._targets = device, targets
        self._config, self._clock = config, clock
        self._reports = Reports(report, clock)
        self._recovery = Recovery(store, self._reports, targets, config.trial)
        names = {topics.desired_for_device(device, model): model for model in targets}
        for group in groups:
            names |= {topics.desired_for_group(group, model): model for model in targets}
        self._wanted = Wanted(names, answer_s=config.answer_s)
        self._events: SimpleQueue[Event] = port.events if port else SimpleQueue()
        self._way = make_ways(
            config.ways if config.enabled else (),
            port=port,
            topics=topics,
            device=device,
            wake=lambda: self._events.put(_WAKE),
        )
        self._truth_topic, self._hears_truth = topics.truth(device), False
        self._answers: list[Answer] = []  # for the next step
        self._orders = self._make_orders(trust, groups) if config.root_file else None
        self._remind_ns = 0
        self._malformed: dict[str, str] = {}  # topic or model -> fault, to say it once
        self._jobs: dict[str, Job] = {}
        self._next: dict[str, Desired] = {}  # ordered during a trial
        self._collect_ns: int | None = None  # when to free the disk; None for no need
        self._settled = {model: self._open(model) for model in targets}  # highest revision

    def initial(self, model: str) -> Model | None:
        """What a pipeline is to start with; before ``run``. Every call loads a model of its own.

        A bundle that was on trial goes on being tried; else see :meth:`.Recovery.load`.

        Raises:
            StorageError: the disk refused.
        """
        job = self._jobs.get(model)
        if job and job.journal.state == "trial":
            try:
                return Model.load(self._store.read(job.desired.sha256))
            except (BundleError, InferenceError) as exc:
                self._end_trial(job, str(exc))
        loaded = self._recovery.load(model)
        self._settled[model] = self._store.pointer(model).revision
        return loaded

    def reports(self) -> tuple[UpdateReport, ...]:
        """The latest report of each model; ``reason`` also says what an update waits for."""
        return self._reports.latest

    @property
    def trust(self) -> str:
        """Whom the device believes, for the status: ``signed``, ``unsigned``, or what is wrong."""
        if self._orders is not None:
            return self._orders.fault or "signed"
        return "unsigned" if self._config.enabled and self._config.unsigned else ""

    @property
    def checked(self) -> bool:
        """Whether signed orders were looked at since the start; ``trust`` says what was found."""
        return self._orders is not None and self._orders.checked

    def run(self, stop: threading.Event) -> None:
        """Update models until ``stop`` is set."""
        if not self._config.enabled:
            stop.wait()
            return
        try:
            while not stop.is_set():
                self.step(wait_s=_CHILD_TURN_S if self._watches else _TURN_S)
        finally:
            self.pause()

    def step(self, wait_s: float = 0.0) -> None:
        """One bounded round: take what has arrived, move every update on, ask for what is due.

        Args:
            wait_s: longest wait for something to arrive.
        """
        wait_s = 0.0 if self._answers else wait_s
        for event in take_events(self._events, n_max=_EVENTS_N, wait_s=wait_s):
            self._on_event(event)
        now_ns = self._clock.monotonic_ns()
        for answer in (*self._answers, *self._way.answers()):
            self._on_answer(answer, now_ns)
        self._take_orders(now_ns)
        self._collect(now_ns)
        for job in list(self._jobs.values()):
            self._move(job, now_ns)
        self._ask(now_ns)
        self._answers = self._way.answers()  # some ways answer within the question

    def pause(self) -> None:
        """An orderly end: what was fetched is kept, and a trial that goes on is no crash.

        For whoever calls ``step``; ``run`` ends so by itself.
        """
        for job in self._jobs.values():
            if job.fetch:
                with suppress(StorageError):  # costs only fetching the last chunks again
                    job.fetch.partial.sync()
            with suppress(StorageError):  # costs only the figures of the last minute
                job.save(self._clock.monotonic_ns())
            job.pause()
            if job.journal.state == "trial":
                with suppress(StorageError):  # costs only one of the starts that are allowed
                    self._store.record(
                        job.desired.model, msgspec.structs.replace(job.journal, tries=0)
                    )
        if self._orders:
            self._orders.close()
        self._way.close()

    @property
    def _watches(self) -> bool:
        """Whether something is to be looked at that puts no event on the queue."""
        checks = self._orders is not None and self._orders.busy
        return checks or any(job.watches for job in self._jobs.values())

    # --- what has arrived ---

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Up | Down):
            self._wanted.connected()
            self._hears_truth = False
            for job in self._jobs.values():
                if job.fetch:
                    job.fetch.lost()
        if self._way.take(event):
            return
        match event:
            case Message(topic=topic, payload=payload):
                if model := self._wanted.model(topic):
                    self._on_hint(model, topic, payload)
                elif topic == self._truth_topic:
                    self._on_truth(payload)
            case Denied(topic=topic, reason=reason):
                log.warning("the broker denies a subscription to %s: %s", topic, reason)

    def _on_hint(self, model: str, topic: str, payload: bytes) -> None:
        """Look at the signed metadata; unsigned, believe it."""
        try:
            desired = self._wanted.read(topic, payload)
        except BundleError as exc:
            self._complain(topic, model, str(exc))
            return
        self._malformed.pop(topic, None)
        if self._orders is not None:
            self._orders.hint()
        elif desired is not None and self._config.unsigned:
            self._on_desired(model, desired)

    def _on_truth(self, payload: bytes) -> None:
        """Labels are taken while there is something to compare."""
        try:
            truth = decode(payload, Truth)
        except LinkError as exc:
            log.warning("a label is left out: %s", exc)
            return
        if truth.fault:
            log.warning("a label is left out: %s", truth.fault)
            return
        for job in self._jobs.values():
            job.learn(truth)

    def _take_orders(self, now_ns: int) -> None:
        if self._orders is None:
            self._remind(now_ns)
            return
        verdict = self._orders.step(now_ns)
        if verdict is None:
            return
        for model, desired in verdict.desired.items():
            self._malformed.pop(model, None)
            self._on_desired(model, desired)
        for model, fault in verdict.refused.items():
            self._complain(model, model, fault)

    def _on_desired(self, model: str, desired: Desired) -> None:
        """A higher revision than any before starts an update, and ends one that is under way."""
        running = self._jobs.get(model)
        floor = max(self._settled[model], running.desired.revision if running else 0)
        if (later := self._next.get(model)) is not None:
            floor = max(floor, later.revision)
        if desired.revision <= floor:
            return
        if running:
            if running.journal.state == "trial":
                self._next[model] = desired  # it ends first: only the model before is proven
                return
            self._drop(running)
        journal = Journal(desired=desired, state="offered")
        try:
            self._store.record(model, journal)
        except StorageError as exc:  # the order comes again
            log.error("the update of %s waits: %s", model, exc)  # noqa: TRY400 - it says all
            return
        self._jobs[model] = self._make_job(journal)
        self._collect_ns = 0
        self._reports.enter(model, desired, "offered")

    def _complain(self, about: str, model: str, fault: str) -> None:
        """Say it once: orders come again and again."""
        if self._malformed.get(about) != fault:
            self._malformed[about] = fault
            log.error("%s is refused: %s", about, fault)
            self._reports.enter(model, None, "refused", fault)

    def _on_answer(self, answer: Answer, now_ns: int) -> None:
        if not isinstance(answer.want, Blob):
            if self._orders:
                self._orders.take(answer)
            return
        for job in list(self._jobs.values()):
            try:
                if job.fetch and answer.data is None:
                    job.fetch.absent(answer.want.sha256, now_ns)
                elif job.fetch and answer.data is not None:
                    job.fetch.take(answer.want.sha256, answer.data, now_ns)
            except BundleError as exc:
                self._refuse(job, str(exc), now_ns)
            except StorageError as exc:
                self._postpone(job, exc, now_ns)

    def _ask(self, now_ns: int) -> None:
        """Ask for what is due; all updates share one window."""
        if self._port and self._port.connected and (topics := self._wanted.due(now_ns)):
            self._port.subscribe(topics)
        self._listen_for_truth()
        if not self._way.ready:
            return
        fetches = [job.fetch for job in self._jobs.values() if job.fetch]
        for fetch in fetches:
            plan = fetch.plan(now_ns, max(1, self._config.window_n // len(fetches)))
            if plan.drop:
                self._way.drop(plan.drop)
            if plan.ask:
                self._way.ask(plan.ask)

    def _listen_for_truth(self) -> None:
        compares = any(job.journal.state == "comparing" for job in self._jobs.values())
        if compares and not self._hears_truth and self._port and self._port.connected:
            self._port.subscribe([self._truth_topic])
            self._hears_truth = True

    def _remind(self, now_ns: int) -> None:
        if self._config.enabled and self._config.unsigned and now_ns >= self._remind_ns:
            self._remind_ns = now_ns + round(_REMIND_S * _NS)
            log.warning(
                "UNSIGNED: this device runs any model that the broker names. For development only"
            )

    # --- an update on its way ---

    def _move(self, job: Job, now_ns: int) -> None:
        """Lead one update on until it has to wait for something."""
        earlier = takewhile(lambda other: other is not job, self._jobs.values())
        if any(other.desired.sha256 == job.desired.sha256 for other in earlier):
            return  # two models ask for one bundle, which can be only one's: the first goes first
        try:
            while now_ns >= job.retry_ns and (state := job.advance(now_ns)):
                self._enter(job, state)
                if job not in self._jobs.values():
                    break
        except (BundleError, InferenceError) as exc:
            if job.journal.state == "trial":
                self._go_back(job, str(exc), now_ns)
            else:
                self._refuse(job, str(exc), now_ns)
        except StorageError as exc:
            self._postpone(job, exc, now_ns)
        if job in self._jobs.values():
            self._reports.note(job.desired, job.journal.state, job.note)

    def _enter(self, job: Job, state: UpdateState, reason: str = "") -> None:
        """On disk first, then in memory; then it is told.

        Raises:
            StorageError: the disk refused; nothing has changed.
        """
        now, desired = job.journal.state, job.desired
        assert state in TRANSITIONS[now], f"there is no way from {now} to {state}"
        if self._was_replaced(job, state):
            self._drop(job)
            self._reports.enter(desired.model, desired, "refused", "another was installed by hand")
            return
        if state == "committed":
            self._store.commit(desired.model, installed(desired))
        elif TRANSITIONS[state]:
            journal = msgspec.structs.replace(job.journal, state=state, tries=1)
            self._store.record(desired.model, journal)
        if job.fetch and state != "fetching":
            self._way.drop(job.fetch.asked)
            job.fetch = None
        job.journal, job.note = msgspec.structs.replace(job.journal, state=state, tries=1), ""
        self._reports.enter(desired.model, desired, state, reason)
        if not TRANSITIONS[state]:
            self._settled[desired.model] = desired.revision
            self._drop(job)
            if (later := self._next.pop(desired.model, None)) is not None:
                self._on_desired(desired.model, later)

    def _was_replaced(self, job: Job, state: UpdateState) -> bool:
        """Whether somebody has installed a bundle by hand since this update began."""
        if state in ("refused", "rolled_back"):  # the pointer says so already
            return False
        journal = self._store.pointer(job.desired.model).update
        return journal is None or journal.desired.revision != job.desired.revision

    def _refuse(self, job: Job, reason: str, now_ns: int) -> None:
        """Remember the refusal, then enter it."""
        try:
            self._store.refuse(job.desired.model, refusal_of(job.desired, reason))
        except StorageError as exc:
            self._postpone(job, exc, now_ns)
            return
        log.error("%s %s is refused: %s", job.desired.model, job.desired.version, reason)
        self._enter(job, "refused", reason)

    def _go_back(self, job: Job, reason: str, now_ns: int) -> None:
        """The trial has failed: the model before decides again, and this one is not taken again."""
        try:
            self._end_trial(job, reason)
        except StorageError as exc:
            self._postpone(job, exc, now_ns)
            return
        try:
            job.go_back()
        except (BundleError, InferenceError, StorageError) as exc:
            # The pipelines go on with what they have; the next start finds what is whole.
            log.error("the model before cannot be loaded: %s", exc)  # noqa: TRY400 - it says all

    def _end_trial(self, job: Job, reason: str) -> None:
        desired = job.desired
        refusal = msgspec.structs.replace(refusal_of(desired, reason), trial=True)
        self._store.refuse(desired.model, refusal)
        log.error("%s %s is rolled back: %s", desired.model, desired.version, reason)
        self._enter(job, "rolled_back", reason)

    def _postpone(self, job: Job, exc: StorageError, now_ns: int) -> None:
        """The disk may have room again later: what is on it stays, the same state goes on."""
        self._let_go(job)
        job.retry_ns = now_ns + round(_DISK_S * _NS)
        if job.note != str(exc):
            job.note = str(exc)
            log.error("the update of %s waits: %s", job.desired.model, job.note)
            self._reports.enter(job.desired.model, job.desired, job.journal.state, job.note)

    def _drop(self, job: Job) -> None:
        self._let_go(job)
        del self._jobs[job.desired.model]
        self._collect_ns = 0

    def _let_go(self, job: Job) -> None:
        if job.fetch:
            self._way.drop(job.fetch.asked)
        job.pause()

    # --- the store ---

    def _open(self, model: str) -> int:
        """Take up where the pointer ends; returns the revision that it settled."""
        journal = self._recovery.open(model, resume=self._config.enabled)
        if journal is not None:
            self._jobs[model] = self._make_job(journal, is_running=journal.state == "trial")
        return self._store.pointer(model).revision

    def _make_job(self, journal: Journal, *, is_running: bool = False) -> Job:
        if self._at_once:
            desired = msgspec.structs.replace(journal.desired, start_within_s=0)
            journal = msgspec.structs.replace(journal, desired=desired)
        return Job(
            journal,
            device=self._device,
            store=self._store,
            targets=self._targets[journal.desired.model],
            config=self._config,
            reports=self._reports,
            is_running=is_running,
        )

    def _make_orders(self, trust: Path, groups: Sequence[str]) -> Orders:
        def check() -> TrustCheck:
            return TrustCheck(
                trust,
                root=Path(self._config.root_file or ""),
                device=self._device,
                groups=groups,
                models=tuple(self._targets),
                seconds=_TRUST_S,
                now=self._clock.wall(),
            )

        config = self._config
        return Orders(self._way, check, answer_s=config.answer_s, check_s=config.check_s)

    def _collect(self, now_ns: int) -> None:
        """Free the disk of what no pointer names and no update brings."""
        if self._collect_ns is None or now_ns < self._collect_ns:
            return
        try:
            wanted = [job.desired for job in self._jobs.values()]
            payloads = {payload.sha256 for desired in wanted for payload in desired.payloads}
            self._store.collect({desired.sha256 for desired in wanted} | payloads)
            self._collect_ns = None
        except StorageError as exc:  # costs only space: tried again
            log.warning("old bundles cannot be removed: %s", exc)
            self._collect_ns = now_ns + round(_DISK_S * _NS)
