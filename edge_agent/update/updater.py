"""Model updates: listens for desired states and leads each through the states below."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Final

from edge_agent.clock import Clock
from edge_agent.config import UpdateConfig
from edge_agent.contract.errors import BundleError, InferenceError, StorageError
from edge_agent.contract.messages import Desired, UpdateReport, UpdateState
from edge_agent.contract.topics import Topics
from edge_agent.infer import Model
from edge_agent.link import Denied, Down, Event, Message, Port, Up, take_events
from edge_agent.update.job import Job, Target
from edge_agent.update.pointer import Installed, Refusal
from edge_agent.update.reports import Reports
from edge_agent.update.store import Store
from edge_agent.update.wanted import Wanted

log = logging.getLogger(__name__)

TRANSITIONS: Final[Mapping[UpdateState, tuple[UpdateState, ...]]] = {
    # state       next states                            until then (job.py)
    "offered": ("fetching", "committed", "refused"),  # runs already? are the sizes sound?
    "fetching": ("verified", "refused"),  # chunks to disk; digest, manifest, channels checked
    "verified": ("probing",),  # the child process is started
    "probing": ("staged", "refused"),  # golden vectors in the child; then loaded here
    "staged": ("committed", "refused"),  # pointer to disk, swap, until every pipeline has it
    "committed": (),
    "refused": (),  # remembered: only a higher revision has it tried again
}

_NS: Final = 1_000_000_000
_TURN_S: Final = 0.25
_DISK_S: Final = 30.0  # after the disk has refused
_EVENTS_N: Final = 64  # taken in one step


class Updater:
    """Takes new models over. ``run`` is the body of its thread; ``reports`` is for any thread.

    Args:
        store: the bundles on disk.
        port: of the link; None never listens.
        topics: names of the topics.
        device: this device's id.
        groups: that it belongs to.
        targets: the pipelines of each model.
        report: gets every state that an update enters, once; must not wait.
        config: bounds.
        clock: the time.

    Raises:
        StorageError: a pointer cannot be read.
    """

    def __init__(
        self,
        *,
        store: Store,
        port: Port | None,
        topics: Topics,
        device: str,
        groups: Sequence[str],
        targets: Mapping[str, Sequence[Target]],
        report: Callable[[UpdateReport], None],
        config: UpdateConfig,
        clock: Clock,
    ) -> None:
        self._store, self._port, self._topics = store, port, topics
        self._targets, self._config, self._clock = targets, config, clock
        self._reports = Reports(report, clock)
        names = {topics.desired_for_device(device, model): model for model in targets}
        for group in groups:
            names |= {topics.desired_for_group(group, model): model for model in targets}
        self._wanted = Wanted(names, answer_s=config.answer_s)
        self._malformed: dict[str, str] = {}  # topic -> fault, to say it once
        self._jobs: dict[str, Job] = {}
        self._collect_ns: int | None = None  # when to free the disk; None for no need
        self._settled = {model: self._open(model) for model in targets}  # highest revision

    def initial(self, model: str) -> Model | None:
        """What a pipeline is to start with; before ``run``. Every call loads a model of its own.

        A current bundle that is damaged or does not load gives way to the previous one, for good
        and reported. One that does not fit a pipeline stays, since it is the configuration that
        has changed: there is no model then.

        Raises:
            StorageError: the disk refused.
        """
        while (current := self._store.pointer(model).current) is not None:
            try:
                bundle = self._store.read(current.sha256)
                faults = (target.misfit(bundle.manifest) for target in self._targets[model])
                if fault := next(filter(None, faults), None):
                    log.error("%s %s cannot be used: %s", model, current.version, fault)
                    self._reports.enter(model, current, "refused", fault)
                    return None
                return Model.load(bundle)
            except (BundleError, InferenceError) as exc:
                self._fall_back(model, current, str(exc))
        return None

    def reports(self) -> tuple[UpdateReport, ...]:
        """The latest report of each model; ``reason`` also says what an update waits for."""
        return self._reports.latest

    def run(self, stop: threading.Event) -> None:
        """Update models until ``stop`` is set."""
        if self._port is None:
            stop.wait()
            return
        try:
            while not stop.is_set():
                self.step(wait_s=_TURN_S)
        finally:
            for job in self._jobs.values():
                if job.fetch:
                    with suppress(StorageError):  # costs only fetching the last chunks again
                        job.fetch.partial.sync()
                job.pause()

    def step(self, wait_s: float = 0.0) -> None:
        """One bounded round: take what has arrived, move every update on, ask for what is due.

        Args:
            wait_s: longest wait for something to arrive.
        """
        if (port := self._port) is None:
            return
        for event in take_events(port.events, n_max=_EVENTS_N, wait_s=wait_s):
            self._on_event(event)
        now_ns = self._clock.monotonic_ns()
        self._collect(now_ns)
        for job in list(self._jobs.values()):
            self._move(job, now_ns)
        if port.connected:
            self._ask(port, now_ns)

    # --- what has arrived ---

    def _on_event(self, event: Event) -> None:
        match event:
            case Up() | Down():
                self._wanted.connected()
                for job in self._jobs.values():
                    if job.fetch:
                        job.fetch.lost()
            case Message(topic=topic, payload=payload):
                if model := self._wanted.model(topic):
                    self._on_desired(model, topic, payload)
                else:
                    self._on_blob(topic.removeprefix(self._topics.blob("")), payload)
            case Denied(topic=topic, reason=reason):
                log.warning("the broker denies a subscription to %s: %s", topic, reason)

    def _on_desired(self, model: str, topic: str, payload: bytes) -> None:
        """A higher revision than any before starts an update, and ends one that is under way."""
        try:
            desired = self._wanted.read(topic, payload)
        except BundleError as exc:
            self._on_malformed(model, topic, str(exc))
            return
        self._malformed.pop(topic, None)
        running = self._jobs.get(model)
        floor = max(self._settled[model], running.desired.revision if running else 0)
        if desired is None or desired.revision <= floor:
            return
        if running:
            self._drop(running)
        self._jobs[model] = Job(desired, self._store, self._targets[model], self._config)
        self._collect_ns = 0
        self._reports.enter(model, desired, "offered")

    def _on_malformed(self, model: str, topic: str, fault: str) -> None:
        """Say it once: a retained message comes again after every reconnect."""
        if self._malformed.get(topic) != fault:
            self._malformed[topic] = fault
            log.error("%s is refused: %s", topic, fault)
            self._reports.enter(model, None, "refused", fault)

    def _on_blob(self, digest: str, payload: bytes) -> None:
        now_ns = self._clock.monotonic_ns()
        for job in list(self._jobs.values()):
            try:
                if job.fetch:
                    job.fetch.take(digest, payload, now_ns)
            except BundleError as exc:
                self._refuse(job, str(exc), now_ns)
            except StorageError as exc:
                self._postpone(job, exc, now_ns)

    def _ask(self, port: Port, now_ns: int) -> None:
        """Subscribe what is due; all updates share one window."""
        if topics := self._wanted.due(now_ns):
            port.subscribe(topics)
        fetches = [job.fetch for job in self._jobs.values() if job.fetch]
        for fetch in fetches:
            plan = fetch.plan(now_ns, max(1, self._config.window_n // len(fetches)))
            if plan.unsubscribe:
                port.unsubscribe([self._topics.blob(digest) for digest in plan.unsubscribe])
            if plan.subscribe:
                port.subscribe([self._topics.blob(digest) for digest in plan.subscribe])

    # --- an update on its way ---

    def _move(self, job: Job, now_ns: int) -> None:
        """Lead one update on until it has to wait for something."""
        earlier = takewhile(lambda other: other is not job, self._jobs.values())
        if any(other.desired.sha256 == job.desired.sha256 for other in earlier):
            return  # two models ask for one bundle, which can be only one's: the first goes first
        try:
            while now_ns >= job.retry_ns and (state := job.advance(now_ns)):
                self._enter(job, state)
        except (BundleError, InferenceError) as exc:
            self._refuse(job, str(exc), now_ns)
        except StorageError as exc:
            self._postpone(job, exc, now_ns)
        if job in self._jobs.values():
            self._reports.note(job.desired, job.state, job.note)

    def _enter(self, job: Job, state: UpdateState, reason: str = "") -> None:
        assert state in TRANSITIONS[job.state], f"there is no way from {job.state} to {state}"
        job.state, job.note = state, ""
        self._reports.enter(job.desired.model, job.desired, state, reason)
        if not TRANSITIONS[state]:
            self._settled[job.desired.model] = job.desired.revision
            self._drop(job)

    def _refuse(self, job: Job, reason: str, now_ns: int) -> None:
        """Remember the refusal, then enter it; what is current already is given up."""
        model = job.desired.model
        refusal = _refusal(job.desired, reason)
        try:
            current = self._store.pointer(model).current
            if current and current.sha256 == refusal.sha256:
                self._store.fall_back(model, refusal)
            else:
                self._store.refuse(model, refusal)
        except StorageError as exc:
            self._postpone(job, exc, now_ns)
            return
        log.error("%s %s is refused: %s", model, refusal.version, reason)
        self._enter(job, "refused", reason)

    def _postpone(self, job: Job, exc: StorageError, now_ns: int) -> None:
        """The disk may have room again later: what is on it stays, the same state goes on."""
        self._let_go(job)
        job.retry_ns = now_ns + round(_DISK_S * _NS)
        if job.note != str(exc):
            job.note = str(exc)
            log.error("the update of %s waits: %s", job.desired.model, job.note)
            self._reports.enter(job.desired.model, job.desired, job.state, job.note)

    def _drop(self, job: Job) -> None:
        self._let_go(job)
        del self._jobs[job.desired.model]
        self._collect_ns = 0

    def _let_go(self, job: Job) -> None:
        if job.fetch and self._port and (digests := job.fetch.subscribed):
            self._port.unsubscribe([self._topics.blob(digest) for digest in digests])
        job.pause()

    # --- the store ---

    def _open(self, model: str) -> int:
        """Take up where the pointer ends; returns the revision that it settled."""
        pointer = self._store.pointer(model)
        self._reports.restore(pointer)
        if fault := self._store.repaired.get(model):
            self._reports.enter(model, pointer.current, "refused", fault)
        return pointer.revision

    def _fall_back(self, model: str, current: Installed, fault: str) -> None:
        """What is whole and yet cannot be used is refused; what is damaged may come again."""
        refusal = _refusal(current, fault) if self._store.has(current.sha256) else None
        self._store.fall_back(model, refusal)
        pointer = self._store.pointer(model)
        self._settled[model] = pointer.revision
        before = pointer.current.version if pointer.current else None
        outcome = f"back to {before}" if before else "there is no model before it"
        log.error("%s %s cannot be used: %s; %s", model, current.version, fault, outcome)
        self._reports.enter(model, current, "refused", f"{fault}; {outcome}")

    def _collect(self, now_ns: int) -> None:
        """Free the disk of what no pointer names and no update brings."""
        if self._collect_ns is None or now_ns < self._collect_ns:
            return
        try:
            self._store.collect({job.desired.sha256 for job in self._jobs.values()})
            self._collect_ns = None
        except StorageError as exc:  # costs only space: tried again
            log.warning("old bundles cannot be removed: %s", exc)
            self._collect_ns = now_ns + round(_DISK_S * _NS)


def _refusal(bundle: Desired | Installed, reason: str) -> Refusal:
    return Refusal(
        sha256=bundle.sha256, version=bundle.version, revision=bundle.revision, reason=reason
    )
