"""Transformers of scikit-learn as ONNX nodes: scalers, selectors, projections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_selection import (
    RFE,
    RFECV,
    GenericUnivariateSelect,
    SelectFdr,
    SelectFpr,
    SelectFromModel,
    SelectFwe,
    SelectKBest,
    SelectPercentile,
    SequentialFeatureSelector,
    VarianceThreshold,
)
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

from converter.graph import Graph

F64 = NDArray[np.float64]


def centre(graph: Graph, x: str, offset: F64 | None) -> str:
    """``x - offset``, as exact as float64 would give it.

    The offset is subtracted in two float32 parts: what the first, rounded part leaves out is
    subtracted from the difference, which is small. A sensor with a large constant part loses
    nothing.
    """
    if offset is None or not np.any(offset):
        return x
    high = np.asarray(offset, dtype=np.float64).astype(np.float32)
    low = (offset - high).astype(np.float32)
    x = graph.add("Sub", x, graph.constant(high))
    return graph.add("Sub", x, graph.constant(low)) if np.any(low) else x


def divide(graph: Graph, x: str, scale: F64 | None) -> str:
    """``x / scale``."""
    if scale is None or np.all(scale == 1.0):
        return x
    return graph.add("Div", x, graph.constant(scale))


def _standard(scaler: Any, graph: Graph, x: str) -> str:
    mean = scaler.mean_ if scaler.with_mean else None
    return divide(graph, centre(graph, x, mean), scaler.scale_)


def _robust(scaler: Any, graph: Graph, x: str) -> str:
    return divide(graph, centre(graph, x, scaler.center_), scaler.scale_)


def _max_abs(scaler: Any, graph: Graph, x: str) -> str:
    return divide(graph, x, scaler.scale_)


def _min_max(scaler: Any, graph: Graph, x: str) -> str:
    low, high = scaler.feature_range
    x = divide(graph, centre(graph, x, scaler.data_min_), 1.0 / scaler.scale_)
    x = graph.add("Add", x, graph.constant(low)) if low else x
    if scaler.clip:
        x = graph.add("Clip", x, graph.constant(low), graph.constant(high))
    return x


def _select(selector: Any, graph: Graph, x: str) -> str:
    kept = selector.get_support(indices=True)
    return graph.add("Gather", x, graph.constant(kept, np.int64), axis=1)


def _pca(pca: Any, graph: Graph, x: str) -> str:
    x = graph.add("MatMul", centre(graph, x, pca.mean_), graph.constant(pca.components_.T))
    return divide(graph, x, np.sqrt(pca.explained_variance_)) if pca.whiten else x


def _svd(svd: Any, graph: Graph, x: str) -> str:
    return graph.add("MatMul", x, graph.constant(svd.components_.T))


TRANSFORMS: Final[dict[type, Callable[[Any, Graph, str], str]]] = {
    StandardScaler: _standard,
    RobustScaler: _robust,
    MaxAbsScaler: _max_abs,
    MinMaxScaler: _min_max,
    PCA: _pca,
    TruncatedSVD: _svd,
    **dict.fromkeys(
        (
            RFE,
            RFECV,
            GenericUnivariateSelect,
            SelectFdr,
            SelectFpr,
            SelectFromModel,
            SelectFwe,
            SelectKBest,
            SelectPercentile,
            SequentialFeatureSelector,
            VarianceThreshold,
        ),
        _select,
    ),
}
