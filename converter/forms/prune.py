"""Fewer or shallower trees, as few and as shallow as the answers allow.

Unlike :mod:`converter.forms.compact` this changes scores. Each search halves its range a few times
and asks after each step whether the answers are still good enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import onnx

from converter.forms.absent import AbsentForm
from converter.forms.compact import compact, forests_of, replaced
from converter.lowering.forest import I64, Forest, plain_node

_SHARES: Final = 64  # of the trees, tried in steps of this size

Keeps = Callable[[bytes], bool]


def fewer_trees(graph: onnx.ModelProto, keeps: Keeps) -> bytes:
    """The first so many trees of each forest.

    Args:
        graph: with trees.
        keeps: whether a model's answers are good enough.

    Raises:
        AbsentForm: every tree is needed.
    """
    forests = _require_forests(graph)
    model = _smallest(
        _SHARES, lambda share: _encoded(graph, forests, lambda one: _first(one, share)), keeps
    )
    if model is None:
        raise AbsentForm("No smaller number of trees keeps the answers.")
    return model


def shallower_trees(graph: onnx.ModelProto, keeps: Keeps) -> bytes:
    """Trees of limited depth; a branch that is cut off answers with the mean of its leaves.

    Args:
        graph: with trees.
        keeps: whether a model's answers are good enough.

    Raises:
        AbsentForm: their whole depth is needed.
    """
    forests = _require_forests(graph)
    deepest = max(int(_depths(forest).max()) for forest in forests.values())
    means = {name: _with_means(forest) for name, forest in forests.items()}
    model = _smallest(
        deepest, lambda depth: _encoded(graph, means, lambda one: _cut_at(one, depth)), keeps
    )
    if model is None:
        raise AbsentForm("No smaller depth of the trees keeps the answers.")
    return model


def _require_forests(graph: onnx.ModelProto) -> dict[str, Forest]:
    forests = forests_of(graph)
    if not forests or any(
        forest.aggregate not in {"SUM", "AVERAGE"} for forest in forests.values()
    ):
        raise AbsentForm("The trees of this model cannot be taken apart.")
    return forests


def _smallest(whole: int, make: Callable[[int], bytes], keeps: Keeps) -> bytes | None:
    """The model of the smallest size below the whole that bisection finds good enough."""
    low, high, found = 0, whole, None
    while high - low > 1:
        middle = (low + high) // 2
        model = make(middle)
        if keeps(model):
            high, found = middle, model
        else:
            low = middle
    return found


def _encoded(
    graph: onnx.ModelProto, forests: Mapping[str, Forest], change: Callable[[Forest], Forest]
) -> bytes:
    changed = {name: change(forest) for name, forest in forests.items()}
    plain = replaced(graph, changed, lambda node, forest: [plain_node(node, forest)])
    data: bytes = compact(plain).SerializeToString(deterministic=True)
    return data


def _first(forest: Forest, share: int) -> Forest:
    """The first ``share`` of :data:`_SHARES` of the trees, whole rounds of boosting."""
    rounds = forest.values.shape[1] if forest.aggregate == "SUM" else 1
    count = -(-len(forest.roots) * share // (_SHARES * rounds)) * rounds
    if count >= len(forest.roots):
        return forest
    end = int(forest.roots[count])
    kept = replace(forest, roots=forest.roots[:count])
    return _only(kept, np.arange(end))


def _cut_at(forest: Forest, depth: int) -> Forest:
    """Nodes at ``depth`` become leaves with the values that they have."""
    depths = _depths(forest)
    ends = depths == depth
    cut = replace(
        forest, true=np.where(ends, -1, forest.true), false=np.where(ends, -1, forest.false)
    )
    return _only(cut, np.flatnonzero(depths <= depth))


def _only(forest: Forest, kept: I64) -> Forest:
    """The forest with some of its nodes; none of them may lead to another."""
    place = np.full(len(forest.true), -1)
    place[kept] = np.arange(len(kept))
    true, false = forest.true[kept], forest.false[kept]
    return replace(
        forest,
        roots=place[forest.roots],
        true=np.where(true < 0, -1, place[true]),
        false=np.where(false < 0, -1, place[false]),
        feature=forest.feature[kept],
        cut=forest.cut[kept],
        mode=forest.mode[kept],
        nan_true=forest.nan_true[kept],
        values=forest.values[kept],
    )


def _with_means(forest: Forest) -> Forest:
    """The forest with the mean of both branches as the value of each inner node."""
    values, depths = forest.values.astype(np.float64), _depths(forest)
    for depth in range(int(depths.max()) - 1, -1, -1):
        nodes = np.flatnonzero((depths == depth) & ~forest.leaf)
        values[nodes] = (values[forest.true[nodes]] + values[forest.false[nodes]]) / 2
    return replace(forest, values=values.astype(np.float32))


def _depths(forest: Forest) -> I64:
    """Comparisons before each node."""
    depths = np.zeros(len(forest.true), np.int64)
    level = forest.roots
    while level.size:
        inner = level[forest.true[level] >= 0]
        below = depths[inner] + 1
        depths[forest.true[inner]], depths[forest.false[inner]] = below, below
        level = np.concatenate([forest.true[inner], forest.false[inner]])
    return depths
