"""Support vector machines with kernels, in float64 between the scaler and the answer.

Kernel sums cancel: hundreds of terms with alternating signs leave a small difference, and in
float32 that difference is often noise. float64, as in scikit-learn, costs little beside it. A
linear kernel needs no sum over support vectors and becomes one layer.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC, SVR, NuSVC, NuSVR, OneClassSVM

from converter.lowering.fallback import foreign_head
from converter.lowering.graph import Graph
from converter.lowering.heads import Head, argmax_label, column
from converter.lowering.linear import layer
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]


def _kernel(estimator: Any, graph: Graph, x: str) -> str:
    """Kernel values (N, support vectors), float64, of x float64 (N, features)."""
    vectors = np.asarray(estimator.support_vectors_, dtype=np.float64)
    gamma = float(estimator._gamma)  # noqa: SLF001 - "scale" as a number; there is no public form
    product = graph.add("MatMul", x, graph.constant(vectors.T, np.float64))

    def number(value: float) -> str:
        return graph.constant(value, np.float64)

    if estimator.kernel == "linear":
        return product
    if estimator.kernel == "rbf":  # exp(-gamma |x - v|**2), the square multiplied out
        own = graph.add("ReduceSumSquare", x, graph.constant([1], np.int64))
        squares = graph.constant(np.sum(vectors**2, axis=1), np.float64)
        twice = graph.add("Mul", product, number(-2.0))
        distance = graph.add("Add", graph.add("Add", twice, own), squares)
        return graph.add("Exp", graph.add("Mul", distance, number(-gamma)))
    inner = graph.add("Mul", product, number(gamma))
    inner = graph.add("Add", inner, number(float(estimator.coef0)))
    if estimator.kernel == "poly":
        return graph.add("Pow", inner, number(float(estimator.degree)))
    if estimator.kernel == "sigmoid":
        return graph.add("Tanh", inner)
    raise ConfigError(
        f"{type(estimator).__name__} with kernel={estimator.kernel!r} has no ONNX form: fit it "
        "with one of the kernels linear, rbf, poly, sigmoid"
    )


def _decisions(estimator: Any, graph: Graph, x: str, weights: F64, bias: F64) -> str:
    """Kernel values times weights (support vectors, K) plus bias, float64 (N, K)."""
    kernel = _kernel(estimator, graph, graph.cast(x, np.float64))
    total = graph.add("MatMul", kernel, graph.constant(weights, np.float64))
    return graph.add("Add", total, graph.constant(bias, np.float64))


def _pair_weights(estimator: Any) -> F64:
    """Weights (support vectors, pairs) of one-versus-one decisions, positive for the first class.

    ``dual_coef_`` holds, for a vector of class i, its coefficients against the other classes in
    order; see the LibSVM FAQ on ``sv_coef``.
    """
    dual = np.asarray(estimator.dual_coef_, dtype=np.float64)
    ends = np.cumsum(estimator.n_support_)
    spans = [slice(end - count, end) for end, count in zip(ends, estimator.n_support_, strict=True)]
    pairs = list(combinations(range(len(spans)), 2))
    weights = np.zeros((dual.shape[1], len(pairs)))
    for pair, (i, j) in enumerate(pairs):
        weights[spans[i], pair] = dual[j - 1, spans[i]]
        weights[spans[j], pair] = dual[i, spans[j]]
    return weights


def _classifier(estimator: Any, graph: Graph, x: str) -> Head:
    """Scores as ``decision_function`` gives them; the label by the votes of all pairs."""
    count = len(estimator.classes_)
    bias = np.asarray(estimator.intercept_, dtype=np.float64)
    if count == 2:
        weights = np.asarray(estimator.dual_coef_, dtype=np.float64).T
        if estimator.kernel == "linear" and not hasattr(estimator, "predict_proba"):
            single = np.asarray(estimator.coef_, dtype=np.float64).T
            return Head(layer(graph, x, single * [-1.0, 1.0], bias * [-1.0, 1.0]))
        weights, bias = weights * [-1.0, 1.0], bias * [-1.0, 1.0]
        raw = _decisions(estimator, graph, x, weights, bias)
        scores, label = graph.cast(raw, np.float32), argmax_label(graph, raw)
    else:
        raw = _decisions(estimator, graph, x, _pair_weights(estimator), bias)
        scores, label = _votes(estimator, graph, raw, count)
    if hasattr(estimator, "predict_proba"):
        # Pairwise coupling is an iteration inside onnxruntime's operator; only the label is ours.
        foreign = foreign_head(estimator, graph, x)
        decision = column(graph, scores, 1) if count == 2 else scores
        return Head(foreign.scores, label, foreign.notes, decision)
    return Head(scores, None if count == 2 else label)


def _votes(estimator: Any, graph: Graph, raw: str, count: int) -> tuple[str, str]:
    """Scores and label of three or more classes from the decisions of all pairs.

    As in ``sklearn.utils.multiclass._ovr_decision_function``: votes plus the summed confidences
    squeezed into (-1/3, 1/3).
    """
    if estimator.decision_function_shape != "ovr":
        raise ConfigError(
            f"{type(estimator).__name__} with decision_function_shape="
            f"{estimator.decision_function_shape!r} gives no score for each class: set it to 'ovr' "
            "(no new fit is needed)"
        )
    pairs = list(combinations(range(count), 2))
    first, second = np.zeros((len(pairs), count)), np.zeros((len(pairs), count))
    for row, (i, j) in enumerate(pairs):
        first[row, i] = second[row, j] = 1.0

    def times(a: str, matrix: F64) -> str:
        return graph.add("MatMul", a, graph.constant(matrix, np.float64))

    zero = graph.constant(0.0, np.float64)
    negative = graph.cast(graph.add("Less", raw, zero), np.float64)
    # A vote for the second class where negative, else for the first.
    votes = times(negative, second - first)
    votes = graph.add("Add", votes, graph.constant(first.sum(axis=0), np.float64))
    confidence = times(raw, first - second)
    bound = graph.add("Add", graph.add("Abs", confidence), graph.constant(1.0, np.float64))
    squeezed = graph.add(
        "Div", confidence, graph.add("Mul", bound, graph.constant(3.0, np.float64))
    )
    scores = graph.add("Add", votes, squeezed)
    label = argmax_label(graph, scores if estimator.break_ties else votes)
    return graph.cast(scores, np.float32), label


def _regressor(estimator: Any, graph: Graph, x: str) -> Head:
    bias = np.asarray(estimator.intercept_, dtype=np.float64)
    if estimator.kernel == "linear":
        return Head(layer(graph, x, np.asarray(estimator.coef_, dtype=np.float64).T, bias))
    weights = np.asarray(estimator.dual_coef_, dtype=np.float64).T
    return Head(graph.cast(_decisions(estimator, graph, x, weights, bias), np.float32))


def _one_class(estimator: Any, graph: Graph, x: str) -> Head:
    weights = -np.asarray(estimator.dual_coef_, dtype=np.float64).T
    bias = -np.asarray(estimator.intercept_, dtype=np.float64)
    return Head(graph.cast(_decisions(estimator, graph, x, weights, bias), np.float32))


SVMS: Final[dict[type, Callable[[Any, Graph, str], Head]]] = {
    SVC: _classifier,
    NuSVC: _classifier,
    SVR: _regressor,
    NuSVR: _regressor,
    OneClassSVM: _one_class,
}
