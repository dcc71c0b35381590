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


def centre(graph: Graph, x: str, offset: F64) -> str:
    """``x - offset``, as exact as float64 would give it.

    The offset is subtracted in two float32 parts: what the first, rounded part leaves out is
    subtracted from the difference, which is small. A sensor with a large constant part loses
    nothing.
    """
    high = offset.astype(np.float32)
    low = (offset - high).astype(np.float32)
    x = graph.add("Sub", x, graph.constant(high))
    return graph.add("Sub", x, graph.constant(low)) if np.any(low) else x


def _in_place(graph: Graph, x: str, op: str, values: NDArray[Any]) -> str:
    """``x op= values`` as numpy does it: in the wider type, then rounded to float32.

    With the roundings of the original, a tree behind a scaler sees the same bits.
    """
    if values.dtype == np.float32:
        return graph.add(op, x, graph.constant(values))
    wide = graph.add(op, graph.cast(x, np.float64), graph.constant(values, np.float64))
    return graph.cast(wide, np.float32)


def _clip(graph: Graph, x: str, low: float, high: float) -> str:
    return graph.add("Clip", x, graph.constant(low), graph.constant(high))


def _standard(scaler: Any, graph: Graph, x: str) -> str:
    steps = [("Sub", scaler.mean_, scaler.with_mean), ("Div", scaler.scale_, scaler.with_std)]
    used = [(op, np.asarray(values)) for op, values, wanted in steps if wanted]
    if _rounds_parameters(scaler, used):
        used = [(op, values.astype(np.float32)) for op, values in used]
    for op, values in used:
        x = _in_place(graph, x, op, values)
    return x


def _rounds_parameters(scaler: Any, steps: list[tuple[str, NDArray[Any]]]) -> bool:
    """Whether this version of scikit-learn computes in float32 throughout; versions differ."""
    middle, spread = (scaler.mean_, np.sqrt(scaler.var_)) if scaler.with_std else (0.0, 1.0)
    grid = np.linspace(-3.0, 3.0, 64)[:, None] * np.ones(scaler.n_features_in_)
    probe = (middle + spread * grid).astype(np.float32)
    rounded = probe
    for op, values in steps:
        single = values.astype(np.float32)
        rounded = rounded - single if op == "Sub" else rounded / single
    return np.array_equal(rounded, scaler.transform(probe))


def _robust(scaler: Any, graph: Graph, x: str) -> str:
    if scaler.with_centering:
        x = _in_place(graph, x, "Sub", scaler.center_)
    return _in_place(graph, x, "Div", scaler.scale_) if scaler.with_scaling else x


def _max_abs(scaler: Any, graph: Graph, x: str) -> str:
    x = _in_place(graph, x, "Div", scaler.scale_)
    return _clip(graph, x, -1.0, 1.0) if getattr(scaler, "clip", False) else x


def _min_max(scaler: Any, graph: Graph, x: str) -> str:
    x = _in_place(graph, x, "Mul", scaler.scale_)
    x = _in_place(graph, x, "Add", scaler.min_)
    return _clip(graph, x, *scaler.feature_range) if scaler.clip else x


def _select(selector: Any, graph: Graph, x: str) -> str:
    kept = selector.get_support(indices=True)
    return graph.add("Gather", x, graph.constant(kept, np.int64), axis=1)


def _pca(pca: Any, graph: Graph, x: str) -> str:
    x = graph.add(
        "MatMul", centre(graph, x, np.asarray(pca.mean_)), graph.constant(pca.components_.T)
    )
    if not pca.whiten:
        return x
    return graph.add("Div", x, graph.constant(np.sqrt(pca.explained_variance_)))


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
