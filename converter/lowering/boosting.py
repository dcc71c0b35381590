"""Boosting by scikit-learn: gradient boosting as one tree node, AdaBoost as weighted votes.

As in :mod:`converter.lowering.committees`, ``lower`` writes the form of a member.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
)

from converter.lowering.committees import Form, Lower, members_on
from converter.lowering.graph import Graph
from converter.lowering.heads import (
    Head,
    above_label,
    argmax_label,
    both_sides,
    column,
    member_votes,
    response,
    side_by_side,
    sign_label,
    total,
)
from converter.lowering.trees import ensemble, plain_tree

_EPS: Final = float(np.finfo(np.float64).eps)


def _raw(estimator: Any, graph: Graph, x: str, lower: Lower) -> tuple[str, tuple[str, ...]]:
    """Raw predictions (N, K) of gradient boosting, and notes about its start."""
    count = estimator.estimators_.shape[1]
    trees = []
    for place, member in (pair for row in estimator.estimators_ for pair in enumerate(row)):
        values = np.zeros((member.tree_.node_count, count))
        values[:, place] = member.tree_.value[:, 0, 0] * estimator.learning_rate
        trees.append(plain_tree(member.tree_, values))
    start = estimator.init_
    if isinstance(start, str | DummyClassifier | DummyRegressor):
        nothing = np.zeros((1, estimator.n_features_in_), dtype=np.float32)
        # The constant start in the unit of the loss, which no public method tells.
        base = np.ravel(estimator._raw_predict_init(nothing))  # noqa: SLF001
        return ensemble(graph, x, trees, base=base.tolist()), ()
    head = lower(start, graph, x)
    value = head.scores
    if isinstance(estimator, GradientBoostingClassifier):
        shares = response(graph, start, head, "predict_proba")
        exponential = estimator.loss == "exponential"
        value = _linked(graph, shares, len(estimator.classes_), exponential=exponential)
    return graph.add("Add", value, ensemble(graph, x, trees)), head.notes


def _linked(graph: Graph, shares: str, classes: int, *, exponential: bool) -> str:
    """Probabilities (N, classes) in the unit of the loss: (N, 1) of two classes, else (N, K)."""
    low, high = graph.constant(_EPS, np.float64), graph.constant(1.0 - _EPS, np.float64)
    wide = graph.cast(column(graph, shares, 1) if classes == 2 else shares, np.float64)
    wide = graph.add("Clip", wide, low, high)
    logs = graph.add("Log", wide)
    if classes == 2:
        rest = graph.add("Sub", graph.constant(1.0, np.float64), wide)
        logit = graph.add("Sub", logs, graph.add("Log", rest))
        scale = graph.constant(0.5 if exponential else 1.0, np.float64)
        return graph.cast(graph.add("Mul", logit, scale), np.float32)
    mean = graph.add("ReduceMean", logs, graph.constant([1], np.int64))
    return graph.cast(graph.add("Sub", logs, mean), np.float32)


def _gradient_classifier(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    raw, notes = _raw(estimator, graph, x, lower)
    if len(estimator.classes_) > 2:
        return Head(graph.add("Softmax", raw, axis=1), notes=notes, decision=raw)
    sharp = raw
    if estimator.loss == "exponential":
        sharp = graph.add("Mul", raw, graph.constant(2.0))
    scores = both_sides(graph, graph.add("Sigmoid", sharp))
    return Head(scores, sign_label(graph, raw), notes, raw)


def _gradient_regressor(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    raw, notes = _raw(estimator, graph, x, lower)
    return Head(raw, notes=notes)


def _ada_classifier(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """SAMME: weighted votes, in which a vote for one class counts against all others."""
    heads, notes = members_on(estimator.estimators_, graph, x, lower)
    classes = len(estimator.classes_)
    weights = np.asarray(estimator.estimator_weights_, dtype=np.float64)[: len(heads)]
    table = np.full((classes, classes), -1.0 / (classes - 1))
    np.fill_diagonal(table, 1.0)
    share = weights / np.asarray(estimator.estimator_weights_).sum()
    parts = [
        member_votes(graph, head, table * weight) for head, weight in zip(heads, share, strict=True)
    ]
    votes = total(graph, parts)
    return _ada_head(graph, votes, classes, notes)


def _ada_head(graph: Graph, votes: str, classes: int, notes: tuple[str, ...] = ()) -> Head:
    """The head of an AdaBoostClassifier from its votes (N, classes), which sum to 0."""
    spread = graph.add("Mul", votes, graph.constant(1.0 / (classes - 1)))
    scores = graph.add("Softmax", spread, axis=1)
    if classes > 2:
        return Head(scores, argmax_label(graph, votes), notes, votes)
    decision = graph.add("Mul", column(graph, votes, 1), graph.constant(2.0))
    return Head(scores, above_label(graph, decision), notes, decision)


def _ada_regressor(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """The weighted median of the members' values."""
    heads, notes = members_on(estimator.estimators_, graph, x, lower)
    values = side_by_side(graph, [head.scores for head in heads])
    weights = np.asarray(estimator.estimator_weights_, dtype=np.float64)[: len(heads)]
    count = graph.constant([len(heads)], np.int64)
    ordered, places = graph.add_all("TopK", values, count, outputs=2, largest=0, axis=1)
    weight = graph.add("Gather", graph.constant(weights, np.float64), places, axis=0)
    below = graph.add("CumSum", weight, graph.constant(1, np.int64))
    half = graph.constant(0.5 * np.cumsum(weights)[-1], np.float64)
    reached = graph.cast(graph.add("GreaterOrEqual", below, half), np.int32)
    first = graph.add("ArgMax", reached, axis=1, keepdims=1)
    return Head(graph.add("GatherElements", ordered, first, axis=1), notes=notes)


BOOSTED: Final[dict[type, Form]] = {
    AdaBoostClassifier: _ada_classifier,
    AdaBoostRegressor: _ada_regressor,
    GradientBoostingClassifier: _gradient_classifier,
    GradientBoostingRegressor: _gradient_regressor,
}
