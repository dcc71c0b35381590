"""What the validation data say is right."""

from __future__ import annotations

import numpy as np

from converter.truth import agreement


def test_agreement_is_told_from_chance():
    truth = np.array([0, 0, 0, 1])
    assert agreement(truth, truth, 2) == (1.0, 0.625)
    assert agreement(np.zeros(4, np.int64), truth, 2) == (0.75, 0.75)
