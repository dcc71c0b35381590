"""A second model beside the one that decides: same windows, no actions, compared.

It runs on a thread of its own. The pipeline only copies the window into a free place; when there
is none, the window is left out and counted, so that the one who decides never waits.

Its inferences are measured in processor time of its thread: by the wall clock it would be charged
for waiting until the pipeline lets the interpreter go (three times as much at 1,800 windows a
second). On a busy machine two equal models were measured at 120 to 150 % of each other so.
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from time import thread_time_ns
from typing import Final, Protocol

import numpy as np

from edge_agent.answers import Answer
from edge_agent.arrays import F32
from edge_agent.batch import Batch
from edge_agent.contract.errors import InferenceError
from edge_agent.contract.experiment import Arm, Comparison, Truth, copied
from edge_agent.contract.messages import Decision
from edge_agent.infer import Model
from edge_agent.metrics import Histogram
from edge_agent.recent import Answers, Given, Recent

log = logging.getLogger(__name__)

PLACES: Final = 16  # windows that may wait
_END_S: Final = 5.0

_Item = tuple[int, Decision]  # the place of a window, and how it was decided


class Companion(Protocol):
    """Is shown what a pipeline decides, by the pipeline's thread, and never makes it wait."""

    def saw(self, decision: Decision, window: F32, took_ns: int) -> None:
        """Take a decision.

        Args:
            decision: that was handed on.
            window: float32 (length, channels); only valid during the call.
            took_ns: of the inference.
        """
        ...

    def missed(self, version: str) -> None:
        """The model of this version failed on a window."""
        ...

    def comparison(self) -> Comparison:
        """The figures so far. Any thread."""
        ...


class Shadow:
    """Answers the windows of a pipeline too, from ``start`` to ``stop``.

    Args:
        model: the second one; with the window and the labels of the first, and without states.
        tolerance: of a regression's value, absolute.
        places: windows that may wait; those that wait together are one run when there may be more
            than the usual few, as beside a pipeline of many sensors.
        so_far: figures to go on from.
        answers_n: answers that are kept for labels that come later.
    """

    def __init__(
        self,
        model: Model,
        *,
        tolerance: float = 0.0,
        places: int = PLACES,
        so_far: Comparison | None = None,
        answers_n: int = 1,
    ) -> None:
        manifest = model.manifest
        shape = (places, manifest.window.length, len(manifest.channels))
        self._model, self._tolerance = model, tolerance
        self._batch = Batch(model.engine, manifest, places) if places > PLACES else None
        self._windows: F32 = np.zeros(shape, np.float32)
        self._free: SimpleQueue[int] = SimpleQueue()
        self._todo: SimpleQueue[_Item | None] = SimpleQueue()
        self._labels = manifest.labels
        self._recent = Recent(answers_n)
        self._count = copied(so_far) if so_far else Comparison()
        self._count.b.version = manifest.version
        self._latency, self._own_latency = Histogram(), Histogram()
        for place in range(places):
            self._free.put(place)
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End; the thread has ended on return unless an inference takes very long."""
        self._todo.put(None)
        self._thread.join(_END_S)

    # --- the pipeline's thread ---

    def saw(self, decision: Decision, window: F32, took_ns: int) -> None:
        """Take a window that the first model has decided; see :class:`Companion`."""
        self._latency.record(took_ns)
        if self._free.empty():
            self._count.left_out += 1
            return
        place = self._free.get_nowait()
        self._windows[place] = window
        self._todo.put((place, decision))

    def missed(self, version: str) -> None:
        """The first model failed; the second is not asked."""
        self._count.a.version = version
        self._count.a.errors += 1

    # --- any thread ---

    def comparison(self) -> Comparison:
        """The figures so far; latencies are those since ``start``."""
        found = copied(self._count)
        for arm, latency in ((found.a, self._latency), (found.b, self._own_latency)):
            describe(arm, latency)
        return found

    def learn(self, truth: Truth) -> None:
        """Take what a window really was. One thread."""
        count, answers = self._count, self._recent.take(truth)
        if answers is None:
            count.unmatched += 1
            return
        rights = [
            g is not None and g.is_right(truth, self._tolerance) for g in (answers.a, answers.b)
        ]
        for arm, right in zip((count.a, count.b), rights, strict=True):
            arm.labelled += 1
            arm.correct += right
        count.won += rights[1] > rights[0]
        count.lost += rights[0] > rights[1]

    # --- its own thread ---

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            items = [self._todo.get()]
            while self._batch and len(items) < len(self._windows) and not self._todo.empty():
                items.append(self._todo.get())
            goes_on = None not in items
            if known := [item for item in items if item is not None]:
                self._take(known)

    def _take(self, items: list[_Item]) -> None:
        """Answer windows and count; what failed counts as an answer that is never right."""
        start_ns = thread_time_ns()
        answers = self._answers([place for place, _ in items])
        each_ns = (thread_time_ns() - start_ns) // len(items)
        for (place, decision), answer in zip(items, answers, strict=True):
            self._free.put(place)
            given: Given | None = None
            if isinstance(answer, InferenceError):
                if not self._count.b.errors:
                    log.warning("the second model fails: %s", answer)
                self._count.b.errors += 1
            else:
                self._own_latency.record(each_ns)
                given = Given(self._labels[answer[0]] if self._labels else "", answer[1])
                self._compare(decision, given)
            first = Given(decision.label, decision.score)
            self._recent.keep(decision.sensor, decision.reading, Answers(decision.t, first, given))

    def _answers(self, places: list[int]) -> list[Answer | InferenceError]:
        if self._batch and len(places) > 1:
            self._batch.windows[: len(places)] = self._windows[places]
            return self._batch.run(len(places))
        return [self._answer(self._windows[place]) for place in places]

    def _answer(self, window: F32) -> Answer | InferenceError:
        try:
            return self._model.answer(window)
        except InferenceError as exc:
            return exc

    def _compare(self, decision: Decision, own: Given) -> None:
        count = self._count
        far = abs(own.score - decision.score) > self._tolerance
        count.disagreed += own.label != decision.label if self._labels else far
        count.compared += 1
        _add(count.a, decision.score, fired=decision.fired)
        _add(count.b, own.score, fired=False)
        count.a.version = decision.model


def describe(arm: Arm, latency: Histogram) -> None:
    """Write the percentiles of an arm; those of an earlier start stay until there are new ones."""
    measured = latency.latency()
    if measured.n:
        arm.p50_us, arm.p99_us = measured.p50, measured.p99


def _add(arm: Arm, score: float, *, fired: bool) -> None:
    arm.windows += 1
    arm.fired += fired
    arm.score_sum += score
