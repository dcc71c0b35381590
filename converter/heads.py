"""What the end of a model gives, and how scores are read from an estimator.

The same rule serves both sides: :func:`score_method` says which method of the original estimator
is "its scores", and the ONNX forms compute that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_outlier_detector, is_regressor

from converter.graph import Graph
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
    """

    scores: str
    label: str | None = None
    notes: tuple[str, ...] = ()


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


def both_sides(graph: Graph, p: str) -> str:
    """Scores (1 - p, p) from the probability p (N, 1) of the second class."""
    return graph.add("Concat", graph.add("Sub", graph.constant(1.0), p), p, axis=1)


def sign_label(graph: Graph, raw: str) -> str:
    """The label of a binary classifier that says class 1 where raw (N, 1) >= 0."""
    at_least = graph.add("GreaterOrEqual", raw, graph.constant(0.0))
    return graph.cast(graph.add("Squeeze", at_least, graph.constant([1], np.int64)), np.int64)


def argmax_label(graph: Graph, raw: str) -> str:
    """The index of the first largest column."""
    return graph.add("ArgMax", raw, axis=1, keepdims=0)
