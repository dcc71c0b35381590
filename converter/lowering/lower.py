"""From a fitted estimator to nodes: a table of own forms, pipelines and unions, then skl2onnx.

A transformer or estimator of a user's own gives its ONNX form by one method::

    def onnx_form(self, graph: converter.lowering.graph.Graph, x: str) -> str: ...

It adds nodes (``graph.add("Mul", x, graph.constant(2.0))``) and returns the name of its result.
``x`` is float32 (N, features), or (N, length, channels) for a class with ``takes_windows = True``.
The result is float32: (N, features) of a transformer; (N, classes) of a classifier, equal to its
``predict_proba`` or else ``decision_function``, whose argmax is its prediction; (N, targets) of a
regressor; (N, 1) of an outlier detector, minus its ``decision_function``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer

from converter.lowering.bayes import BAYES
from converter.lowering.boosting import BOOSTED
from converter.lowering.committees import COMMITTEES
from converter.lowering.dummy import DUMMIES
from converter.lowering.encoders import ENCODERS
from converter.lowering.fallback import foreign_head, foreign_transform
from converter.lowering.gaussian_process import GAUSSIAN
from converter.lowering.graph import Graph
from converter.lowering.heads import Head
from converter.lowering.kernels import KERNEL_HEADS, KERNEL_TRANSFORMS
from converter.lowering.linear import LINEAR
from converter.lowering.neighbours import NEIGHBOURS
from converter.lowering.reductions import REDUCTIONS
from converter.lowering.svm import SVMS
from converter.lowering.targets import TARGETS
from converter.lowering.transforms import TRANSFORMS
from converter.lowering.trees import TREES
from edge_agent.contract.errors import ConfigError

HEADS = {**BAYES, **DUMMIES, **GAUSSIAN, **KERNEL_HEADS, **LINEAR, **NEIGHBOURS, **SVMS, **TREES}
STEPS = {**ENCODERS, **KERNEL_TRANSFORMS, **TRANSFORMS}
MADE_OF_OTHERS = {**BOOSTED, **COMMITTEES, **REDUCTIONS, **TARGETS}


def lower_head(estimator: Any, graph: Graph, x: str) -> Head:
    """Write the nodes of a fitted classifier, regressor or outlier detector.

    Args:
        estimator: fitted.
        graph: receives the nodes.
        x: the estimator's input.

    Raises:
        ConfigError: it has no ONNX form; the message names its class.
    """
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps[:-1]:
            x = lower_transform(step, graph, x)
        return lower_head(estimator.steps[-1][1], graph, x)
    if isinstance(estimator, BaseSearchCV):
        return lower_head(estimator.best_estimator_, graph, x)
    if hasattr(estimator, "onnx_form"):
        return Head(estimator.onnx_form(graph, x))
    kind = type(estimator)
    if own := HEADS.get(kind) or _of_library(kind):
        return own(estimator, graph, x)
    if made := MADE_OF_OTHERS.get(kind):
        return made(estimator, graph, x, lower_head)
    _require_known(estimator)
    return foreign_head(estimator, graph, x)


def lower_transform(step: Any, graph: Graph, x: str) -> str:
    """Write the nodes of a fitted transformer and return the name of its output.

    Raises:
        ConfigError: it has no ONNX form; the message names its class.
    """
    if step is None or step == "passthrough":
        return x
    if isinstance(step, FunctionTransformer) and step.func is None:
        return x
    if isinstance(step, Pipeline):
        for _, inner in step.steps:
            x = lower_transform(inner, graph, x)
        return x
    if hasattr(step, "onnx_form"):
        return str(step.onnx_form(graph, x))
    if own := _UNIONS.get(type(step)) or STEPS.get(type(step)):
        return own(step, graph, x)
    _require_known(step)
    return foreign_transform(step, graph, x)


def _union(union: Any, graph: Graph, x: str) -> str:
    """Concatenated outputs of all members, each times its weight."""
    weights = union.transformer_weights or {}
    parts = []
    for name, member in union.transformer_list:
        if member == "drop":
            continue
        part = lower_transform(member, graph, x)
        if name in weights:
            part = graph.add("Mul", part, graph.constant(weights[name]))
        parts.append(part)
    return graph.add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def _by_columns(union: Any, graph: Graph, x: str) -> str:
    """Concatenated outputs of all members, each on its own columns."""
    weights = union.transformer_weights or {}
    # The columns as numbers, whichever way they were named; there is no public form.
    columns = union._transformer_to_input_indices  # noqa: SLF001
    parts = []
    for name, member, _ in union.transformers_:
        chosen = list(columns[name])
        if member == "drop" or not chosen:
            continue
        part = graph.add("Gather", x, graph.constant(chosen, np.int64), axis=1)
        part = lower_transform(member, graph, part)
        if name in weights:
            part = graph.add("Mul", part, graph.constant(weights[name]))
        parts.append(part)
    return graph.add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


_UNIONS = {FeatureUnion: _union, ColumnTransformer: _by_columns}


_LIBRARIES: Final = frozenset({"xgboost", "lightgbm", "catboost"})


def _of_library(kind: type) -> Callable[[Any, Graph, str], Head] | None:
    """The form of a boosting library's own estimators, which needs its package."""
    library = kind.__module__.partition(".")[0]
    if library not in _LIBRARIES:
        return None
    form: Callable[[Any, Graph, str], Head]
    form = importlib.import_module(f"converter.frontends.{library}").lower_estimator
    return form


def _require_known(estimator: Any) -> None:
    """Refuse a class that is not scikit-learn's own: nobody else can say what it computes."""
    kind = type(estimator)
    if not kind.__module__.startswith("sklearn."):
        raise ConfigError(
            f"{kind.__module__}.{kind.__qualname__} has no ONNX form: give the class a method "
            "onnx_form(self, graph, x) that adds its nodes and returns its output's name "
            "(see converter.lowering.lower)"
        )
