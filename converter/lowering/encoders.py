"""Transformers that look values up or ask where they lie: encoders, bins, imputers.

All compare in float64, as scikit-learn does: a float32 reading beside an edge falls on its side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomTreesEmbedding
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.preprocessing import (
    Binarizer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    QuantileTransformer,
    TargetEncoder,
)

from converter.lowering.curves import interpolated, reached
from converter.lowering.graph import Graph
from converter.lowering.heads import column, side_by_side
from converter.lowering.trees import ensemble, plain_tree
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]


def _numbers(encoder: Any, categories: Any) -> list[F64]:
    """Categories of each column as ascending finite numbers, the only ones that a sensor has."""
    found = []
    for values in categories:
        kind = np.asarray(values).dtype.kind
        numbers = np.asarray(values, dtype=np.float64) if kind in "iufb" else None
        if numbers is None or not np.isfinite(numbers).all():
            raise ConfigError(
                f"{type(encoder).__name__} with categories that are not finite numbers has no "
                "ONNX form: fit it on the numbers that the device reads"
            )
        found.append(numbers)
    return found


def _matches(graph: Graph, x: str, number: int, values: F64) -> str:
    """Which of ``values`` a column is, bool (N, values)."""
    wide = graph.cast(column(graph, x, number), np.float64)
    return graph.add("Equal", wide, graph.constant(values[None], np.float64))


def _one_hot(encoder: Any, graph: Graph, x: str) -> str:
    """Ones by comparison; infrequent categories share a column, a dropped one has none."""
    parts = []
    infrequent = getattr(encoder, "infrequent_categories_", None)
    for number, values in enumerate(_numbers(encoder, encoder.categories_)):
        hits = graph.cast(_matches(graph, x, number, values), np.float32)
        rare = np.zeros(len(values), dtype=bool)
        if infrequent is not None and infrequent[number] is not None:
            rare = np.isin(values, np.asarray(infrequent[number], dtype=np.float64))
        table = np.eye(len(values))[:, ~rare]
        if rare.any():
            table = np.column_stack([table, rare])
        dropped = None if encoder.drop_idx_ is None else encoder.drop_idx_[number]
        if dropped is not None and not rare.any():
            table = np.delete(table, int(dropped), axis=1)
        elif dropped is not None:
            raise ConfigError(
                "OneHotEncoder with both drop and infrequent categories has no ONNX form: fit it "
                "with one of them"
            )
        if rare.any() and encoder.handle_unknown == "infrequent_if_exist":
            # An unknown value counts as infrequent: what matches nothing else.
            known = graph.add("MatMul", hits, graph.constant(table[:, :-1]))
            sums = graph.add("ReduceSum", known, graph.constant([1], np.int64))
            parts += [known, graph.add("Sub", graph.constant(1.0), sums)]
            continue
        if np.array_equal(table, np.eye(len(values))):
            parts.append(hits)
        else:
            parts.append(graph.add("MatMul", hits, graph.constant(table)))
    return side_by_side(graph, parts)


def _ordinal(encoder: Any, graph: Graph, x: str) -> str:
    """The number of the category; the encoder's own value where it is unknown."""
    if getattr(encoder, "infrequent_categories_", None) is not None and any(
        values is not None for values in encoder.infrequent_categories_
    ):
        raise ConfigError(
            "OrdinalEncoder with infrequent categories has no ONNX form: fit it without "
            "min_frequency and max_categories"
        )
    parts = []
    for number, values in enumerate(_numbers(encoder, encoder.categories_)):
        hits = graph.cast(_matches(graph, x, number, values), np.float32)
        if encoder.handle_unknown == "use_encoded_value":
            unknown = float(encoder.unknown_value)
            if np.isnan(unknown):
                raise ConfigError("OrdinalEncoder with unknown_value=nan has no ONNX form: name -1")
            table = np.arange(len(values)) - unknown
            part = graph.add("MatMul", hits, graph.constant(table[:, None]))
            parts.append(graph.add("Add", part, graph.constant(unknown)))
        else:
            table = np.arange(len(values), dtype=np.float64)
            parts.append(graph.add("MatMul", hits, graph.constant(table[:, None])))
    return side_by_side(graph, parts)


def _target(encoder: Any, graph: Graph, x: str) -> str:
    """The mean of the target in a category, or over all where it is unknown."""
    numbers = _numbers(encoder, encoder.categories_)
    classes = len(encoder.classes_) if encoder.target_type_ == "multiclass" else 1
    means = np.broadcast_to(np.ravel(encoder.target_mean_), (classes,))
    parts = []
    for place, encoding in enumerate(encoder.encodings_):
        feature, mean = place // classes, float(means[place % classes])
        hits = graph.cast(_matches(graph, x, feature, numbers[feature]), np.float64)
        table = np.asarray(encoding, dtype=np.float64)[: len(numbers[feature])] - mean
        part = graph.add("MatMul", hits, graph.constant(table[:, None], np.float64))
        parts.append(graph.add("Add", part, graph.constant(mean, np.float64)))
    return graph.cast(side_by_side(graph, parts), np.float32)


