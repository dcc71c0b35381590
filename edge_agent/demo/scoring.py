"""What the device decided, against the truth and against the original models. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import Decision
from edge_agent.demo.tape import Tape, Text

Predict = Callable[[F32], Text]
"""Windows (n, length, channels) to labels (n,)."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a replayed tape. Accuracies and flips count each window that was decided.

    Attributes:
        windows: decisions that were collected.
        accuracy_device: share of them with the truth of the window's last reading.
        accuracy_original: the same of the original models, each window answered by the original
            of the version that decided it on the device.
        accuracy_device_within: as ``accuracy_device``, of the windows that lie within one
            exercise; the others see two at once.
        label_flips: windows that device and original answer differently.
        missed_readings: readings for which no decision came, or more than one: each window that
            was due and is not there exactly once counts with its new readings.
        versions: versions that decided, and how many windows each, in order.
    """

    windows: int
    accuracy_device: float
    accuracy_original: float
    accuracy_device_within: float
    label_flips: int
    missed_readings: int
    versions: dict[str, int]


def score(
    decisions: Sequence[Decision],
    tape: Tape,
    originals: Mapping[str, Predict],
    *,
    length: int,
    hop: int,
) -> Score:
    """Compare.

    Args:
        decisions: what was collected, in any order.
        tape: what the device has seen.
        originals: the original model by version.
        length: readings in a window.
        hop: readings between two windows.

    Raises:
        ConfigError: there is nothing to compare, or it was decided on something else.
    """
    decisions = sorted(decisions, key=lambda decision: decision.reading)
    last = np.array([decision.reading for decision in decisions], np.int64)
    if not len(last) or last[0] < length or last[-1] > len(tape.rows):
        raise ConfigError(
            f"{len(decisions)} decisions do not belong to a recording of {len(tape.rows)} readings"
        )
    labels = np.array([decision.label for decision in decisions])
    by = np.array([decision.model for decision in decisions])
    windows, truth = tape.windows(last, length), tape.truth[last - 1]
    original = np.empty(len(last), tape.truth.dtype)
    for version in np.unique(by):
        at = by == version
        original[at] = originals[str(version)](windows[at])
    right = labels == truth
    within = tape.truth[last - length] == truth
    return Score(
        windows=len(last),
        accuracy_device=float(right.mean()),
        accuracy_original=float((original == truth).mean()),
        accuracy_device_within=float(right[within].mean()),
        label_flips=int((labels != original).sum()),
        missed_readings=hop * _not_once(last.tolist(), tape.due(length, hop).tolist()),
        versions={str(version): int((by == version).sum()) for version in dict.fromkeys(by)},
    )


def _not_once(decided: Sequence[int], due: Sequence[int]) -> int:
    """Due windows that were not decided, and decisions beyond one for each due window."""
    once = set(decided)
    return len(set(due) - once) + len(decided) - len(once & set(due))
