"""Committees: voting, stacking and bagging of any members.

Every function is given ``lower``, which writes the form of a member, see
:func:`converter.lowering.lower.lower_head`. Committees of trees alone are one node, see
:mod:`converter.lowering.trees`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)

from converter.lowering.graph import Graph
from converter.lowering.heads import (
    Head,
    argmax_label,
    column,
    member_votes,
    response,
    side_by_side,
    total,
)

F64 = NDArray[np.float64]
Lower = Callable[[Any, Graph, str], Head]
Form = Callable[[Any, Graph, str, Lower], Head]


def members_on(
    members: Sequence[Any], graph: Graph, x: str, lower: Lower
) -> tuple[list[Head], tuple[str, ...]]:
    """The forms of all members on the same input, and their notes."""
    heads = [lower(member, graph, x) for member in members]
    return heads, tuple(dict.fromkeys(note for head in heads for note in head.notes))


def _weights(estimator: Any) -> list[float]:
    """The weights of the members of a vote that were not dropped, with the sum 1."""
    kept = [member for _, member in estimator.estimators]
    weights = [1.0] * len(kept) if estimator.weights is None else list(estimator.weights)
    used = [weight for member, weight in zip(kept, weights, strict=True) if member != "drop"]
    return [float(weight) / sum(used) for weight in used]


def _voting(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """The weighted mean of the members' probabilities or values."""
    if getattr(estimator, "voting", "soft") == "hard":
        return _hard_voting(estimator, graph, x, lower)
    heads, notes = members_on(estimator.estimators_, graph, x, lower)
    parts = [
        graph.add("Mul", head.scores, graph.constant(weight))
        for head, weight in zip(heads, _weights(estimator), strict=True)
    ]
    return Head(total(graph, parts), notes=notes)


def _hard_voting(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """One class wins, the first of those with most votes; its score is 1, the others' are 0."""
    heads, notes = members_on(estimator.estimators_, graph, x, lower)
    classes = np.eye(len(estimator.classes_))
    given = [1.0] * len(heads) if estimator.weights is None else estimator.weights
    kept = [member for _, member in estimator.estimators]
    weights = [w for member, w in zip(kept, given, strict=True) if member != "drop"]
    parts = [
        member_votes(graph, head, classes * weight)
        for head, weight in zip(heads, weights, strict=True)
    ]
    label = argmax_label(graph, total(graph, parts))
    return Head(graph.add("Gather", graph.constant(classes), label, axis=0), notes=notes)


def _stacking(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """The final estimator on the members' scores, and on the inputs with passthrough."""
    heads, notes = members_on(estimator.estimators_, graph, x, lower)
    parts = []
    for member, head, method in zip(
        estimator.estimators_, heads, estimator.stack_method_, strict=True
    ):
        if not is_classifier(member):
            parts.append(head.scores)
            continue
        scores = response(graph, member, head, method)
        if method == "predict_proba" and len(member.classes_) == 2:
            scores = column(graph, scores, 1)
        parts.append(scores)
    parts += [x] if estimator.passthrough else []
    final = lower(estimator.final_estimator_, graph, side_by_side(graph, parts))
    return Head(final.scores, final.label, (*notes, *final.notes), final.decision)


def _bagging_classifier(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """The mean of the members' probabilities, or the share of their votes."""
    classes = len(estimator.classes_)
    parts: list[str] = []
    notes: dict[str, None] = {}
    for member, columns in _bagged(estimator):
        head = lower(member, graph, _chosen(graph, x, columns))
        notes |= dict.fromkeys(head.notes)
        own = np.asarray(member.classes_, dtype=np.int64)  # the bag numbers its classes
        if not hasattr(member, "predict_proba"):
            parts.append(member_votes(graph, head, np.eye(classes)[own]))
        elif len(own) == classes:
            parts.append(head.scores)
        else:
            spread = graph.constant(np.eye(classes)[own])
            parts.append(graph.add("MatMul", head.scores, spread))
    mean = graph.add("Div", total(graph, parts), graph.constant(float(len(parts))))
    return Head(mean, notes=tuple(notes))


def _bagging_regressor(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    parts: list[str] = []
    notes: dict[str, None] = {}
    for member, columns in _bagged(estimator):
        head = lower(member, graph, _chosen(graph, x, columns))
        notes |= dict.fromkeys(head.notes)
        parts.append(head.scores)
    mean = graph.add("Div", total(graph, parts), graph.constant(float(len(parts))))
    return Head(mean, notes=tuple(notes))


def _bagged(estimator: Any) -> list[tuple[Any, NDArray[np.int64]]]:
    """The members of a bag, each with the columns that it is given."""
    every = np.arange(estimator.n_features_in_)
    return [
        (member, np.array([]) if np.array_equal(columns, every) else np.asarray(columns))
        for member, columns in zip(
            estimator.estimators_, estimator.estimators_features_, strict=True
        )
    ]


def _chosen(graph: Graph, x: str, columns: NDArray[np.int64]) -> str:
    """Some columns; none named means all of them."""
    if not columns.size:
        return x
    return graph.add("Gather", x, graph.constant(columns, np.int64), axis=1)


COMMITTEES: Final[dict[type, Form]] = {
    VotingClassifier: _voting,
    VotingRegressor: _voting,
    StackingClassifier: _stacking,
    StackingRegressor: _stacking,
    BaggingClassifier: _bagging_classifier,
    BaggingRegressor: _bagging_regressor,
}
