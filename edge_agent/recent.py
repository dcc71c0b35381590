"""The last answers of two models, for labels that come later. Bounded by their number."""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

import msgspec

from edge_agent.contract.experiment import Truth

_NEAR_S: Final = 1.0  # a truth that names a time means an answer at most so far from it


class Given(NamedTuple):
    """What a model answered; the label is empty for a regression."""

    label: str
    score: float

    def is_right(self, truth: Truth, tolerance: float) -> bool:
        """Whether it is what the truth says; a value within ``tolerance`` of it."""
        if truth.value is not None:
            return abs(self.score - truth.value) <= tolerance
        return self.label == truth.label


class Answers(msgspec.Struct, frozen=True, gc=False):
    """How a window was answered, by ``a``, which decides, and by ``b``; None for not at all."""

    t: float
    a: Given | None
    b: Given | None


class Recent:
    """The memory. Any thread may call.

    Args:
        n_max: answers that are kept; the oldest go.
    """

    def __init__(self, n_max: int) -> None:
        self._n_max = n_max
        self._lock = threading.Lock()
        self._answers: dict[tuple[str, int], Answers] = {}  # by sensor and reading, oldest first

    def keep(self, sensor: str, reading: int, answers: Answers) -> None:
        """Remember how a window was answered."""
        with self._lock:
            self._answers[sensor, reading] = answers
            if len(self._answers) > self._n_max:
                del self._answers[next(iter(self._answers))]

    def take(self, truth: Truth) -> Answers | None:
        """The answers that a truth speaks of, which are forgotten; None when they are not known."""
        with self._lock:
            key = (truth.sensor, truth.reading) if truth.reading else self._nearest(truth)
            found = self._answers.get(key) if key else None
            if key is None or found is None:
                return None
            if truth.t and abs(found.t - truth.t) > _NEAR_S:
                return None  # the reading of another start of the agent
            return self._answers.pop(key)

    def _nearest(self, truth: Truth) -> tuple[str, int] | None:
        near = (
            (abs(answers.t - truth.t), key)
            for key, answers in self._answers.items()
            if key[0] == truth.sensor
        )
        return min(near, default=(0.0, None))[1]
