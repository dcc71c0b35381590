"""What the numbers of a model mean: one rule, for one window and for many. Pure."""

from __future__ import annotations

import math

from edge_agent.contract.errors import InferenceError, NotFiniteError
from edge_agent.contract.manifest import Manifest

Answer = tuple[int, float, tuple[float, ...]]
"""Index of the label (0 for regression); its score, the anomaly score, or the first value; and all
values of a regression with several targets, else none."""


class Rule:
    """How a row of scores or values becomes an answer, for the models of one manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._labels = len(manifest.labels)
        self._is_anomaly = manifest.task == "anomaly"

    def answer(self, row: list[float], label: int | None = None) -> Answer:
        """Take one row of the model's output.

        Args:
            row: scores or values.
            label: that the model gave itself, or None if it names none.

        Raises:
            NotFiniteError: the score that counts is not finite.
            InferenceError: the label does not exist.
        """
        if label is not None:
            if not 0 <= label < self._labels:
                raise InferenceError(f"the model answered label {label} of {self._labels}")
            index, score = label, row[0 if self._is_anomaly else label]
        elif self._is_anomaly:
            score = row[0]
            index = int(score > 0)
        elif self._labels:
            score = max(row)
            index = row.index(score)
            if math.isnan(sum(row)):  # NaN hides from max(), but not from a sum
                score = math.nan
        else:
            index, score = 0, row[0]
        if score - score != 0.0:  # NaN and infinity are the only floats for which this holds
            raise NotFiniteError(f"the model answered {score}")
        return index, score, () if self._labels or len(row) == 1 else tuple(row)
