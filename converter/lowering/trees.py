"""Decision trees, forests, boosting and isolation forests as one tree-ensemble node each.

scikit-learn compares a float32 feature with a float64 threshold, x <= t. The node compares
float32 with float32, so its threshold is the largest float32 that is not above t: both then send
every float32 x the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)

from converter.lowering.graph import ML, Graph
from converter.lowering.heads import Head, both_sides
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]
_EULER_GAMMA: Final = float(np.euler_gamma)


@dataclass(frozen=True)
class Tree:
    """One binary tree as arrays over its nodes, the root first.

    Attributes:
        left: index of the node for x <= threshold; -1 in a leaf.
        right: index of the other node; -1 in a leaf.
        feature: column that an inner node compares.
        threshold: float64.
        nan_left: where a missing value goes.
        values: (nodes, targets); only the rows of leaves matter.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: F64
    nan_left: NDArray[np.bool_]
    values: F64


def float32_cut(threshold: F64) -> NDArray[np.float32]:
    """The largest float32 that is not above each float64 threshold."""
    with np.errstate(over="ignore"):
        cut = threshold.astype(np.float32)
        lower = np.nextafter(cut, np.float32(-np.inf))
    return np.where(cut.astype(np.float64) > threshold, lower, cut)


def ensemble(
    graph: Graph,
    x: str,
    trees: Sequence[Tree],
    *,
    average: bool = False,
    base: Sequence[float] = (),
) -> str:
    """One TreeEnsembleRegressor node: the sum or average of all trees' leaves, (N, targets).

    A weight of 0 is left out unless it is the only one of its leaf. For several targets the base
    is a tree of one leaf for each: onnxruntime forgets the base of a target that no leaf of a row
    has a weight of.
    """
    targets = trees[0].values.shape[1]
    if targets > 1 and not average:
        trees = [*trees, *(single_leaf(row) for row in np.diag(base) if row.any())]
        base = ()
    columns: dict[str, list[NDArray[Any]]] = {}
    for number, tree in enumerate(trees):
        for key, values in _tree_columns(number, tree).items():
            columns.setdefault(key, []).append(values)
    joined = {key: np.concatenate(parts) for key, parts in columns.items()}
    if not joined["nodes_missing_value_tracks_true"].any():
        del joined["nodes_missing_value_tracks_true"]
    modes = ["LEAF" if leaf else "BRANCH_LEQ" for leaf in joined.pop("leaf")]
    attributes = {key: values.tolist() for key, values in joined.items()}
    if any(base):
        attributes["base_values"] = [float(value) for value in base]
    return graph.add(
        "TreeEnsembleRegressor",
        x,
        domain=ML,
        n_targets=targets,
        aggregate_function="AVERAGE" if average else "SUM",
        nodes_modes=modes,
        **attributes,
    )


def single_leaf(values: F64) -> Tree:
    """A tree that gives the same values (targets,) to every row."""
    none, first = np.array([-1]), np.array([0])
    return Tree(none, none, first, np.zeros(1), np.array([False]), values[None, :])


def _tree_columns(number: int, tree: Tree) -> dict[str, NDArray[Any]]:
    """The attributes of one tree."""
    leaf = tree.left < 0
    weighs = (tree.values != 0) & leaf[:, None]
    weighs[:, 0] |= leaf & ~weighs.any(axis=1)
    owner, target = np.nonzero(weighs)
    return {
        "leaf": leaf,
        "nodes_treeids": np.full(len(leaf), number),
        "nodes_nodeids": np.arange(len(leaf)),
        "nodes_featureids": np.where(leaf, 0, tree.feature),
        "nodes_values": float32_cut(np.where(leaf, 0.0, tree.threshold)),
        "nodes_truenodeids": np.where(leaf, 0, tree.left),
        "nodes_falsenodeids": np.where(leaf, 0, tree.right),
        "nodes_missing_value_tracks_true": (tree.nan_left & ~leaf).astype(np.int64),
        "target_treeids": np.full(len(owner), number),
        "target_nodeids": owner,
        "target_ids": target,
        "target_weights": tree.values[owner, target].astype(np.float32),
    }


def plain_tree(tree: Any, values: F64, features: NDArray[np.int64] | None = None) -> Tree:
    """A tree of sklearn.tree with other leaf values; ``features`` maps its columns."""
    feature = np.maximum(tree.feature, 0)
    return Tree(
        left=tree.children_left,
        right=tree.children_right,
        feature=feature if features is None else features[feature],
        threshold=tree.threshold,
        nan_left=np.asarray(tree.missing_go_to_left, dtype=bool),
        values=values,
    )


def _class_trees(members: Iterable[Any], classes: int) -> list[Tree]:
    """Class fractions at the leaves; for two classes only those of the second."""
    first = 1 if classes == 2 else 0
    return [plain_tree(member.tree_, member.tree_.value[:, 0, first:]) for member in members]