def _bins(discretizer: Any, graph: Graph, x: str) -> str:
    """How many inner edges a value has reached, as a number or as ones."""
    edges = [np.asarray(column_edges)[1:-1] for column_edges in discretizer.bin_edges_]
    wide = graph.cast(x, np.float64)
    if not max(len(column_edges) for column_edges in edges):
        raise ConfigError("KBinsDiscretizer found one bin in every column: fit it on varied rows")
    places = reached(graph, wide, edges)
    if discretizer.encode == "ordinal":
        return graph.cast(places, np.float32)
    counts = [int(count) for count in discretizer.n_bins_]
    parts = []
    for number, count in enumerate(counts):
        ones = graph.constant(np.eye(count))
        place = graph.add("Gather", places, graph.constant(number, np.int64), axis=1)
        parts.append(graph.add("Gather", ones, place, axis=0))
    return side_by_side(graph, parts)


def _binarize(binarizer: Any, graph: Graph, x: str) -> str:
    edge = graph.constant(float(binarizer.threshold), np.float64)
    return graph.cast(graph.add("Greater", graph.cast(x, np.float64), edge), np.float32)


def _quantiles(transformer: Any, graph: Graph, x: str) -> str:
    """The mean of the interpolations from below and from above: they differ in flat places."""
    if transformer.output_distribution != "uniform":
        raise ConfigError(
            "QuantileTransformer with output_distribution='normal' has no ONNX form: fit it with "
            "'uniform'"
        )
    knots = [np.asarray(values, np.float64) for values in transformer.quantiles_.T]
    heights = [np.asarray(transformer.references_, np.float64)] * len(knots)
    wide = graph.cast(x, np.float64)
    up = interpolated(graph, wide, knots, heights)
    down = interpolated(
        graph, graph.add("Neg", wide), [-k[::-1] for k in knots], [-h[::-1] for h in heights]
    )
    mean = graph.add("Mul", graph.add("Sub", up, down), graph.constant(0.5, np.float64))
    low, high = np.array([k[0] for k in knots]), np.array([k[-1] for k in knots])
    at_low = graph.add("Equal", wide, graph.constant(low, np.float64))
    at_high = graph.add("Equal", wide, graph.constant(high, np.float64))
    mean = graph.add("Where", at_high, graph.constant(1.0, np.float64), mean)
    return graph.cast(graph.add("Where", at_low, graph.constant(0.0, np.float64), mean), np.float32)


def _impute(imputer: Any, graph: Graph, x: str) -> str:
    """Learned values in the place of missing ones, then the marks of where they were."""
    try:
        fills = np.asarray(imputer.statistics_, dtype=np.float64)
    except ValueError as exc:
        raise ConfigError("SimpleImputer of anything but numbers has no ONNX form") from exc
    missing = _missing(graph, x, imputer.missing_values)
    kept = np.flatnonzero(~np.isnan(fills))
    filled = graph.add("Where", missing, graph.constant(np.nan_to_num(fills)), x)
    if len(kept) < len(fills) and not imputer.keep_empty_features:
        filled = graph.add("Gather", filled, graph.constant(kept, np.int64), axis=1)
    if not imputer.add_indicator:
        return filled
    return side_by_side(graph, [filled, _indicate(imputer.indicator_, graph, x)])


def _indicate(indicator: Any, graph: Graph, x: str) -> str:
    marks = graph.cast(_missing(graph, x, indicator.missing_values), np.float32)
    return graph.add("Gather", marks, graph.constant(indicator.features_, np.int64), axis=1)


def _missing(graph: Graph, x: str, mark: Any) -> str:
    """Which values are missing, bool."""
    if not isinstance(mark, int | float):
        raise ConfigError(
            f"an imputer of missing_values={mark!r} has no ONNX form: a device reads numbers"
        )
    if np.isnan(mark):
        return graph.add("IsNaN", x)
    return graph.add("Equal", x, graph.constant(float(mark)))


def _leaves(embedding: Any, graph: Graph, x: str) -> str:
    """A one for the leaf that each tree ends in."""
    encoder = embedding.one_hot_encoder_
    parts = []
    for member, leaves in zip(embedding.estimators_, encoder.categories_, strict=True):
        tree = member.tree_
        values = np.zeros((tree.node_count, len(leaves)))
        values[np.asarray(leaves, dtype=np.int64), np.arange(len(leaves))] = 1.0
        parts.append(ensemble(graph, x, [plain_tree(tree, values)]))
    return side_by_side(graph, parts)


ENCODERS: Final[dict[type, Callable[[Any, Graph, str], str]]] = {
    Binarizer: _binarize,
    KBinsDiscretizer: _bins,
    MissingIndicator: _indicate,
    OneHotEncoder: _one_hot,
    OrdinalEncoder: _ordinal,
    QuantileTransformer: _quantiles,
    RandomTreesEmbedding: _leaves,
    SimpleImputer: _impute,
    TargetEncoder: _target,
}
