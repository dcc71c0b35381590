"""Smaller trees that answer the same, bit for bit.

Branches that no reading can reach are cut off, a comparison that ends in the same leaf either way
becomes that leaf, and equal leaves of all trees are stored once. (onnxruntime refuses trees that
share more than leaves.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import onnx

from converter.lowering.forest import SHARED_OPSET, Forest, read_forest, shareable, shared_nodes
from converter.lowering.graph import ML

_TREES: Final = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor"})
_LEQ: Final = 0

Interval = tuple[float, float]  # a feature is above the first and not above the second
Comparison = tuple[int, float, int, bool, int, int]  # feature, cut, mode, nan_true, true, false


def forests_of(graph: onnx.ModelProto) -> dict[str, Forest] | None:
    """The forest of each tree-ensemble node by the node's name; None if one cannot be read."""
    nodes = [node for node in graph.graph.node if node.op_type in _TREES]
    found = {node.name: read_forest(node) for node in nodes}
    known = {name: forest for name, forest in found.items() if forest is not None}
    return known if len(known) == len(nodes) else None


def compact(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its trees in the small encoding; the graph itself where that is not possible.

    One operator set counts for the whole file, so that either all trees change or none.
    """
    forests = forests_of(graph)
    if not forests or not all(shareable(forest) for forest in forests.values()):
        return graph
    small = replaced(graph, forests, lambda node, forest: _Compact(forest).nodes(node))
    for entry in small.opset_import:
        if entry.domain == ML:
            entry.version = max(entry.version, SHARED_OPSET)
    return small


def replaced(
    graph: onnx.ModelProto,
    forests: dict[str, Forest],
    encode: Callable[[onnx.NodeProto, Forest], list[onnx.NodeProto]],
) -> onnx.ModelProto:
    """A copy of the graph with other nodes for its forests."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        nodes += encode(node, forests[node.name]) if node.name in forests else [node]
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


class _Compact:
    """Collects what remains of a forest. Leaf k has the number -1 - k, a comparison its place."""

    def __init__(self, forest: Forest) -> None:
        self._forest = forest
        self._inner: list[Comparison] = []
        self._leaves: dict[tuple[int, float], int] = {}
        # A missing value takes no part in comparisons: what it may reach is left alone.
        self._narrow = not forest.nan_true.any() and bool((forest.mode[~forest.leaf] == _LEQ).all())

    def nodes(self, like: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The forest as nodes with the name, input and output of another."""
        forest = self._forest
        roots = [self._root(self._tree(root)) for root in forest.roots.tolist()]
        feature, cut, mode, nan_true, true, false = zip(*self._inner, strict=True)
        inner = replace(
            forest,
            roots=np.asarray(roots, np.int64),
            true=np.asarray(true, np.int64),
            false=np.asarray(false, np.int64),
            feature=np.asarray(feature, np.int64),
            cut=np.asarray(cut, np.float32),
            mode=np.asarray(mode, np.uint8),
            nan_true=np.asarray(nan_true, np.bool_),
        )
        targets, weights = zip(*self._leaves, strict=True)
        leaves = np.asarray(targets, np.int64), np.asarray(weights, np.float32)
        return shared_nodes(like, inner, leaves)

    def _tree(self, root: int) -> int:
        """The number of what remains of one tree; branches first, without recursion."""
        forest = self._forest
        todo: list[tuple[int, dict[int, Interval] | None]] = [(root, {})]
        done: list[int] = []
        while todo:
            node, bounds = todo.pop()
            if bounds is None:
                false, true = done.pop(), done.pop()
                done.append(true if true == false < 0 else self._comparison(node, true, false))
            elif forest.true[node] < 0:
                row = forest.values[node]
                target = int(np.abs(row).argmax())
                done.append(self._leaf(target, float(row[target])))
            else:
                todo += self._ways(node, bounds)
        return done[0]

    def _ways(
        self, node: int, bounds: dict[int, Interval]
    ) -> list[tuple[int, dict[int, Interval] | None]]:
        """What is to be done about an inner node: the one branch in reach, or both and the node."""
        forest = self._forest
        true, false = int(forest.true[node]), int(forest.false[node])
        if not self._narrow:
            return [(node, None), (false, {}), (true, {})]
        feature, cut = int(forest.feature[node]), float(forest.cut[node])
        low, high = bounds.get(feature, (-np.inf, np.inf))
        if high <= cut:
            return [(true, bounds)]
        if low >= cut:
            return [(false, bounds)]
        above, below = {**bounds, feature: (cut, high)}, {**bounds, feature: (low, cut)}
        return [(node, None), (false, above), (true, below)]

    def _comparison(self, node: int, true: int, false: int) -> int:
        forest = self._forest
        test = int(forest.feature[node]), float(forest.cut[node]), int(forest.mode[node])
        self._inner.append((*test, bool(forest.nan_true[node]), true, false))
        return len(self._inner) - 1

    def _leaf(self, target: int, weight: float) -> int:
        return -1 - self._leaves.setdefault((target, weight), len(self._leaves))

    def _root(self, number: int) -> int:
        """A tree of one leaf becomes a comparison with that leaf on both sides."""
        if number >= 0:
            return number
        self._inner.append((0, 0.0, _LEQ, False, number, number))
        return len(self._inner) - 1
