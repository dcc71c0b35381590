"""XGBoost's JSON: its trees, and whether they are whole.

The library itself trusts the file and can crash, so a file's numbers are checked here before the
library answers anything with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.lowering.boosters import Categories
from converter.lowering.trees import Tree

_OF_NODES = ("right_children", "split_indices", "split_conditions", "default_left", "base_weights")


def forest_of(learner: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[float]]:
    """The part of a file that holds the trees, and the weight of each."""
    kind = learner["gradient_booster"]
    forest = kind["gbtree"] if kind["name"] == "dart" else kind
    model: Mapping[str, Any] = forest["model"]
    return model, kind.get("weight_drop", [1.0] * len(model["trees"]))


def require_whole(learner: Mapping[str, Any]) -> None:
    """Check what the library takes for granted.

    Raises:
        ValueError, KeyError, TypeError, IndexError: something is missing or out of range.
    """
    parameters = learner["learner_model_param"]
    inputs, groups = int(parameters["num_feature"]), groups_of(learner)
    for key in ("feature_names", "feature_types"):
        if len(learner.get(key, ())) not in {0, inputs}:
            raise ValueError(f"{key} does not have {inputs} entries")
    if learner["gradient_booster"]["name"] == "gblinear":
        return
    model, weights = forest_of(learner)
    count, info = len(model["trees"]), model["tree_info"]
    if int(model["gbtree_model_param"]["num_trees"]) != count or len(info) != count:
        raise ValueError(f"it does not have the {len(info)} trees that it names")
    if len(weights) != count or any(not 0 <= group < groups for group in info):
        raise ValueError(f"trees of other than {groups} results")
    starts = model.get("iteration_indptr", [0, count])
    if starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 0).any():
        raise ValueError("the rounds have no order")
    for entry in model["trees"]:
        _require_tree(entry, inputs, groups)


def groups_of(learner: Mapping[str, Any]) -> int:
    """Number of results: classes or targets."""
    parameters = learner["learner_model_param"]
    return max(int(parameters["num_class"]), int(parameters.get("num_target", 1)), 1)


def _require_tree(entry: Mapping[str, Any], inputs: int, groups: int) -> None:
    """Check the lengths and ranges of one tree."""
    count = len(entry["left_children"])
    parameter = entry["tree_param"]
    size = int(parameter.get("size_leaf_vector", "1"))
    if int(parameter["num_nodes"]) != count or int(parameter["num_feature"]) != inputs:
        raise ValueError(f"a tree does not have {count} nodes and {inputs} columns")
    lengths = {len(entry[key]) for key in _OF_NODES if key != "base_weights" or size <= 1}
    if lengths != {count} or size not in {0, 1, groups}:
        raise ValueError(f"a tree does not have {count} values of everything")
    kept, left, _ = walk(entry)
    if (np.asarray(entry["left_children"], np.int64)[kept] < -1).any():
        raise ValueError("a child that is none")
    columns = np.asarray(entry["split_indices"], np.int64)[kept[left >= 0]]
    if len(set(kept.tolist())) != len(kept) or (columns < 0).any() or (columns >= inputs).any():
        raise ValueError("a node with several parents, or of no column")
    if size > 1:
        _vectors(entry, kept[left < 0], groups)
    for members in sets_of(entry).values():
        if any(member < 0 for member in members):
            raise ValueError("a category below 0")


def tree_count(model: Mapping[str, Any], groups: int, rounds: int) -> int:
    """How many trees belong to the rounds that count."""
    trees = len(model["trees"])
    if rounds == 0:
        return trees
    if starts := model.get("iteration_indptr"):
        return int(starts[min(rounds, len(starts) - 1)])
    parallel = int(model["gbtree_model_param"].get("num_parallel_tree", "1"))
    return min(trees, rounds * groups * max(1, parallel))  # the format before 2.0


def tree_of(
    entry: Mapping[str, Any], categories: Categories, groups: int, group: int, weight: float
) -> Tree:
    """One tree; nodes that pruning has left unused are dropped."""
    kept, left, right = walk(entry)
    leaf = left < 0
    feature = np.asarray(entry["split_indices"], np.int64)[kept]
    cut = np.asarray(entry["split_conditions"], np.float32)[kept]
    nan_left = np.asarray(entry["default_left"], bool)[kept]
    threshold = np.nextafter(cut, np.float32(-np.inf)).astype(np.float64)
    sets = sets_of(entry)
    for place, node in enumerate(kept.tolist()):
        if node in sets and not leaf[place]:  # inside the set is right
            feature[place] = categories.column(
                int(feature[place]), sets[node], missing=not nan_left[place]
            )
            threshold[place] = 0.5
    values = np.zeros((len(kept), groups), np.float32)
    if int(entry["tree_param"].get("size_leaf_vector", "1")) > 1:
        values[leaf] = _vectors(entry, kept[leaf], groups)
    else:
        values[leaf, group] = cut[leaf] * np.float32(weight)
    return Tree(left, right, feature, threshold, nan_left, values.astype(np.float64))


def walk(entry: Mapping[str, Any]) -> tuple[NDArray[np.int64], ...]:
    """The nodes that the root leads to, and their children as places among them; -1 in a leaf.

    Raises:
        ValueError: they are no tree.
    """
    lefts, rights = entry["left_children"], entry["right_children"]
    kept = [0]
    for node in kept:  # grows while it is walked
        if len(kept) > len(lefts) or not 0 <= node < len(lefts):
            raise ValueError("a tree that is none")
        if lefts[node] >= 0:
            kept += [lefts[node], rights[node]]
    place = {node: at for at, node in enumerate(kept)}
    inner = [lefts[node] >= 0 for node in kept]
    children = (
        [place[side[node]] if is_inner else -1 for node, is_inner in zip(kept, inner, strict=True)]
        for side in (lefts, rights)
    )
    return np.array(kept, np.int64), *(np.array(side, np.int64) for side in children)


def _vectors(entry: Mapping[str, Any], leaves: NDArray[np.int64], groups: int) -> NDArray[Any]:
    """Leaf values of a tree with several targets."""
    if "leaf_weights" not in entry:  # the format before 3.1
        return np.asarray(entry["base_weights"], np.float32).reshape(-1, groups)[leaves]
    number = np.asarray(entry["right_children"], np.int64)[leaves]
    return np.asarray(entry["leaf_weights"], np.float32).reshape(-1, groups)[number]


def sets_of(entry: Mapping[str, Any]) -> dict[int, list[int]]:
    """The categories that a node sends to the right, by node.

    Raises:
        ValueError: they are not what the tree names.
    """
    spans = zip(
        entry.get("categories_nodes", ()),
        entry.get("categories_segments", ()),
        entry.get("categories_sizes", ()),
        strict=True,
    )
    found = {node: entry["categories"][start : start + size] for node, start, size in spans}
    if sum(map(len, found.values())) != len(entry.get("categories", ())):
        raise ValueError("sets of categories are missing")
    return found
