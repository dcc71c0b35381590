"""Models around others: several targets, chains, transformed targets, fewer features.

As in :mod:`converter.lowering.committees`, ``lower`` writes the form of a member.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.feature_selection import RFE, RFECV
from sklearn.linear_model import RANSACRegressor
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

from converter.lowering.committees import Form, Lower, members_on
from converter.lowering.graph import Graph
from converter.lowering.heads import Head, side_by_side
from converter.lowering.transforms import apply_function
from edge_agent.contract.errors import ConfigError

_SCALERS: Final = (MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler)


def _several(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    heads, notes = members_on(estimator.estimators_, graph, x, lower)
    return Head(side_by_side(graph, [head.scores for head in heads]), notes=notes)


def _chain(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """Each member is given the values of those before it as well."""
    values: list[str] = []
    notes: dict[str, None] = {}
    for member in estimator.estimators_:
        head = lower(member, graph, side_by_side(graph, [x, *values]))
        values.append(head.scores)
        notes |= dict.fromkeys(head.notes)
    back = graph.constant(np.argsort(estimator.order_), np.int64)
    ordered = graph.add("Gather", side_by_side(graph, values), back, axis=1)
    return Head(ordered, notes=tuple(notes))


def _transformed(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    head = lower(estimator.regressor_, graph, x)
    back = estimator.transformer_
    if isinstance(back, FunctionTransformer) and not back.inv_kw_args:
        if back.inverse_func is None:
            return head
        return Head(apply_function(back.inverse_func, graph, head.scores), notes=head.notes)
    if type(back) not in _SCALERS or getattr(back, "clip", False):
        raise ConfigError(
            f"TransformedTargetRegressor with {type(back).__name__} has no ONNX form: use a scaler "
            "or a function of numpy"
        )
    # Their inverse is a line: two points of it are all.
    width = back.n_features_in_
    shift = back.inverse_transform(np.zeros((1, width)))
    slope = back.inverse_transform(np.ones((1, width))) - shift
    wide = graph.cast(head.scores, np.float64)
    line = graph.add("Mul", wide, graph.constant(slope, np.float64))
    line = graph.add("Add", line, graph.constant(shift, np.float64))
    return Head(graph.cast(line, np.float32), notes=head.notes)


def _robust(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    return lower(estimator.estimator_, graph, x)


def _selected(estimator: Any, graph: Graph, x: str, lower: Lower) -> Head:
    """A recursive elimination of features answers as the model that it ended with."""
    kept = graph.constant(estimator.get_support(indices=True), np.int64)
    return lower(estimator.estimator_, graph, graph.add("Gather", x, kept, axis=1))


TARGETS: Final[dict[type, Form]] = {
    MultiOutputRegressor: _several,
    RFE: _selected,
    RFECV: _selected,
    RANSACRegressor: _robust,
    RegressorChain: _chain,
    TransformedTargetRegressor: _transformed,
}
