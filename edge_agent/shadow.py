"""A second model beside the one that decides: same windows, no actions, compared.

It runs on a thread of its own. The pipeline only copies the window into a free place; when there
is none, the window is left out and counted, so that the one who decides never waits.
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from time import perf_counter_ns
from typing import Final

import msgspec
import numpy as np

from edge_agent.arrays import F32
from edge_agent.contract.errors import InferenceError
from edge_agent.infer import Model
from edge_agent.metrics import Histogram

log = logging.getLogger(__name__)

_PLACES: Final = 16  # windows that may wait
_END_S: Final = 5.0


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """How two models have answered the same windows.

    Attributes:
        compared: windows that both have answered.
        disagreed: of those, how many got two labels; for a regression, values further apart than
            ``tolerance``.
        failed: windows that the shadow could not answer.
        left_out: windows that came while the shadow was busy.
        score_shift: mean of the shadow's score minus the other's.
        infer_p50_us: of the shadow.
        infer_p99_us: of the shadow.
    """

    compared: int = 0
    disagreed: int = 0
    failed: int = 0
    left_out: int = 0
    score_shift: float = 0.0
    infer_p50_us: float = 0.0
    infer_p99_us: float = 0.0


class Shadow:
    """Runs beside a pipeline's model from ``start`` to ``stop``.

    Args:
        model: the second one; with the window and the labels of the first.
        tolerance: of a regression's value, absolute.
    """

    def __init__(self, model: Model, *, tolerance: float = 0.0) -> None:
        spec = model.manifest.window
        shape = (_PLACES, spec.length, len(model.manifest.channels))
        self._model, self._tolerance = model, tolerance
        self._windows: F32 = np.zeros(shape, np.float32)
        self._free: SimpleQueue[int] = SimpleQueue()
        self._todo: SimpleQueue[tuple[int, str, float] | None] = SimpleQueue()
        self._labels = model.manifest.labels
        self._latency = Histogram()
        self._compared = self._disagreed = self._failed = self._left_out = 0
        self._shift = 0.0
        for place in range(_PLACES):
            self._free.put(place)
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End; the thread has ended on return unless an inference takes very long."""
        self._todo.put(None)
        self._thread.join(_END_S)

    def offer(self, window: F32, label: str, score: float) -> None:
        """Take a window that the first model has answered; the pipeline's thread, never waits.

        Args:
            window: float32 (length, channels); copied.
            label: that the first model gave.
            score: that the first model gave.
        """
        if self._free.empty():
            self._left_out += 1
            return
        place = self._free.get_nowait()
        self._windows[place] = window
        self._todo.put((place, label, score))

    def comparison(self) -> Comparison:
        """The figures so far. Any thread."""
        latency = self._latency.latency()
        return Comparison(
            compared=self._compared,
            disagreed=self._disagreed,
            failed=self._failed,
            left_out=self._left_out,
            score_shift=self._shift / max(1, self._compared),
            infer_p50_us=latency.p50,
            infer_p99_us=latency.p99,
        )

    def _run(self) -> None:
        while (item := self._todo.get()) is not None:
            place, label, score = item
            start_ns = perf_counter_ns()
            try:
                index, own, _ = self._model.answer(self._windows[place])
            except InferenceError as exc:
                if not self._failed:
                    log.warning("the second model fails: %s", exc)
                self._failed += 1
            else:
                self._latency.record(perf_counter_ns() - start_ns)
                self._count(self._labels[index] if self._labels else "", label, own, score)
            self._free.put(place)

    def _count(self, own_label: str, label: str, own: float, score: float) -> None:
        differs = own_label != label if self._labels else abs(own - score) > self._tolerance
        self._shift += own - score
        self._disagreed += differs
        self._compared += 1
