"""Linear models and multilayer perceptrons as Gemm layers, which an int8 form can replace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import EllipticEnvelope
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import (
    ARDRegression,
    BayesianRidge,
    ElasticNet,
    ElasticNetCV,
    HuberRegressor,
    Lars,
    LarsCV,
    Lasso,
    LassoCV,
    LassoLars,
    LassoLarsCV,
    LassoLarsIC,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    OrthogonalMatchingPursuit,
    OrthogonalMatchingPursuitCV,
    Perceptron,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
    SGDClassifier,
    SGDOneClassSVM,
    SGDRegressor,
    TheilSenRegressor,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.svm import LinearSVC, LinearSVR

from converter.lowering.graph import Graph
from converter.lowering.heads import Head, above_label, argmax_label, both_sides, normalized
from converter.lowering.transforms import centre

F64 = NDArray[np.float64]

_EXP_LOWEST: Final = -745.0  # the exponential of less is 0 in float64
_STEEP: Final = 32.0  # a weight from which float32 is too coarse for decisions as scores
_ACTIVATIONS: Final = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}


def layer(graph: Graph, x: str, weights: Any, bias: Any) -> str:
    """``x @ weights + bias`` with weights (inputs, outputs): one Gemm node."""
    weights = np.asarray(weights, dtype=np.float64)
    full = np.broadcast_to(np.asarray(bias, dtype=np.float64), weights.shape[1:])
    return graph.add("Gemm", x, graph.constant(weights), graph.constant(full), dense=True)


def _columns(estimator: Any) -> tuple[F64, F64]:
    """Weights (features, outputs) and bias (outputs,) of a linear model."""
    weights = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float64)).T
    bias = np.broadcast_to(np.ravel(estimator.intercept_), weights.shape[1:])
    return weights, np.asarray(bias, dtype=np.float64)


def _two_sided(weights: F64, bias: F64, factor: float) -> tuple[F64, F64]:
    """One column w of a binary model as the columns (-factor * w, factor * w)."""
    sides = np.array([-factor, factor])
    return weights * sides, bias * sides


def _probabilities(graph: Graph, x: str, weights: F64, bias: F64) -> str:
    """Softmax of a layer; for one column d, softmax(-d / 2, d / 2) = (1 - sigmoid, sigmoid)(d)."""
    if weights.shape[1] == 1:
        weights, bias = _two_sided(weights, bias, 0.5)
    return graph.add("Softmax", layer(graph, x, weights, bias), axis=1)


def _softmax_classifier(estimator: Any, graph: Graph, x: str) -> Head:
    weights, bias = _columns(estimator)
    decision = layer(graph, x, weights, bias)
    return Head(_probabilities(graph, x, weights, bias), decision=decision)


def _decision_classifier(estimator: Any, graph: Graph, x: str) -> Head:
    weights, bias = _columns(estimator)
    if weights.shape[1] == 1:
        weights, bias = _two_sided(weights, bias, 1.0)
    if np.abs(weights).max() < _STEEP:
        return Head(layer(graph, x, weights, bias))
    # As of models that are fitted on unscaled data: large terms cancel near the border.
    wide = [graph.constant(part, np.float64) for part in (weights, bias)]
    decision = graph.add("Gemm", graph.cast(x, np.float64), *wide)
    return Head(graph.cast(decision, np.float32))


def _sgd_classifier(estimator: Any, graph: Graph, x: str) -> Head:
    """One-versus-rest probabilities saturate, so the label comes from the decision values."""
    if estimator.loss not in {"log_loss", "modified_huber"}:
        return _decision_classifier(estimator, graph, x)
    weights, bias = _columns(estimator)
    count = weights.shape[1]
    decision = layer(graph, x, weights, bias)
    if estimator.loss == "modified_huber":
        bounded = graph.add("Clip", decision, graph.constant(-1.0), graph.constant(1.0))
        half = graph.constant(0.5)
        share = graph.add("Add", graph.add("Mul", bounded, half), half)
        if count == 1:
            return Head(both_sides(graph, share), above_label(graph, decision), decision=decision)
        shares = normalized(graph, share, count)
        return Head(shares, argmax_label(graph, decision), decision=decision)
    if count == 1:
        return Head(_probabilities(graph, x, weights, bias), decision=decision)
    probe = np.zeros((1, len(weights)), np.float32)
    if estimator.predict_proba(probe).dtype == np.float32:
        shares = normalized(graph, _narrow_sigmoid(graph, decision), count)
    else:  # scikit-learn before 1.9
        shares = _sigmoid_shares(graph, decision)
    return Head(shares, argmax_label(graph, decision), decision=decision)


def _narrow_sigmoid(graph: Graph, decision: str) -> str:
    """1 / (1 + exp(-d)), which is 0 where exp(-d) is beyond float32, as in the original."""
    power = graph.add("Exp", graph.add("Neg", decision))
    return graph.add("Reciprocal", graph.add("Add", power, graph.constant(1.0)))


def _sigmoid_shares(graph: Graph, decision: str) -> str:
    """Sigmoids of decisions (N, K), divided by their sum.

    As the softmax of their logarithms, so that float32 holds what would underflow there and does
    not in the original's float64. Where that underflows as well, all classes share.
    """
    logs = graph.add("Neg", graph.add("Softplus", graph.add("Neg", decision)))
    best = graph.add("ReduceMax", decision, graph.constant([1], np.int64))
    lost = graph.add("Less", best, graph.constant(_EXP_LOWEST))
    return graph.add("Softmax", graph.add("Where", lost, graph.constant(0.0), logs), axis=1)


def _regressor(estimator: Any, graph: Graph, x: str) -> Head:
    return Head(layer(graph, x, *_columns(estimator)))


def _one_class_sgd(estimator: Any, graph: Graph, x: str) -> Head:
    weights = -np.asarray(estimator.coef_, dtype=np.float64).reshape(-1, 1)
    return Head(layer(graph, x, weights, np.ravel(estimator.offset_)))


def _hidden(estimator: Any, graph: Graph, x: str) -> str:
    """The hidden layers of a perceptron."""
    for weights, bias in zip(estimator.coefs_[:-1], estimator.intercepts_[:-1], strict=True):
        x = layer(graph, x, weights, bias)
        if estimator.activation != "identity":
            x = graph.add(_ACTIVATIONS[estimator.activation], x)
    return x


def _mlp_classifier(estimator: Any, graph: Graph, x: str) -> Head:
    weights, bias = estimator.coefs_[-1], estimator.intercepts_[-1]
    return Head(_probabilities(graph, _hidden(estimator, graph, x), weights, bias))


def _mlp_regressor(estimator: Any, graph: Graph, x: str) -> Head:
    hidden = _hidden(estimator, graph, x)
    value = layer(graph, hidden, estimator.coefs_[-1], estimator.intercepts_[-1])
    return Head(graph.add("Exp", value) if estimator.out_activation_ == "exp" else value)


def _elliptic(estimator: Any, graph: Graph, x: str) -> Head:
    """Squared Mahalanobis distance as the length of the whitened vector, plus the offset.

    Whitening by the Cholesky factor of the precision avoids the cancellation of x P x in float32.
    """
    root = np.linalg.cholesky(np.asarray(estimator.get_precision(), dtype=np.float64))
    centred = centre(graph, x, np.asarray(estimator.location_, dtype=np.float64))
    white = graph.add("MatMul", centred, graph.constant(root))
    squared = graph.add("ReduceSumSquare", white, graph.constant([1], np.int64))
    return Head(graph.add("Add", squared, graph.constant(estimator.offset_)))


LINEAR: Final[dict[type, Callable[[Any, Graph, str], Head]]] = {
    **dict.fromkeys(
        (LogisticRegression, LogisticRegressionCV, LinearDiscriminantAnalysis), _softmax_classifier
    ),
    **dict.fromkeys(
        (LinearSVC, Perceptron, RidgeClassifier, RidgeClassifierCV), _decision_classifier
    ),
    SGDClassifier: _sgd_classifier,
    SGDOneClassSVM: _one_class_sgd,
    **dict.fromkeys(
        (
            ARDRegression,
            BayesianRidge,
            ElasticNet,
            ElasticNetCV,
            HuberRegressor,
            Lars,
            LarsCV,
            Lasso,
            LassoCV,
            LassoLars,
            LassoLarsCV,
            LassoLarsIC,
            LinearRegression,
            LinearSVR,
            OrthogonalMatchingPursuit,
            OrthogonalMatchingPursuitCV,
            Ridge,
            RidgeCV,
            SGDRegressor,
            TheilSenRegressor,
        ),
        _regressor,
    ),
    MLPClassifier: _mlp_classifier,
    MLPRegressor: _mlp_regressor,
    EllipticEnvelope: _elliptic,
}
