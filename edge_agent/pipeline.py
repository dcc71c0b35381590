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

import numpy as np

from edge_agent.arrays import F32
from edge_agent.chain import Chain, misfit, warm_up
from edge_agent.clock import Clock
from edge_agent.config import PipelineConfig
from edge_agent.contract.errors import BundleError, InferenceError, SourceError
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.messages import Decision, Metrics, PipelineStatus, RawWindow, Record
from edge_agent.infer import Model
from edge_agent.metrics import Meters, rss_bytes
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
        meters: counters and histograms to go on with; by default fresh ones.

    Attributes:
        meters: what is counted and measured.
        beat_ns: monotonic time of the last turn of the loop, for a watchdog: at most about 1 s
            and one inference ago while ``run`` is sound, whatever the source does.

    Raises:
        BundleError: the model does not fit, see :meth:`misfit`.
    """

    def __init__(
        self,
        config: PipelineConfig,
        source: Source,
        *,
        offer: Callable[[Record], None],
        dispatch: Callable[[Decision], None],
        clock: Clock,
        model: Model | None,
        meters: Meters | None = None,
    ) -> None:
        self.meters = meters or Meters()
        self.beat_ns = clock.monotonic_ns()
        self._config = config
        self._source = source
        self._offer = offer
        self._dispatch = dispatch
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
        self._chain: Chain | None = None
        self._swaps: deque[tuple[Chain, threading.Event]] = deque()
        self._adopting = threading.Lock()
        self._over = False
        if model is not None:
            self.swap(model)

    @property
    def name(self) -> str:
        """The name of the pipeline."""
        return self._config.name

    @property
    def model_name(self) -> str:
        """The name of the model that it runs, whatever the version."""
        return self._config.model

    # --- the pipeline's thread -------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set or the source has ended: the body of the thread."""
        try:
            self._await_model(stop)
            pause_s = _REOPEN_S
            while not stop.is_set():
                before = self.meters.counters.readings
                try:
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
        """The main loop: open the source and take block after block of readings."""
        block = np.empty((_BLOCK_N, len(self._config.channels)), np.float32)
        try:
            self._source.open()
            self._state, self._fault = "running", ""
            while not stop.is_set():
                count = self._source.read(block)
                given_ns = perf_counter_ns()
                self._beat()
                if self._swaps:
                    self._adopt()
                if count:
                    self._take(block[:count], given_ns)
        finally:
            self._source.close()

    def _take(self, block: F32, given_ns: int) -> None:
        """Put readings into the window, and decide each window that is due.

        A stop waits for the whole block: what the source has given is not given again.
        """
        chain, counters = self._chain, self.meters.counters
        assert chain is not None, "a source is opened only when there is a model"
        before = counters.readings
        counters.readings = before + len(block)
        wall = self._clock.wall()
        for at in chain.quality.clean(block):
            turn_ns = perf_counter_ns()
            if chain.window.push(block[at]):
                window_ns = perf_counter_ns()
                self._beat()  # a block of windows through a slow model may take seconds
                counters.windows += 1
                try:
                    self._decide(chain, before + at + 1, wall, (given_ns, turn_ns, window_ns))
                except InferenceError as exc:
                    self._complain(exc)

    def _decide(
        self, chain: Chain, reading: int, wall: float, since_ns: tuple[int, int, int]
    ) -> None:
        """Decide the window that is due and hand the decision on."""
        model, counters = chain.model, self.meters.counters
        index, score = model.answer(chain.window.view)
        infer_ns = perf_counter_ns()
        state, fired = chain.decider.step(index, score, self.beat_ns)
        decide_ns = perf_counter_ns()
        self._last = decision = Decision(
            t=wall,
            synced=self._synced,
            pipeline=self._config.name,
            model=chain.version,
            reading=reading,
            label=chain.labels[index],
            score=score,
            values=model.values,
            state=state,
            fired=fired,
        )
        if fired:
            counters.fired += 1
            self._dispatch(decision)
        if fired or self._record_all:
            counters.recorded += 1
            self._offer(decision)
        if self._raw_all or (fired and self._raw_fired):
            self._offer(_raw(decision, chain.window.view))
        offer_ns = perf_counter_ns()
        given_ns, turn_ns, window_ns = since_ns
        read, window, infer, decide, offer, total = self._record_stages
        read(turn_ns - given_ns)
        window(window_ns - turn_ns)
        infer(infer_ns - window_ns)
        decide(decide_ns - infer_ns)
        offer(offer_ns - decide_ns)
        total(offer_ns - given_ns)

    def _beat(self) -> None:
        """One turn of the loop: for the watchdog, the cooldown and the stamps."""
        self.beat_ns = now_ns = self._clock.monotonic_ns()
        if now_ns - self._synced_ns >= _SYNCED_NS:
            self._synced, self._synced_ns = self._clock.synced(), now_ns

    def _await_model(self, stop: threading.Event) -> None:
        """Stay ``waiting`` until there is a model, or ``stop``."""
        self._adopt()
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

    def _complain(self, exc: InferenceError) -> None:
        """Count a window without a decision: the next one may be all right."""
        self.meters.counters.infer_errors += 1
        if self.beat_ns - self._complained_ns >= _COMPLAIN_NS:
            self._complained_ns = self.beat_ns
            log.error("pipeline %s: no decision: %s", self._config.name, exc)

    def _adopt(self) -> None:
        """Take over the models that wait, oldest first; the last one decides from now on."""
        with self._adopting:  # after the end of run() several threads may be here
            while self._swaps:
                chain, taken = self._swaps.popleft()
                if self._chain is not None:
                    chain.continue_from(self._chain)
                    self.meters.counters.swaps += 1
                self._chain = chain
                taken.set()

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
        self._swaps.append((Chain(model, self._config.decide, self.meters.counters), taken))
        if self._over:
            self._adopt()
        return taken

    def misfit(self, manifest: Manifest) -> str | None:
        """Say why a bundle cannot run in this pipeline; None when it can. Any thread."""
        return misfit(self._config, manifest)

    def status(self) -> PipelineStatus:
        """How the pipeline is now. Any thread."""
        chain, last = self._chain, self._last
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
