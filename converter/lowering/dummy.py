"""Baselines that answer the same whatever they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor

from converter.lowering.graph import Graph
from converter.lowering.heads import Head
from edge_agent.contract.errors import ConfigError

_RANDOM: Final = frozenset({"stratified", "uniform"})


def _classifier(estimator: Any, graph: Graph, x: str) -> Head:
    if estimator.strategy in _RANDOM:
        raise ConfigError(
            f"DummyClassifier with the strategy {estimator.strategy!r} answers by chance and has "
            "no ONNX form: choose 'prior', 'most_frequent' or 'constant'"
        )
    nothing = np.zeros((1, estimator.n_features_in_))
    return Head(_always(graph, x, estimator.predict_proba(nothing)))


def _regressor(estimator: Any, graph: Graph, x: str) -> Head:
    return Head(_always(graph, x, estimator.constant_.reshape(1, -1)))


def _always(graph: Graph, x: str, row: Any) -> str:
    """The same row for each of x, whatever its values: not a number times zero is none either."""
    first = graph.add("Gather", x, graph.constant([0], np.int64), axis=1)
    zeros = graph.add("ArgMax", first, axis=1, keepdims=0)
    return graph.add("Gather", graph.constant(row), zeros, axis=0)


DUMMIES: Final[dict[type, Callable[[Any, Graph, str], Head]]] = {
    DummyClassifier: _classifier,
    DummyRegressor: _regressor,
}
