"""What the numbers of a model mean: one rule, for one window and for many. Pure."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.contract.errors import InferenceError, NotFiniteError
from edge_agent.contract.manifest import Manifest

Answer = tuple[int, float, tuple[float, ...]]
"""Index of the label (0 for regression); its score, the anomaly score, or the first value; and all
values of a regression with several targets, else none."""


class Rule:
    """How a row of scores or values becomes an answer, for the models of one manifest.

    Attributes:
        answer: takes one row of the model's output, and the label that the model gave itself, or
            None if it names none.

            Raises NotFiniteError when the score that counts is not finite, and InferenceError when
            the label does not exist.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._labels = len(manifest.labels)
        self._is_anomaly = manifest.task == "anomaly"
        self.answer: Callable[[list[float], int | None], Answer]
        if manifest.output("label") is not None:
            self.answer = self._labelled
        elif self._is_anomaly:
            self.answer = self._anomalous
        else:
            self.answer = self._classified if self._labels else self._regressed

    def _classified(self, row: list[float], _: int | None) -> Answer:
        score, total = max(row), sum(row)
        if total - total:  # NaN and infinity are the only floats for which this is not 0
            _require_finite(total if total != total else score)  # noqa: PLR0124 - NaN hides from max
        return row.index(score), score, ()

    def _regressed(self, row: list[float], _: int | None) -> Answer:
        _require_finite(row[0])
        return 0, row[0], () if len(row) == 1 else tuple(row)

    def _anomalous(self, row: list[float], _: int | None) -> Answer:
        _require_finite(row[0])
        return int(row[0] > 0), row[0], ()

    def _labelled(self, row: list[float], label: int | None) -> Answer:
        if label is None or not 0 <= label < self._labels:
            raise InferenceError(f"the model answered label {label} of {self._labels}")
        score = row[0 if self._is_anomaly else label]
        _require_finite(score)
        return label, score, ()


def _require_finite(score: float) -> None:
    if score - score:
        raise NotFiniteError(f"the model answered {score}")
