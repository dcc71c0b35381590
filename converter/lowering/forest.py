"""Tree ensembles of a finished graph as arrays, and back as nodes.

Two encodings exist. ``TreeEnsembleRegressor`` (ai.onnx.ml 3) spells out a mode in words and four
numbers for every leaf, which onnxruntime keeps in memory for as long as the session lives.
``TreeEnsemble`` (ai.onnx.ml 5, in onnxruntime from 1.21) lists leaves apart, where trees may share
them: half of the memory, the same answers. Its leaves have one target each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from converter.lowering.graph import ML

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]

SHARED_OPSET: Final = 5  # of ai.onnx.ml, the first with TreeEnsemble
_MODES: Final = (
    "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ",
)  # fmt: skip
_LEAF: Final = "LEAF"
_AGGREGATES: Final = ("AVERAGE", "SUM", "MIN", "MAX")
_READ: Final = frozenset({
    "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_truenodeids",
    "nodes_falsenodeids", "nodes_missing_value_tracks_true", "nodes_modes", "nodes_hitrates",
    "target_treeids", "target_nodeids", "target_ids", "target_weights", "n_targets",
    "aggregate_function", "base_values", "post_transform",
})  # fmt: skip


@dataclass(frozen=True)
class Forest:
    """All trees of one node; an index counts the nodes of all of them.

    Attributes:
        roots: index of the first node of each tree.
        true: index of the node for "the comparison holds"; -1 in a leaf.
        false: index of the other node; -1 in a leaf.
        feature: column that an inner node compares.
        cut: what it is compared with.
        mode: comparison, an index into the modes of ``TreeEnsemble``.
        nan_true: where a missing value goes.
        values: (nodes, targets); only the rows of leaves matter.
        aggregate: ``SUM`` or ``AVERAGE``, ``MIN``, ``MAX``, over the trees.
        base: (targets,) is added to the result.
    """

    roots: I64
    true: I64
    false: I64
    feature: I64
    cut: F32
    mode: NDArray[np.uint8]
    nan_true: NDArray[np.bool_]
    values: F32
    aggregate: str
    base: F32

    @property
    def leaf(self) -> NDArray[np.bool_]:
        """Which nodes are leaves."""
        return self.true < 0


def read_forest(node: onnx.NodeProto) -> Forest | None:
    """The trees of a ``TreeEnsembleRegressor``; None when it says more than a forest can."""
    given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    words = [word.decode() for word in given.get("nodes_modes", ())]
    plain = given.get("post_transform", b"NONE") == b"NONE"
    if node.op_type != "TreeEnsembleRegressor" or not plain or not given.keys() <= _READ:
        return None
    leaf = np.array([word == _LEAF for word in words])
    modes = {word: code for code, word in enumerate((*_MODES, _LEAF))}
    ids = np.asarray(given["nodes_nodeids"], np.int64)
    trees = np.asarray(given["nodes_treeids"], np.int64)
    roots = np.flatnonzero(np.r_[True, trees[1:] != trees[:-1]])
    if not np.array_equal(ids, np.arange(len(ids)) - roots[np.searchsorted(trees[roots], trees)]):
        return None  # nodes in another order than that of every converter that we have met
    start = np.repeat(roots, np.diff(np.r_[roots, len(ids)]))
    owners = roots[np.searchsorted(trees[roots], given["target_treeids"])]
    values = np.zeros((len(ids), int(given["n_targets"])), np.float32)
    places = owners + np.asarray(given["target_nodeids"]), np.asarray(given["target_ids"])
    np.add.at(values, places, np.asarray(given["target_weights"], np.float32))
    return Forest(
        roots=roots,
        true=np.where(leaf, -1, start + given["nodes_truenodeids"]),
        false=np.where(leaf, -1, start + given["nodes_falsenodeids"]),
        feature=np.asarray(given["nodes_featureids"], np.int64),
        cut=np.asarray(given["nodes_values"], np.float32),
        mode=np.array([modes[word] for word in words], np.uint8),
        nan_true=_flags(given.get("nodes_missing_value_tracks_true"), len(ids)),
        values=values,
        aggregate=given.get("aggregate_function", b"SUM").decode(),
        base=np.asarray(given.get("base_values", np.zeros(values.shape[1])), np.float32),
    )


def shareable(forest: Forest) -> bool:
    """Whether ``TreeEnsemble`` can say it: every leaf has one target."""
    return bool((np.count_nonzero(forest.values[forest.leaf], axis=1) <= 1).all())


def shared_nodes(
    like: onnx.NodeProto, forest: Forest, leaves: tuple[I64, F32]
) -> list[onnx.NodeProto]:
    """A ``TreeEnsemble`` node, and two that add the base, which it knows nothing of.

    Args:
        like: gives name, input and output.
        forest: inner nodes only: ``true`` and ``false`` index its nodes, or are -1 - leaf.
        leaves: target and weight of each leaf.
    """
    targets, weights = leaves
    to_leaf = [branch < 0 for branch in (forest.true, forest.false)]
    places = [np.where(branch < 0, -1 - branch, branch) for branch in (forest.true, forest.false)]
    attributes: dict[str, Any] = {}
    if forest.nan_true.any():
        attributes["nodes_missing_value_tracks_true"] = forest.nan_true.astype(int).tolist()
    (result,) = like.output
    raw, base = f"{result}_raw", f"{result}_base"
    trees = helper.make_node(
        "TreeEnsemble",
        list(like.input),
        [raw if forest.base.any() else result],
        name=like.name,
        domain=ML,
        n_targets=forest.values.shape[1],
        aggregate_function=_AGGREGATES.index(forest.aggregate),
        tree_roots=forest.roots.tolist(),
        nodes_featureids=forest.feature.tolist(),
        nodes_splits=numpy_helper.from_array(forest.cut, "splits"),
        nodes_modes=numpy_helper.from_array(forest.mode, "modes"),
        nodes_truenodeids=places[0].tolist(),
        nodes_trueleafs=to_leaf[0].astype(int).tolist(),
        nodes_falsenodeids=places[1].tolist(),
        nodes_falseleafs=to_leaf[1].astype(int).tolist(),
        leaf_targetids=targets.tolist(),
        leaf_weights=numpy_helper.from_array(weights, "weights"),
        **attributes,
    )
    if not forest.base.any():
        return [trees]
    constant = helper.make_node(
        "Constant", [], [base], name=base, value=numpy_helper.from_array(forest.base, base)
    )
    return [trees, constant, helper.make_node("Add", [raw, base], [result], name=raw)]


def plain_node(like: onnx.NodeProto, forest: Forest) -> onnx.NodeProto:
    """A ``TreeEnsembleRegressor`` node; trees must stand one behind the other and share nothing."""
    count, leaf = len(forest.true), forest.leaf
    sizes = np.diff(np.r_[forest.roots, count])
    tree, start = np.repeat(np.arange(len(sizes)), sizes), np.repeat(forest.roots, sizes)
    weighs = (forest.values != 0) & leaf[:, None]
    weighs[:, 0] |= leaf & ~weighs.any(axis=1)
    owner, target = np.nonzero(weighs)
    words = (*_MODES, _LEAF)
    attributes: dict[str, Any] = {}
    if forest.nan_true.any():
        attributes["nodes_missing_value_tracks_true"] = (forest.nan_true & ~leaf).astype(int)
    if forest.base.any():
        attributes["base_values"] = forest.base
    columns = {
        "nodes_treeids": tree,
        "nodes_nodeids": np.arange(count) - start,
        "nodes_featureids": np.where(leaf, 0, forest.feature),
        "nodes_values": np.where(leaf, np.float32(0), forest.cut),
        "nodes_truenodeids": np.where(leaf, 0, forest.true - start),
        "nodes_falsenodeids": np.where(leaf, 0, forest.false - start),
        "target_treeids": tree[owner],
        "target_nodeids": (np.arange(count) - start)[owner],
        "target_ids": target,
        "target_weights": forest.values[owner, target],
        **attributes,
    }
    return helper.make_node(
        "TreeEnsembleRegressor",
        list(like.input),
        list(like.output),
        name=like.name,
        domain=ML,
        n_targets=forest.values.shape[1],
        aggregate_function=forest.aggregate,
        nodes_modes=[_LEAF if is_leaf else words[mode] for is_leaf, mode in _kinds(forest)],
        **{name: values.tolist() for name, values in columns.items()},
    )


def _kinds(forest: Forest) -> Sequence[tuple[bool, int]]:
    return list(zip(forest.leaf.tolist(), forest.mode.tolist(), strict=True))


def _flags(values: Sequence[int] | None, count: int) -> NDArray[np.bool_]:
    return np.zeros(count, np.bool_) if values is None else np.asarray(values, np.bool_)
