"""Nearest neighbours by their mean: by one product where the distance is Euclidean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, RadiusNeighborsRegressor

from converter.lowering.fallback import foreign_head
from converter.lowering.graph import Graph
from converter.lowering.heads import Head
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]


def _mean_of_nearest(estimator: Any, graph: Graph, x: str, values: F64) -> str:
    """The mean of ``values`` (samples, K) over the k nearest samples, float32 (N, K).

    |v - x|**2 = |x|**2 - 2 x v + |v|**2, of which the first term orders nothing. In float64, about
    the samples' mean, so that nothing that matters cancels.
    """
    # The training samples; scikit-learn has no public view of them.
    samples = np.asarray(estimator._fit_X, dtype=np.float64)  # noqa: SLF001
    middle = samples.mean(axis=0)
    samples = samples - middle
    centred = graph.add("Sub", graph.cast(x, np.float64), graph.constant(middle, np.float64))
    product = graph.add("MatMul", centred, graph.constant(-2.0 * samples.T, np.float64))
    squares = graph.constant(np.sum(samples**2, axis=1), np.float64)
    count = graph.constant([estimator.n_neighbors], np.int64)
    nearest = graph.add_all(
        "TopK", graph.add("Add", product, squares), count, outputs=2, largest=0, sorted=0
    )[1]
    found = graph.add("Gather", graph.constant(values), nearest, axis=0)
    return graph.add("ReduceMean", found, graph.constant([1], np.int64), keepdims=0)


def _distances(estimator: Any, graph: Graph, x: str) -> str:
    """Distances (N, samples), float64; exactly 0 to a sample that equals the reading.

    Raises:
        ConfigError: a metric without an ONNX form.
    """
    samples = np.asarray(estimator._fit_X, dtype=np.float64)  # noqa: SLF001 - as above
    apart = graph.add("Unsqueeze", graph.cast(x, np.float64), graph.constant([1], np.int64))
    steps = graph.add("Abs", graph.add("Sub", apart, graph.constant(samples[None], np.float64)))
    last = graph.constant([2], np.int64)
    metric = estimator.effective_metric_
    if metric == "euclidean":
        return graph.add("ReduceL2", steps, last, keepdims=0)
    if metric in {"manhattan", "cityblock", "l1"}:
        return graph.add("ReduceSum", steps, last, keepdims=0)
    power = estimator.effective_metric_params_.get("p") if metric == "minkowski" else None
    # Distances by one coordinate tie all the time, and the original then takes any of the samples.
    if power is None or estimator.effective_metric_params_.get("w") is not None:
        raise ConfigError(
            f"{type(estimator).__name__} with metric={metric!r} has no ONNX form: fit it with "
            "euclidean, manhattan or an unweighted minkowski"
        )
    powers = graph.add("Pow", steps, graph.constant(float(power), np.float64))
    total = graph.add("ReduceSum", powers, last, keepdims=0)
    return graph.add("Pow", total, graph.constant(1.0 / float(power), np.float64))


def _weights(estimator: Any, graph: Graph, distances: str, near: str | None = None) -> str:
    """Weights like ``distances``, 1 or 1 / distance; samples at distance 0 leave others nothing.

    Args:
        estimator: says which weights.
        graph: receives the nodes.
        distances: float64 (N, samples).
        near: bool (N, samples), the samples that count; all without.
    """
    one, zero = graph.constant(1.0, np.float64), graph.constant(0.0, np.float64)
    if estimator.weights == "uniform":
        assert near is not None
        return graph.cast(near, np.float64)
    same = graph.add("Equal", distances, zero)
    safe = graph.add("Where", same, one, distances)
    inverse = graph.add("Div", one, safe)
    if near is not None:
        inverse = graph.add("Where", near, inverse, zero)
    ones = graph.cast(same, np.float64)
    hits = graph.add("ReduceSum", ones, graph.constant([1], np.int64))
    return graph.add("Where", graph.add("Greater", hits, zero), ones, inverse)


def _weighted_nearest(estimator: Any, graph: Graph, x: str, values: F64) -> str:
    """The weighted mean of ``values`` (samples, K) over the k nearest samples, float32 (N, K)."""
    count = graph.constant([estimator.n_neighbors], np.int64)
    every = _distances(estimator, graph, x)
    distances, nearest = graph.add_all("TopK", every, count, outputs=2, largest=0)
    if estimator.weights == "uniform":
        found = graph.add("Gather", graph.constant(values), nearest, axis=0)
        return graph.add("ReduceMean", found, graph.constant([1], np.int64), keepdims=0)
    weights = _weights(estimator, graph, distances)
    found = graph.add("Gather", graph.constant(values, np.float64), nearest, axis=0)
    each = graph.add("Unsqueeze", weights, graph.constant([2], np.int64))
    summed = graph.add(
        "ReduceSum", graph.add("Mul", found, each), graph.constant([1], np.int64), keepdims=0
    )
    total = graph.add("ReduceSum", weights, graph.constant([1], np.int64))
    return graph.cast(graph.add("Div", summed, total), np.float32)


def _nearest(estimator: Any, graph: Graph, x: str, values: F64) -> Head:
    if estimator.weights not in {"uniform", "distance"}:
        raise ConfigError(
            f"{type(estimator).__name__} with a function as weights has no ONNX form: fit it with "
            "weights='uniform' or 'distance'"
        )
    if estimator.weights == "uniform" and estimator.effective_metric_ == "euclidean":
        return Head(_mean_of_nearest(estimator, graph, x, values))
    return Head(_weighted_nearest(estimator, graph, x, values))


def _by_skl2onnx(estimator: Any) -> bool:
    return bool(estimator.weights == "uniform" and estimator.effective_metric_ == "cosine")


def _classifier(estimator: Any, graph: Graph, x: str) -> Head:
    if _by_skl2onnx(estimator):
        return foreign_head(estimator, graph, x)
    members = np.asarray(estimator._y).ravel()  # noqa: SLF001 - as indices into the classes
    return _nearest(estimator, graph, x, np.eye(len(estimator.classes_))[members])


def _regressor(estimator: Any, graph: Graph, x: str) -> Head:
    if _by_skl2onnx(estimator):
        return foreign_head(estimator, graph, x)
    values = np.asarray(estimator._y, dtype=np.float64)  # noqa: SLF001 - as above
    return _nearest(estimator, graph, x, values.reshape(len(values), -1))


def _within_radius(estimator: Any, graph: Graph, x: str) -> Head:
    """The mean over all samples within the radius; not a number where there is none."""
    if estimator.weights not in {"uniform", "distance"}:
        raise ConfigError(
            f"{type(estimator).__name__} with a function as weights has no ONNX form: fit it with "
            "weights='uniform' or 'distance'"
        )
    distances = _distances(estimator, graph, x)
    radius = graph.constant(float(estimator.radius), np.float64)
    weights = _weights(estimator, graph, distances, graph.add("LessOrEqual", distances, radius))
    values = np.asarray(estimator._y, dtype=np.float64)  # noqa: SLF001 - as above
    table = graph.constant(values.reshape(len(values), -1), np.float64)
    total = graph.add("ReduceSum", weights, graph.constant([1], np.int64))
    mean = graph.add("Div", graph.add("MatMul", weights, table), total)
    return Head(graph.cast(mean, np.float32))


NEIGHBOURS: Final[dict[type, Callable[[Any, Graph, str], Head]]] = {
    KNeighborsClassifier: _classifier,
    KNeighborsRegressor: _regressor,
    RadiusNeighborsRegressor: _within_radius,
}
