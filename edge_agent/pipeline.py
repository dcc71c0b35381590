"""One sensor, one model: source → quality → window → infer → decide → dispatch and offer.

Durations that decide something (cooldown, backoff, the beat) come from the injected clock;
latencies are measurements of this machine and always come from ``perf_counter_ns``.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final, Literal

import msgspec
import numpy as np

from edge_agent.arrays import F32
from edge_agent.chain import Chain, misfit, warm_up
from edge_agent.clock import Clock
from edge_agent.config import PipelineConfig
from edge_agent.contract.errors import BundleError, InferenceError, NotFiniteError, SourceError
from edge_agent.contract.experiment import Comparison
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.messages import Decision, Metrics, PipelineStatus, RawWindow, Record
from edge_agent.health import Health
from edge_agent.infer import Model
from edge_agent.metrics import STAGES_EVERY, Counters, Meters, rss_bytes
from edge_agent.shadow import Companion
from edge_agent.sources.base import Source

log = logging.getLogger(__name__)

_BLOCK_N: Final = 64  # most readings taken from the source at once
_POLL_S: Final = 0.1  # how soon a pipeline that waits notices a stop, a model or the time
_REOPEN_S: Final = 1.0  # before a failed source is opened again; doubles each time
_REOPEN_MAX_S: Final = 30.0
_NS_PER_S: Final = 1_000_000_000
_SYNCED_NS: Final = _NS_PER_S  # between two looks at whether the clock is synchronised
_COMPLAIN_NS: Final = 60 * _NS_PER_S  # between two log lines about failing windows


class Pipeline:
    """Runs one model over one source, on a thread of its own.

    Args:
        config: of this pipeline.
        source: delivers ``config.channels``; opened, read and closed by the pipeline's thread.
        offer: takes each record; must only enqueue.
        dispatch: takes each fired decision, before ``offer``; must only enqueue.
        clock: for stamps, and for durations that decide something.
        model: to begin with; without one the pipeline waits for :meth:`swap`.
        dispatch_all: ``dispatch`` takes every decision, fired or not.
        meters: counters and histograms to go on with; by default fresh ones.

    Attributes:
        meters: what is counted and measured.
        beat_ns: monotonic time of the last turn of the loop, for a watchdog: at most about 1 s
            and one inference ago while ``run`` is sound, whatever the source does.

    Raises:
        BundleError: the model does not fit, see :meth:`misfit`.
    """

    block_n = _BLOCK_N

    def __init__(
        self,
        config: PipelineConfig,
        source: Source,
        *,
        offer: Callable[[Record], None],
        dispatch: Callable[[Decision], None],
        clock: Clock,
        model: Model | None,
        dispatch_all: bool = False,
        meters: Meters | None = None,
    ) -> None:
        self.meters = meters or Meters()
        self.beat_ns = clock.monotonic_ns()
        self._config, self._name = config, config.name
        self._source = source
        self._offer = offer
        self._dispatch = dispatch
        self._dispatch_all = dispatch_all
        self._clock = clock
        self._record_all = config.record == "window"
        self._raw_all = config.record_raw == "window"
        self._raw_fired = config.record_raw != "none"
        self._record_stages = tuple(stage.record for stage in self.meters.stages.values())
        self._state: Literal["waiting", "running", "ended", "failed"] = "waiting"
        self._fault = ""
        self._last: Decision | None = None
        self._complained_ns = self.beat_ns - _COMPLAIN_NS
        self._synced, self._synced_ns = clock.synced(), self.beat_ns
        self._block = np.empty((self.block_n, len(config.channels)), np.float32)
        self._rows = list(self._block)  # making a view costs more than what is done with it
        self._chain: Chain | None = None
        self._companion: Companion | None = None
        self._swap_fault = ""
        self._swaps: deque[Callable[[], None]] = deque()
        self._since = self._mark()
        self._adopting = threading.Lock()
        self._over = False
        if model is not None:
            self.swap(model)

    @property
    def name(self) -> str:
        """The name of the pipeline."""
        return self._config.name

    @property
    def batch_n(self) -> int:
        """How many windows may be decided together."""
        return 1

    @property
    def model_name(self) -> str:
        """The name of the model that it runs, whatever the version."""
        return self._config.model

    # --- the pipeline's thread -------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set or the source has ended: the body of the thread."""
        try:
            pause_s = _REOPEN_S
            while not stop.is_set():
                before = self.meters.counters.readings
                try:
                    self._await_model(stop)
                    self._read_on(stop)
                except EOFError:
                    self._state = "ended"
                    return
                except SourceError as exc:
                    self._fail(exc)
                    if self.meters.counters.readings > before:
                        pause_s = _REOPEN_S
                    self._pause(stop, pause_s)
                    pause_s = min(2 * pause_s, _REOPEN_MAX_S)
        except Exception as exc:
            self._state, self._fault = "failed", f"unexpected: {exc!r}"
            raise
        finally:
            self._over = True
            self._adopt()  # whoever swaps is never left waiting

    def _read_on(self, stop: threading.Event) -> None:
        """The main loop: open the source and take block after block, while there is a model."""
        read, block, ended = self._source.read, self._block, stop.is_set
        try:
            self._source.open()
            self._state, self._fault = "running", ""
            while not ended():
                count = read(block)
                given_ns = perf_counter_ns()
                self._beat()
                if self._swaps:
                    self._adopt()
                    if self._chain is None:
                        return
                if count:
                    self._take(count, given_ns)
        finally:
            self._source.close()

    def _take(self, count: int, given_ns: int) -> None:
        """Put the first readings of the block into the window, and decide each that is due.

        A stop waits for the whole block: what the source has given is not given again.
        """
        chain, counters = self._chain, self.meters.counters
        assert chain is not None, "a source is opened only when there is a model"
        before, rows, push = counters.readings, self._rows, chain.window.push
        counters.readings = before + count
        wall = self._clock.wall()
        quality = chain.quality
        use = quality.clean(self._block[:count]) if count > 1 else quality.clean_one(rows[0])
        for at in use:
            turn_ns = perf_counter_ns()
            if push(rows[at]):
                window_ns = perf_counter_ns()
                if at:
                    self._beat()  # a block of windows through a slow model may take seconds
                counters.windows += 1
                try:
                    self._decide(chain, before + at + 1, wall, (given_ns, turn_ns, window_ns))
                except InferenceError as exc:
                    self._complain(exc, chain.version)

    def _decide(
        self, chain: Chain, reading: int, wall: float, since_ns: tuple[int, int, int]
    ) -> None:
        """Decide the window that is due and hand the decision on."""
        index, score, values = chain.model.answer(chain.window.view)
        infer_ns = perf_counter_ns()
        state, fired = chain.decider.step(index, score, self.beat_ns)
        decide_ns = perf_counter_ns()
        label = chain.labels[index]
        decision = Decision(
            t=wall,
            synced=self._synced,
            pipeline=self._name,
            model=chain.version,
            reading=reading,
            label=label,
            score=score,
            values=values,
            state=state,
            fired=fired,
        )
        self._hand_on(decision)
        if (companion := self._companion) is not None:
            companion.saw(decision, chain.window.view, infer_ns - since_ns[2])
        if self._raw_all or (fired and self._raw_fired):
            self._offer(_raw(decision, chain.window.view))
        offer_ns = perf_counter_ns()
        given_ns, turn_ns, window_ns = since_ns
        read, window, infer, decide, offer, total = self._record_stages
        total(offer_ns - given_ns)
        if self.meters.counters.windows % STAGES_EVERY != 1:
            return
        read(turn_ns - given_ns)
        window(window_ns - turn_ns)
        infer(infer_ns - window_ns)
        decide(decide_ns - infer_ns)
        offer(offer_ns - decide_ns)

    def _hand_on(self, decision: Decision) -> None:
        """To the actions that want it, and to the outbox if it is to be a record."""
        counters, self._last = self.meters.counters, decision
        counters.fired += decision.fired
        if decision.fired or self._dispatch_all:
            self._dispatch(decision)
        if decision.fired or self._record_all:
            counters.recorded += 1
            self._offer(decision)

    def _beat(self) -> None:
        """One turn of the loop: for the watchdog, the cooldown and the stamps."""
        self.beat_ns = now_ns = self._clock.monotonic_ns()
        if now_ns - self._synced_ns >= _SYNCED_NS:
            self._synced, self._synced_ns = self._clock.synced(), now_ns

    def _await_model(self, stop: threading.Event) -> None:
        """Stay ``waiting`` until there is a model, or ``stop``."""
        self._adopt()
        if self._chain is None:
            self._state = "waiting"
        while self._chain is None and not stop.wait(_POLL_S):
            self._beat()
            self._adopt()

    def _fail(self, exc: SourceError) -> None:
        """Say why there are no readings; what comes later does not continue what came before."""
        self._state, self._fault = "failed", str(exc)
        self.meters.counters.source_errors += 1
        log.warning("pipeline %s: %s; it will be opened again", self._config.name, exc)
        if self._chain is not None:
            self._chain.forget()

    def _pause(self, stop: threading.Event, seconds: float) -> None:
        """Let time pass, still alive to the watchdog, to a stop and to new models."""
        until_ns = self._clock.monotonic_ns() + round(seconds * _NS_PER_S)
        while self.beat_ns < until_ns and not stop.wait(_POLL_S):
            self._beat()
            self._adopt()

    def _complain(self, exc: InferenceError, version: str) -> None:
        """Count a window without a decision: the next one may be all right."""
        self.meters.counters.infer_errors += 1
        if (companion := self._companion) is not None:
            companion.missed(version)
        self.meters.counters.not_finite += isinstance(exc, NotFiniteError)
        if self.beat_ns - self._complained_ns >= _COMPLAIN_NS:
            self._complained_ns = self.beat_ns
            log.error("pipeline %s: no decision: %s", self._config.name, exc)

    def _adopt(self) -> None:
        """Take over the models that wait, oldest first; the last one decides from now on."""
        with self._adopting:  # after the end of run() several threads may be here
            while self._swaps:
                self._swaps.popleft()()

    def _take_over(self, chain: Chain | None, taken: threading.Event, fault: str = "") -> None:
        """Decide by this chain from the next reading on; by none until there is another."""
        if self._chain is not None and chain is not None:
            chain.continue_from(self._chain)
            self.meters.counters.swaps += 1
        self._chain, self._swap_fault = chain, fault
        self._since = self._mark()
        taken.set()

    def _mark(self) -> tuple[Counters, list[int]]:
        """What was counted until now, for the health of the model that is taken over."""
        infer = self.meters.stages["infer"]
        return msgspec.structs.replace(self.meters.counters), infer.counts()

    # --- any thread ------------------------------------------------------------------------------

    def swap(self, model: Model) -> threading.Event:
        """Hand over a new model, to be taken over between two readings. Any thread.

        It is run once here, on the caller's time, so that its first real window is not slow. The
        caller must not use it afterwards. The old model is released.

        Returns:
            An event that is set when the new model decides from then on: after the read that is
            going on (1 s at most) and the decisions on a block that was given; at once when
            ``run`` has ended; when it begins before that.

        Raises:
            BundleError: the model does not fit, see :meth:`misfit`.
        """
        if fault := self.misfit(model.manifest):
            raise BundleError(fault)
        warm_up(model)
        taken = threading.Event()
        chain = self._chain_of(model)
        return self._hand_over(lambda: self._take_over(chain, taken), taken)

    def exchange(self, load: Callable[[], Model], back: Callable[[], Model]) -> threading.Event:
        """Take a new model over where two do not fit into memory: the old one is let go first.

        The pipeline's own thread loads; meanwhile readings wait in the source. Any thread.

        Args:
            load: gives the new model, which fits.
            back: gives the old one, for when ``load`` fails.

        Returns:
            As :meth:`swap`; the event is set in any case, and :meth:`health` says what failed.
        """
        taken = threading.Event()

        def work() -> None:
            if self._chain is not None:
                self._chain.release()
            model, fault = _loaded(load)
            if model is None:
                log.error("pipeline %s: %s; the model before is loaded again", self.name, fault)
                model, _ = _loaded(back)
            if model is not None:
                warm_up(model)
            self._take_over(self._chain_of(model) if model else None, taken, fault)

        return self._hand_over(work, taken)

    def _hand_over(self, work: Callable[[], None], taken: threading.Event) -> threading.Event:
        self._swaps.append(work)
        if self._over:
            self._adopt()
        return taken

    def withdraw(self) -> threading.Event:
        """Decide no more until there is another model. Any thread; returns as :meth:`swap`."""
        taken = threading.Event()

        return self._hand_over(lambda: self._take_over(None, taken), taken)

    def accompany(self, companion: Companion | None) -> None:
        """Show every decided window to a companion from now on; None for no more."""
        self._companion = companion

    def share(self, model: Model | None, holds: Callable[[str], bool]) -> None:  # noqa: ARG002
        """Let a second model decide for some sensors; see :class:`.CrowdPipeline`.

        Raises:
            BundleError: there is one sensor only.
        """
        raise BundleError(f"pipeline {self.name} has one sensor: split by slot")

    def health(self) -> Health:
        """How the model that it runs has done since it was taken over. Any thread."""
        before, infer_before = self._since
        now, companion = self.meters.counters, self._companion
        found = companion.comparison() if companion else Comparison()
        return Health(
            windows=now.windows - before.windows,
            errors=now.infer_errors - before.infer_errors,
            not_finite=now.not_finite - before.not_finite,
            infer_p99_us=self.meters.stages["infer"].since(infer_before).p99,
            compared=found.compared,
            disagreed=found.disagreed,
            fault=self._swap_fault,
        )

    def _chain_of(self, model: Model) -> Chain:
        return Chain(model, self._config.decide, self.meters.counters)

    def misfit(self, manifest: Manifest) -> str | None:
        """Say why a bundle cannot run in this pipeline; None when it can. Any thread."""
        return misfit(self._config, manifest)

    @property
    def is_over(self) -> bool:
        """Whether the source has ended by itself. Any thread."""
        return self._state == "ended"

    @property
    def is_running(self) -> bool:
        """Whether it has a model and an open source. Any thread."""
        return self._state == "running"

    @property
    def overrun(self) -> int:
        """Readings that the source dropped because they came too fast. Any thread."""
        return self._source.faults.get("overrun", 0)

    def status(self) -> PipelineStatus:
        """How the pipeline is now. Any thread."""
        chain, last, companion = self._chain, self._last, self._companion
        return PipelineStatus(
            name=self._config.name,
            model=self._config.model,
            version=chain.version if chain else "",
            sha256=chain.model.digest if chain else "",
            state=self._state,
            fault=self._fault,
            counts=self._counts(),
            latency_us=self.meters.latency_us(),
            last_label=last.label if last else "",
            last_state=last.state if last else "",
            comparison=companion.comparison() if companion else None,
        )

    def metrics(self) -> Metrics:
        """The figures of this moment as a record. Any thread."""
        return Metrics(
            t=self._clock.wall(),
            synced=self._clock.synced(),
            pipeline=self._config.name,
            counts=self._counts(),
            latency_us=self.meters.latency_us(),
            rss_bytes=rss_bytes(),
        )

    def _counts(self) -> dict[str, int]:
        return self.meters.counts() | self._source.faults


def _raw(decision: Decision, window: F32) -> RawWindow:
    """The readings that a decision is about, as a record."""
    return RawWindow(
        t=decision.t,
        synced=decision.synced,
        pipeline=decision.pipeline,
        reading=decision.reading,
        shape=(window.shape[0], window.shape[1]),
        data=window.astype("<f4", copy=False).tobytes(),
    )


def _loaded(load: Callable[[], Model]) -> tuple[Model | None, str]:
    """A model, or why there is none."""
    try:
        return load(), ""
    except InferenceError as exc:
        return None, str(exc)
