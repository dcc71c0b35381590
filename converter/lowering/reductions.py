"""Classifiers made of others: one versus rest, one versus one, codes, calibration, thresholds.

As in :mod:`converter.lowering.committees`, ``lower`` writes the form of a member.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.semi_supervised import SelfTrainingClassifier

from converter.lowering.committees import Form, Lower, members_on
from converter.lowering.curves import interpolated
from converter.lowering.graph import Graph
from converter.lowering.heads import (
    Head,
    above_label,
    argmax_label,
    both_sides,
    column,
    member_label,
    normalized,
    response,
    score_method,
    side_by_side,
    total,
)
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]


def _require_varied(estimator: Any) -> None:
    """Refuse members that only ever saw one side, which scikit-learn replaces by a constant.

    Raises:
        ConfigError: there is one.
    """
    if any(type(member).__name__ == "_ConstantPredictor" for member in estimator.estimators_):
        raise ConfigError(
            f"{type(estimator).__name__} has a member that saw only one side in training: give it "
            "rows of every class, or another random_state"
        )


def _binary_score(graph: Graph, member: Any, head: Head) -> str:
    """How much a binary member is for its second class, (N, 1)."""
    if is_regressor(member):
        return head.scores
    if hasattr(member, "decision_function"):
        return response(graph, member, head, "decision_function")
    return column(graph, response(graph, member, head, "predict_proba"), 1)


def _threshold(member: Any) -> float:
    """The score above which a binary member says its second class."""
    return 0.0 if hasattr(member, "decision_function") and not is_regressor(member) else 0.5


def _one_versus_rest(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    members = estimator.estimators_
    _require_varied(estimator)
    heads, notes = members_on(members, graph, x, lower)
    each = [_binary_score(graph, m, h) for m, h in zip(members, heads, strict=True)]
    raw = side_by_side(graph, each)
    if len(members) == 1:
        label = above_label(graph, raw, _threshold(members[0]))
    else:
        label = argmax_label(graph, raw)
    decision = raw if hasattr(estimator, "decision_function") else None
    if score_method(estimator) == "predict":  # of regressors: nothing but the label comes out
        votes = graph.constant(np.eye(len(estimator.classes_)))
        return Head(graph.add("Gather", votes, label, axis=0), label, notes)
    if not hasattr(estimator, "predict_proba"):
        scores = side_by_side(graph, [graph.add("Neg", raw), raw]) if len(members) == 1 else raw
        return Head(scores, label, notes, decision)
    shares = side_by_side(
        graph,
        [
            column(graph, response(graph, member, head, "predict_proba"), 1)
            for member, head in zip(members, heads, strict=True)
        ],
    )
    if len(members) == 1:
        return Head(both_sides(graph, shares), label, notes, decision)
    # Where all are 0, scikit-learn leaves them so.
    sums = graph.add("ReduceSum", shares, graph.constant([1], np.int64))
    nothing = graph.add("Equal", sums, graph.constant(0.0))
    safe = graph.add("Where", nothing, graph.constant(1.0), sums)
    return Head(graph.add("Div", shares, safe), label, notes, decision)


def _one_versus_one(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """Votes of all pairs, plus their summed confidences squeezed into (-1/3, 1/3).

    As in ``sklearn.utils.multiclass._ovr_decision_function``.
    """
    members = estimator.estimators_
    _require_varied(estimator)
    if estimator.pairwise_indices_ is not None:
        raise ConfigError(
            f"{type(estimator).__name__} of precomputed kernels has no ONNX form: fit it on the "
            "features themselves"
        )
    heads, notes = members_on(members, graph, x, lower)
    count = len(estimator.classes_)
    pairs = list(combinations(range(count), 2))
    votes, confidences = [], []
    for (i, j), member, head in zip(pairs, members, heads, strict=True):
        table = np.eye(count)[[i, j]]
        if is_regressor(member):
            label = above_label(graph, head.scores, 0.5)
        else:
            label = member_label(graph, head)
        votes.append(graph.add("Gather", graph.constant(table), label, axis=0))
        sides = (table[1] - table[0])[None]
        score = _binary_score(graph, member, head)
        confidences.append(graph.add("MatMul", _single(graph, score), graph.constant(sides)))
    confidence = total(graph, confidences)
    bound = graph.add("Add", graph.add("Abs", confidence), graph.constant(1.0))
    squeezed = graph.add("Div", confidence, graph.add("Mul", bound, graph.constant(3.0)))
    decision = graph.add("Add", total(graph, votes), squeezed)
    if count > 2:
        return Head(decision, None, notes, decision)
    second = column(graph, decision, 1)
    label = above_label(graph, second, _threshold(members[0]))
    scores = side_by_side(graph, [graph.add("Neg", second), second])
    return Head(scores, label, notes, second)


def _single(graph: Graph, score: str) -> str:
    """A score as float32: a member may compute it in float64."""
    return graph.cast(score, np.float32)


def _output_code(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """The class whose code is nearest to the members' scores; its score is 1, the others' 0."""
    _require_varied(estimator)
    members = estimator.estimators_
    heads, notes = members_on(members, graph, x, lower)
    each = [_single(graph, _binary_score(graph, m, h)) for m, h in zip(members, heads, strict=True)]
    book = np.asarray(estimator.code_book_, dtype=np.float64)
    # |y - c|**2 without |y|**2, which orders nothing.
    product = graph.add(
        "MatMul", graph.cast(side_by_side(graph, each), np.float64),
        graph.constant(-2.0 * book.T, np.float64),
    )  # fmt: skip
    distance = graph.add("Add", product, graph.constant(np.sum(book**2, axis=1), np.float64))
    label = graph.add("ArgMin", distance, axis=1, keepdims=0)
    ones = graph.constant(np.eye(len(estimator.classes_)))
    return Head(graph.add("Gather", ones, label, axis=0), label, notes)


def _calibrated(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """The mean of the calibrated probabilities of each fold."""
    folds = estimator.calibrated_classifiers_
    heads, notes = members_on([fold.estimator for fold in folds], graph, x, lower)
    parts = [_calibrated_fold(graph, fold, head) for fold, head in zip(folds, heads, strict=True)]
    mean = graph.add("Div", total(graph, parts), graph.constant(float(len(parts))))
    return Head(mean, notes=notes)


def _calibrated_fold(graph: Graph, fold: Any, head: Head) -> str:
    """Calibrated probabilities of one fold, as ``_CalibratedClassifier.predict_proba``."""
    classes, own = np.asarray(fold.classes), np.asarray(fold.estimator.classes_)
    if fold.method not in {"sigmoid", "isotonic"} or len(own) != len(classes):
        raise ConfigError(
            f"CalibratedClassifierCV with method={fold.method!r}, or with a fold that lacks a "
            "class, has no ONNX form: use method='sigmoid' or 'isotonic' and stratified folds"
        )
    raw = _fold_response(graph, fold.estimator, head)
    binary = len(classes) == 2
    each = [
        _calibrator(graph, raw if binary else column(graph, raw, number), calibrator)
        for number, calibrator in enumerate(fold.calibrators)
    ]
    if binary:
        return both_sides(graph, each[0])
    return normalized(graph, side_by_side(graph, each), len(classes))


def _fold_response(graph: Graph, member: Any, head: Head) -> str:
    if hasattr(member, "decision_function"):
        return response(graph, member, head, "decision_function")
    shares = response(graph, member, head, "predict_proba")
    return column(graph, shares, 1) if len(member.classes_) == 2 else shares


def _calibrator(graph: Graph, raw: str, calibrator: Any) -> str:
    """One probability (N, 1) from one response (N, 1)."""
    if isinstance(calibrator, IsotonicRegression):
        knots, values = calibrator.X_thresholds_, calibrator.y_thresholds_
        return _single(graph, interpolated(graph, graph.cast(raw, np.float64), [knots], [values]))
    slope = graph.constant(-float(calibrator.a_), np.float64)
    shift = graph.constant(-float(calibrator.b_), np.float64)
    line = graph.add("Add", graph.add("Mul", graph.cast(raw, np.float64), slope), shift)
    return graph.add("Sigmoid", _single(graph, line))


def _threshold_of(estimator: Any) -> float:
    if isinstance(estimator, TunedThresholdClassifierCV):
        return float(estimator.best_threshold_)
    if estimator.threshold != "auto":
        return float(estimator.threshold)
    return 0.5 if _threshold_method(estimator) == "predict_proba" else 0.0


def _threshold_method(estimator: Any) -> str:
    if estimator.response_method != "auto":
        return str(estimator.response_method)
    has = hasattr(estimator.estimator_, "predict_proba")
    return "predict_proba" if has else "decision_function"


def _thresholded(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """The member's scores, with a threshold of its own between the two classes."""
    member, classes = estimator.estimator_, list(estimator.classes_)
    head = lower(member, graph, x)
    method = _threshold_method(estimator)
    raw = response(graph, member, head, method)
    positive = _positive_class(estimator, classes)
    if method == "predict_proba":
        raw = column(graph, raw, positive)
    elif positive == 0:
        raw = graph.add("Neg", raw)
    cut = graph.constant(_threshold_of(estimator))
    reached = graph.add("GreaterOrEqual", _single(graph, raw), cut)
    label = graph.cast(graph.add("Squeeze", reached, graph.constant([1], np.int64)), np.int64)
    if positive == 0:
        label = graph.add("Sub", graph.constant(1, np.int64), label)
    return Head(head.scores, label, head.notes, head.decision)


def _positive_class(estimator: Any, classes: list[Any]) -> int:
    """The index of the class that the threshold speaks of."""
    chosen = getattr(estimator, "pos_label", None)
    if chosen is None:
        scorer = getattr(estimator, "_curve_scorer", None)
        chosen = scorer._get_pos_label() if scorer is not None else None  # noqa: SLF001 - no public form
    return 1 if chosen is None else classes.index(chosen)


def _self_trained(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    return lower(estimator.estimator_, graph, x)


REDUCTIONS: Final[dict[type, Form]] = {
    OneVsRestClassifier: _one_versus_rest,
    OneVsOneClassifier: _one_versus_one,
    OutputCodeClassifier: _output_code,
    CalibratedClassifierCV: _calibrated,
    FixedThresholdClassifier: _thresholded,
    TunedThresholdClassifierCV: _thresholded,
    SelfTrainingClassifier: _self_trained,
}