def _forest_classifier(estimator: Any, graph: Graph, x: str) -> Head:
    members = getattr(estimator, "estimators_", None) or [estimator]
    classes = len(estimator.classes_)
    share = ensemble(graph, x, _class_trees(members, classes), average=True)
    return Head(both_sides(graph, share) if classes == 2 else share)


def _forest_regressor(estimator: Any, graph: Graph, x: str) -> Head:
    members = getattr(estimator, "estimators_", None) or [estimator]
    trees = [plain_tree(member.tree_, member.tree_.value[:, :, 0]) for member in members]
    return Head(ensemble(graph, x, trees, average=True))


def _histogram(estimator: Any, graph: Graph, x: str) -> str:
    """Raw predictions (N, K) of histogram gradient boosting."""
    count = estimator.n_trees_per_iteration_
    trees = []
    # The grown trees are private to scikit-learn; it has no public view of them.
    for row in estimator._predictors:  # noqa: SLF001
        for column, predictor in enumerate(row):
            nodes = predictor.nodes
            if nodes["is_categorical"].any():
                raise ConfigError(
                    f"{type(estimator).__name__} with categorical features has no ONNX form here: "
                    "fit it on numbers only"
                )
            values = np.zeros((len(nodes), count))
            values[:, column] = nodes["value"]
            leaf = nodes["is_leaf"].astype(bool)
            trees.append(
                Tree(
                    left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
                    right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
                    feature=nodes["feature_idx"].astype(np.int64),
                    threshold=nodes["num_threshold"],
                    nan_left=nodes["missing_go_to_left"].astype(bool),
                    values=values,
                )
            )
    base = np.ravel(estimator._baseline_prediction)  # noqa: SLF001 - as above
    return ensemble(graph, x, trees, base=base.tolist())


def _histogram_classifier(estimator: Any, graph: Graph, x: str) -> Head:
    raw = _histogram(estimator, graph, x)
    if len(estimator.classes_) > 2:
        return Head(graph.add("Softmax", raw, axis=1), decision=raw)
    return Head(both_sides(graph, graph.add("Sigmoid", raw)), decision=raw)


def _histogram_regressor(estimator: Any, graph: Graph, x: str) -> Head:
    raw = _histogram(estimator, graph, x)
    return Head(graph.add("Exp", raw) if estimator.loss in {"poisson", "gamma"} else raw)


def _path_length(samples: NDArray[np.int64]) -> F64:
    """Mean path length of an unsuccessful search among n (Liu, Ting, Zhou: Isolation Forest).

    c(n) = 2 (ln(n - 1) + gamma) - 2 (n - 1) / n; c(2) = 1; c(1) = 0.
    """
    n = np.maximum(samples, 3).astype(np.float64)
    general = 2.0 * (np.log(n - 1.0) + _EULER_GAMMA) - 2.0 * (n - 1.0) / n
    return np.where(samples > 2, general, np.where(samples == 2, 1.0, 0.0))


def _isolation_forest(estimator: Any, graph: Graph, x: str) -> Head:
    """Offset plus 2 ** (-mean depth / c(max_samples)): the negated decision function."""
    trees = []
    for member, features in zip(estimator.estimators_, estimator.estimators_features_, strict=True):
        tree = member.tree_
        depth = np.zeros(tree.node_count)
        for node in range(tree.node_count):  # a parent always stands before its children
            for child in (tree.children_left[node], tree.children_right[node]):
                if child >= 0:
                    depth[child] = depth[node] + 1.0
        length = depth + _path_length(tree.n_node_samples)
        trees.append(plain_tree(tree, length[:, None], np.asarray(features)))
    mean_depth = ensemble(graph, x, trees, average=True)
    normal = float(_path_length(np.array([estimator.max_samples_]))[0])
    if normal == 0.0:
        raise ConfigError(
            "IsolationForest with max_samples=1 cannot tell readings apart: fit it with more"
        )
    exponent = graph.add("Mul", mean_depth, graph.constant(-np.log(2.0) / normal))
    return Head(graph.add("Add", graph.add("Exp", exponent), graph.constant(estimator.offset_)))


TREES: Final[dict[type, Callable[[Any, Graph, str], Head]]] = {
    **dict.fromkeys(
        (
            DecisionTreeClassifier,
            ExtraTreeClassifier,
            RandomForestClassifier,
            ExtraTreesClassifier,
        ),
        _forest_classifier,
    ),
    **dict.fromkeys(
        (DecisionTreeRegressor, ExtraTreeRegressor, RandomForestRegressor, ExtraTreesRegressor),
        _forest_regressor,
    ),
    HistGradientBoostingClassifier: _histogram_classifier,
    HistGradientBoostingRegressor: _histogram_regressor,
    IsolationForest: _isolation_forest,
}
