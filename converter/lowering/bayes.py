"""Naive Bayes on categories: a look-up for each feature, their sum, a softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from sklearn.naive_bayes import CategoricalNB

from converter.lowering.graph import Graph
from converter.lowering.heads import Head, total


def _categorical(estimator: Any, graph: Graph, x: str) -> Head:
    """Log probabilities of each feature's category; readings are cut to whole numbers.

    The original raises an error on a category that it was not fitted on; here the nearest counts.
    """
    parts = []
    for number, table in enumerate(estimator.feature_log_prob_):
        last = np.asarray(table).shape[1] - 1
        value = graph.add("Gather", x, graph.constant(number, np.int64), axis=1)
        known = graph.add("Clip", value, graph.constant(0.0), graph.constant(float(last)))
        rows = graph.constant(np.asarray(table).T, np.float64)
        parts.append(graph.add("Gather", rows, graph.cast(known, np.int64), axis=0))
    prior = graph.constant(np.asarray(estimator.class_log_prior_)[None], np.float64)
    logs = graph.add("Add", total(graph, parts), prior)
    return Head(graph.cast(graph.add("Softmax", logs, axis=1), np.float32))


BAYES: Final[dict[type, Callable[[Any, Graph, str], Head]]] = {CategoricalNB: _categorical}
