"""What the end of a model gives, and how scores are read from an estimator.

The same rule serves both sides: :func:`score_method` says which method of the original estimator
is "its scores", and the ONNX forms compute that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_outlier_detector, is_regressor

from converter.lowering.graph import Graph
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Task

ScoreMethod = Literal["predict_proba", "decision_function", "predict"]


@dataclass(frozen=True)
class Head:
    """The tensors at the end of a model.

    Attributes:
        scores: float32 (N, K): class scores, anomaly scores (K = 1) or regression values.
        label: int64 (N,), an index into the classes; None where it is the argmax of the scores
            (classification) or their sign (anomaly), and for regression.
        notes: what a reader of the report should know.
        decision: (N, 1) of two classes, else (N, K): what ``decision_function`` gives, where the
            scores are something else. Members of a committee are asked for it.
    """

    scores: str
    label: str | None = None
    notes: tuple[str, ...] = ()
    decision: str | None = None


def task_of(estimator: Any) -> Task:
    """The task that an estimator solves.

    Raises:
        ConfigError: it is none of the three.
    """
    if not hasattr(estimator, "predict"):
        raise ConfigError(_no_model(estimator))
    if is_classifier(estimator):
        return "classification"
    if is_regressor(estimator):
        return "regression"
    if is_outlier_detector(estimator):
        return "anomaly"
    raise ConfigError(_no_model(estimator))


def _no_model(estimator: Any) -> str:
    return (
        f"{type(estimator).__name__} is not a classifier, regressor or outlier detector: "
        "build the bundle from a model that ends in one"
    )


def score_method(estimator: Any) -> ScoreMethod:
    """The method whose result is a classifier's scores: the first of these that it has."""
    if hasattr(estimator, "predict_proba"):
        return "predict_proba"
    return "decision_function" if hasattr(estimator, "decision_function") else "predict"


def class_scores(estimator: Any, x: Any) -> NDArray[np.float64]:
    """A classifier's scores (n, classes).

    Binary decision values d become (-d, d); a classifier that only predicts gives 1 for the
    predicted class and 0 elsewhere.
    """
    method = score_method(estimator)
    given: NDArray[Any] = np.asarray(getattr(estimator, method)(x))
    if method == "predict":
        return _same(given, estimator).astype(np.float64)
    if given.ndim == 1:
        given = np.stack([-given, given], axis=1)
    return given.astype(np.float64)


def class_index(estimator: Any, x: Any) -> NDArray[np.int64]:
    """A classifier's predictions as indices into its classes, int64 (n,).

    Raises:
        ValueError: it predicts several labels at once.
    """
    predicted = np.asarray(estimator.predict(x))
    if predicted.ndim == 2 and predicted.shape[1] == 1:  # as CatBoost gives several classes
        predicted = predicted[:, 0]
    if predicted.ndim != 1 or isinstance(estimator.classes_, list):
        raise ValueError("it predicts several labels at once: train one model for each of them")
    return np.asarray(np.argmax(_same(predicted, estimator), axis=1), dtype=np.int64)


def _same(predicted: NDArray[Any], estimator: Any) -> NDArray[np.bool_]:
    """Which class each prediction is, (n, classes)."""
    return np.asarray(predicted[:, None] == np.asarray(estimator.classes_), dtype=bool)


def member_label(graph: Graph, head: Head) -> str:
    """A classifier's label, int64 (N,), whether it stands alone or is the largest score's."""
    return head.label or argmax_label(graph, head.scores)


def member_votes(graph: Graph, head: Head, table: Any) -> str:
    """The row of ``table`` (own classes, K), float32, that belongs to a classifier's label."""
    return graph.add("Gather", graph.constant(table), member_label(graph, head), axis=0)


def response(graph: Graph, estimator: Any, head: Head, method: str) -> str:
    """What a classifier's method gives: (N, K), or (N, 1) for decisions of two classes.

    Args:
        graph: receives nodes.
        estimator: the classifier.
        head: its form.
        method: ``predict_proba``, ``decision_function`` or ``predict``; the last as the numbers of
            its classes.

    Raises:
        ConfigError: that method has no ONNX form.
    """
    if method == "predict":
        classes = np.asarray(estimator.classes_)
        return member_votes(graph, head, classes.astype(np.float64).reshape(-1, 1))
    if method == "decision_function" and head.decision is not None:
        return head.decision
    if method != score_method(estimator):
        raise ConfigError(
            f"{method} of {type(estimator).__name__} has no ONNX form: choose a member that has "
            f"no {score_method(estimator)}, or another one"
        )
    if method == "decision_function" and len(estimator.classes_) == 2:
        return column(graph, head.scores, 1)
    return head.scores


def column(graph: Graph, tensor: str, number: int) -> str:
    """One column, (N, 1)."""
    return graph.add("Gather", tensor, graph.constant([number], np.int64), axis=1)


def total(graph: Graph, parts: Sequence[str]) -> str:
    """The sum of tensors of one shape."""
    return graph.add("Sum", *parts) if len(parts) > 1 else parts[0]


def side_by_side(graph: Graph, parts: Sequence[str]) -> str:
    """Columns of several tensors in one."""
    return graph.add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def normalized(graph: Graph, shares: str, classes: int) -> str:
    """Rows divided by their sum; where that is 0, every class gets the same."""
    sums = graph.add("ReduceSum", shares, graph.constant([1], np.int64))
    nothing = graph.add("Equal", sums, graph.constant(0.0))
    safe = graph.add("Where", nothing, graph.constant(1.0), sums)
    even = graph.constant(1.0 / classes)
    return graph.add("Where", nothing, even, graph.add("Div", shares, safe))


def both_sides(graph: Graph, p: str) -> str:
    """Scores (1 - p, p) from the probability p (N, 1) of the second class."""
    return graph.add("Concat", graph.add("Sub", graph.constant(1.0), p), p, axis=1)


def sign_label(graph: Graph, raw: str) -> str:
    """The label of a binary classifier that says class 1 where raw (N, 1) >= 0."""
    at_least = graph.add("GreaterOrEqual", raw, graph.constant(0.0))
    return graph.cast(graph.add("Squeeze", at_least, graph.constant([1], np.int64)), np.int64)


def above_label(graph: Graph, raw: str, threshold: float = 0.0) -> str:
    """The label of a binary classifier that says class 1 where raw (N, 1) > threshold."""
    above = graph.add("Greater", raw, graph.constant(threshold))
    return graph.cast(graph.add("Squeeze", above, graph.constant([1], np.int64)), np.int64)


def argmax_label(graph: Graph, raw: str) -> str:
    """The index of the first largest column."""
    return graph.add("ArgMax", raw, axis=1, keepdims=0)
