"""Nearest neighbours by their mean: one product, one selection, one look-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from converter.fallback import foreign_head
from converter.graph import Graph
from converter.heads import Head
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


def _is_euclidean(estimator: Any) -> bool:
    """Whether the own form applies; other distances are skl2onnx's.

    Raises:
        ConfigError: neighbours are weighted. skl2onnx's weights by distance are wrong for a reading
            that equals a training sample.
    """
    if estimator.weights != "uniform":
        raise ConfigError(
            f"{type(estimator).__name__} with weights={estimator.weights!r} has no ONNX form here: "
            "fit it with weights='uniform'"
        )
    return bool(estimator.effective_metric_ == "euclidean")


def _classifier(estimator: Any, graph: Graph, x: str) -> Head:
    if not _is_euclidean(estimator):
        return foreign_head(estimator, graph, x)
    members = np.asarray(estimator._y).ravel()  # noqa: SLF001 - as indices into the classes
    values = np.eye(len(estimator.classes_))[members]
    return Head(_mean_of_nearest(estimator, graph, x, values))


def _regressor(estimator: Any, graph: Graph, x: str) -> Head:
    if not _is_euclidean(estimator):
        return foreign_head(estimator, graph, x)
    values = np.asarray(estimator._y, dtype=np.float64)  # noqa: SLF001 - as above
    return Head(_mean_of_nearest(estimator, graph, x, values.reshape(len(values), -1)))


NEIGHBOURS: Final[dict[type, Callable[[Any, Graph, str], Head]]] = {
    KNeighborsClassifier: _classifier,
    KNeighborsRegressor: _regressor,
}
