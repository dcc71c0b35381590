"""Transformers of scikit-learn as ONNX nodes: scalers, selectors, projections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
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
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    RobustScaler,
    StandardScaler,
)

from converter.lowering.graph import Graph
from converter.lowering.kernels import unit_rows
from edge_agent.contract.errors import ConfigError

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


def _normalize(normalizer: Any, graph: Graph, x: str) -> str:
    """Rows divided by their norm, in float64 and rounded once."""
    wide = graph.cast(x, np.float64)
    if normalizer.norm != "max":
        name = {"l1": "ReduceL1", "l2": "ReduceL2"}[normalizer.norm]
        return graph.cast(unit_rows(graph, wide, name), np.float32)
    largest = graph.add("ReduceMax", graph.add("Abs", wide), graph.constant([1], np.int64))
    nothing = graph.add("Equal", largest, graph.constant(0.0, np.float64))
    safe = graph.add("Where", nothing, graph.constant(1.0, np.float64), largest)
    return graph.cast(graph.add("Div", wide, safe), np.float32)


_FUNCTIONS: Final = {
    np.abs: "Abs",
    np.cos: "Cos",
    np.exp: "Exp",
    np.log: "Log",
    np.negative: "Neg",
    np.reciprocal: "Reciprocal",
    np.sin: "Sin",
    np.sqrt: "Sqrt",
    np.tanh: "Tanh",
}


def apply_function(function: Any, graph: Graph, x: str) -> str:
    """A function of numpy on every value, in float64.

    Raises:
        ConfigError: it has no ONNX form.
    """
    wide = graph.cast(x, np.float64)
    one = graph.constant(1.0, np.float64)
    if function is np.log1p:
        wide = graph.add("Log", graph.add("Add", wide, one))
    elif function is np.expm1:
        wide = graph.add("Sub", graph.add("Exp", wide), one)
    elif function is np.square:
        wide = graph.add("Mul", wide, wide)
    elif function in _FUNCTIONS:
        wide = graph.add(_FUNCTIONS[function], wide)
    else:
        known = ", ".join(sorted(f.__name__ for f in (*_FUNCTIONS, np.log1p, np.expm1, np.square)))
        raise ConfigError(
            f"FunctionTransformer of {getattr(function, '__name__', function)!r} has no ONNX form: "
            f"use one of numpy's {known}, or a transformer of your own with onnx_form (see "
            "converter.lowering.lower)"
        )
    return graph.cast(wide, np.float32)


def _function(step: Any, graph: Graph, x: str) -> str:
    if step.kw_args:
        raise ConfigError(
            "FunctionTransformer with kw_args has no ONNX form: write a transformer of your own "
            "with onnx_form (see converter.lowering.lower)"
        )
    return apply_function(step.func, graph, x)


def _tfidf(step: Any, graph: Graph, x: str) -> str:
    """Counts, weighted by how rare a column is, and normalized."""
    wide = graph.cast(x, np.float64)
    if step.sublinear_tf:
        one, zero = graph.constant(1.0, np.float64), graph.constant(0.0, np.float64)
        empty = graph.add("Equal", wide, zero)
        logs = graph.add("Log", graph.add("Where", empty, one, wide))
        wide = graph.add("Where", empty, zero, graph.add("Add", logs, one))
    if step.use_idf:
        wide = graph.add("Mul", wide, graph.constant(step.idf_, np.float64))
    if step.norm is not None:
        wide = unit_rows(graph, wide, {"l1": "ReduceL1", "l2": "ReduceL2"}[step.norm])
    return graph.cast(wide, np.float32)


TRANSFORMS: Final[dict[type, Callable[[Any, Graph, str], str]]] = {
    FunctionTransformer: _function,
    Normalizer: _normalize,
    StandardScaler: _standard,
    TfidfTransformer: _tfidf,
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
