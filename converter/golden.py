"""Golden vectors: windows with the original model's answers, which every device must reproduce.

They are windows that the converted model answers like the original and *steadily*: another
processor rounds differently in the last bit, which must not decide between two branches of a tree.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from converter.data import spread
from converter.frontends import Answers
from converter.parity import border_distance
from edge_agent.arrays import F32
from edge_agent.contract.errors import BundleError
from edge_agent.contract.manifest import INPUT_NAME, Golden, Output

GOLDEN_MIN: Final = 16
GOLDEN_MAX: Final = 32
GOLDEN_BYTES: Final = 2 * 1024 * 1024  # of windows, beyond the minimum
SHAKE: Final = 2.0**-20  # relative; 8 units in the last place of float32
_NEAR_BORDER: Final = 0.25  # share of the vectors that lie near the decision border
_ATOL_MIN, _ATOL_MAX = 1e-5, 0.25  # of the largest score, at least 1

Mask = NDArray[np.bool_]
Indices = NDArray[np.int64]


def shake(windows: F32) -> F32:
    """The windows with every value moved by far more than processors differ in."""
    return windows * np.float32(1 + SHAKE)


def choose_golden(
    windows: F32,
    original: Answers,
    converted: Answers,
    shaken: Answers,
    *,
    recording: slice | None = None,
) -> tuple[Indices, float]:
    """Choose golden windows and the tolerance that they need.

    Args:
        windows: all validation windows.
        original: the original model's answers to them.
        converted: those of the form in the bundle.
        shaken: the same form's answers to :func:`shake` of the windows.
        recording: of a model with states: consecutive windows from a state of zeros. The vectors
            are the first of them.

    Returns:
        Indices of the windows, and the absolute tolerance of a score or value: four times the
        largest error on them, and no less than the shaking moved them.

    Raises:
        BundleError: too few windows are answered alike.
    """
    error = np.abs(original.scores - converted.scores).max(axis=1)
    sway = np.abs(shaken.scores - converted.scores).max(axis=1)
    scale = max(1.0, float(np.abs(original.scores).max()))
    usable = (error <= _ATOL_MAX * scale / 2) & (sway <= _ATOL_MAX * scale / 2)
    if original.labels is not None:
        usable &= (original.labels == converted.labels) & (shaken.labels == converted.labels)
    if (count := int(usable.sum())) < GOLDEN_MIN:
        raise BundleError(
            f"only {count} validation windows are answered as the original model does, "
            f"{GOLDEN_MIN} are needed as golden vectors: give more validation data"
        )
    affordable = max(GOLDEN_MIN, min(GOLDEN_MAX, GOLDEN_BYTES // windows[0].nbytes))
    if recording is not None:
        chosen = _run_of(usable, recording, affordable)
        return chosen, _tolerance(error[chosen], sway[chosen], scale)
    calm = (error <= np.quantile(error[usable], 0.9)) & (
        sway <= max(float(np.median(sway[usable])), _ATOL_MIN * scale)
    )
    pool = np.flatnonzero(usable & calm)
    if len(pool) < GOLDEN_MIN:
        pool = np.flatnonzero(usable)
    chosen = _varied(pool, original, affordable)
    return chosen, _tolerance(error[chosen], sway[chosen], scale)


def pack_golden(
    windows: F32, original: Answers, outputs: Sequence[Output], chosen: Indices, atol: float
) -> tuple[bytes, Golden]:
    """The bytes of ``golden.npz`` and how it is to be compared."""
    arrays: dict[str, NDArray[np.float32] | Indices] = {INPUT_NAME: windows[chosen]}
    for output in outputs:
        if output.role == "label":
            assert original.labels is not None
            arrays[output.name] = original.labels[chosen]
        else:
            arrays[output.name] = original.scores[chosen].astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy types an option after the arrays
    return buffer.getvalue(), Golden(count=len(chosen), atol=float(f"{atol:.3g}"), rtol=1e-5)


def _run_of(usable: Mask, recording: slice, count: int) -> Indices:
    """The first windows of a recording, up to one that is not answered as the original does."""
    places = np.arange(recording.start, recording.stop)[:count]
    bad = np.flatnonzero(~usable[places])
    chosen = places[: bad[0]] if bad.size else places
    if len(chosen) < GOLDEN_MIN:
        raise BundleError(
            f"the longest recording begins with {len(chosen)} windows that are answered as the "
            f"original model does, {GOLDEN_MIN} are needed as golden vectors of a model with "
            "states: give longer recordings"
        )
    return chosen


def _tolerance(error: NDArray[np.float64], sway: NDArray[np.float64], scale: float) -> float:
    needed = max(4 * float(error.max()), float(sway.max()))
    return min(max(needed, _ATOL_MIN * scale), _ATOL_MAX * scale)


def _varied(pool: Indices, original: Answers, count: int) -> Indices:
    """At most ``count`` of the pool: near the border, and the rest spread over the answers."""
    near: Indices = np.empty(0, np.int64)
    if original.labels is None:
        ranked = pool[np.argsort(original.scores[pool, 0], kind="stable")]
    else:
        distance = border_distance(original.scores[pool])
        near = pool[np.argsort(distance, kind="stable")][: int(count * _NEAR_BORDER)]
        ranked = np.setdiff1d(pool, near)
        ranked = ranked[np.argsort(original.labels[ranked], kind="stable")]
        ranked = _fair(ranked, original.labels[ranked], count - len(near))
    rest = ranked[spread(len(ranked), count - len(near))] if len(ranked) else ranked
    return np.sort(np.concatenate([near, rest]))


def _fair(ranked: Indices, labels: Indices, count: int) -> Indices:
    """At most a fair share of each label, so that a rare one is not passed over."""
    kinds = np.unique(labels)
    share = -(-count // max(1, len(kinds)))
    groups = [ranked[labels == kind] for kind in kinds]
    return np.concatenate([group[spread(len(group), share)] for group in groups])
