"""What compares a reading with training samples: kernels, distances to centres.

In float64, as scikit-learn computes them: kernel sums cancel, see :mod:`converter.lowering.svm`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.decomposition import KernelPCA
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.kernel_ridge import KernelRidge

from converter.lowering.graph import Graph
from converter.lowering.heads import Head
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]


def squared_distances(graph: Graph, x: str, samples: F64) -> str:
    """Squared Euclidean distances (N, samples) of x float64 (N, features), never below 0.

    The square multiplied out about the samples' mean, so that little cancels.
    """
    middle = samples.mean(axis=0)
    about = samples - middle
    centred = graph.add("Sub", x, graph.constant(middle, np.float64))
    product = graph.add("MatMul", centred, graph.constant(-2.0 * about.T, np.float64))
    own = graph.add("ReduceSumSquare", centred, graph.constant([1], np.int64))
    squares = graph.constant(np.sum(about**2, axis=1), np.float64)
    full = graph.add("Add", graph.add("Add", product, own), squares)
    return graph.add("Max", full, graph.constant(0.0, np.float64))


def kernel_values(
    graph: Graph, x: str, samples: F64, kernel: str, *, gamma: float, degree: float, coef0: float
) -> str:
    """Kernel values (N, samples) of x float64, as ``sklearn.metrics.pairwise`` defines them.

    Raises:
        ConfigError: an unknown kernel.
    """

    def number(value: float) -> str:
        return graph.constant(value, np.float64)

    if kernel == "rbf":
        distance = squared_distances(graph, x, samples)
        return graph.add("Exp", graph.add("Mul", distance, number(-gamma)))
    if kernel == "cosine":
        lengths = np.linalg.norm(samples, axis=1, keepdims=True)
        samples = samples / np.where(lengths == 0.0, 1.0, lengths)
        x = unit_rows(graph, x, "ReduceL2")
    product = graph.add("MatMul", x, graph.constant(samples.T, np.float64))
    if kernel in {"linear", "cosine"}:
        return product
    inner = graph.add("Add", graph.add("Mul", product, number(gamma)), number(coef0))
    if kernel in {"poly", "polynomial"}:
        return graph.add("Pow", inner, number(degree))
    if kernel == "sigmoid":
        return graph.add("Tanh", inner)
    raise ConfigError(
        f"kernel={kernel!r} has no ONNX form: use one of linear, rbf, poly, sigmoid, cosine"
    )


def unit_rows(graph: Graph, x: str, norm: str) -> str:
    """Rows divided by their norm, an ONNX reduction; rows of norm 0 stay. Float64."""
    length = graph.add(norm, x, graph.constant([1], np.int64))
    nothing = graph.add("Equal", length, graph.constant(0.0, np.float64))
    safe = graph.add("Where", nothing, graph.constant(1.0, np.float64), length)
    return graph.add("Div", x, safe)


def _settings(estimator: Any, gamma: float | None) -> dict[str, float]:
    """Kernel parameters with scikit-learn's defaults."""
    used = 1.0 / estimator.n_features_in_ if gamma is None else float(gamma)
    degree = 3.0 if estimator.degree is None else float(estimator.degree)
    coef0 = 1.0 if estimator.coef0 is None else float(estimator.coef0)
    return {"gamma": used, "degree": degree, "coef0": coef0}


def _require_named(estimator: Any) -> None:
    if not isinstance(estimator.kernel, str):
        raise ConfigError(
            f"{type(estimator).__name__} with a kernel function has no ONNX form: name a kernel"
        )


def _kernel_pca(pca: Any, graph: Graph, x: str) -> str:
    """The centred kernel values, projected."""
    _require_named(pca)
    samples = np.asarray(pca.X_fit_, dtype=np.float64)
    settings = _settings(pca, getattr(pca, "gamma_", pca.gamma))
    values = kernel_values(graph, graph.cast(x, np.float64), samples, pca.kernel, **settings)
    nonzero = np.flatnonzero(pca.eigenvalues_)
    scaled = np.zeros_like(pca.eigenvectors_, dtype=np.float64)
    scaled[:, nonzero] = pca.eigenvectors_[:, nonzero] / np.sqrt(pca.eigenvalues_[nonzero])
    # The kernel centerer takes off each row's mean and each column's, and adds that of all.
    centerer = pca._centerer  # noqa: SLF001 - there is no public form
    rows = np.asarray(centerer.K_fit_rows_, dtype=np.float64)
    mean = graph.add("ReduceMean", values, graph.constant([1], np.int64))
    offset = graph.constant(rows - float(centerer.K_fit_all_), np.float64)
    centred = graph.add("Sub", graph.add("Sub", values, mean), offset)
    return graph.cast(graph.add("MatMul", centred, graph.constant(scaled, np.float64)), np.float32)


def _nystroem(step: Any, graph: Graph, x: str) -> str:
    _require_named(step)
    samples = np.asarray(step.components_, dtype=np.float64)
    wide = graph.cast(x, np.float64)
    values = kernel_values(graph, wide, samples, step.kernel, **_settings(step, step.gamma))
    basis = graph.constant(np.asarray(step.normalization_, dtype=np.float64).T, np.float64)
    return graph.cast(graph.add("MatMul", values, basis), np.float32)


def _fourier(step: Any, graph: Graph, x: str) -> str:
    """Random Fourier features: cos(x w + b) sqrt(2 / components)."""
    wide = graph.cast(x, np.float64)
    angle = graph.add("MatMul", wide, graph.constant(step.random_weights_, np.float64))
    angle = graph.add("Add", angle, graph.constant(step.random_offset_, np.float64))
    scale = graph.constant(np.sqrt(2.0 / step.n_components), np.float64)
    return graph.cast(graph.add("Mul", graph.add("Cos", angle), scale), np.float32)


def _centre_distances(clusters: Any, graph: Graph, x: str) -> str:
    centres = np.asarray(clusters.cluster_centers_, dtype=np.float64)
    squared = squared_distances(graph, graph.cast(x, np.float64), centres)
    return graph.cast(graph.add("Sqrt", squared), np.float32)


def _kernel_ridge(estimator: Any, graph: Graph, x: str) -> Head:
    _require_named(estimator)
    samples = np.asarray(estimator.X_fit_, dtype=np.float64)
    settings = _settings(estimator, estimator.gamma)
    wide = graph.cast(x, np.float64)
    values = kernel_values(graph, wide, samples, estimator.kernel, **settings)
    dual = np.asarray(estimator.dual_coef_, dtype=np.float64).reshape(len(samples), -1)
    return Head(
        graph.cast(graph.add("MatMul", values, graph.constant(dual, np.float64)), np.float32)
    )


KERNEL_TRANSFORMS: Final[dict[type, Callable[[Any, Graph, str], str]]] = {
    BisectingKMeans: _centre_distances,
    KMeans: _centre_distances,
    KernelPCA: _kernel_pca,
    MiniBatchKMeans: _centre_distances,
    Nystroem: _nystroem,
    RBFSampler: _fourier,
}
KERNEL_HEADS: Final[dict[type, Callable[[Any, Graph, str], Head]]] = {KernelRidge: _kernel_ridge}
