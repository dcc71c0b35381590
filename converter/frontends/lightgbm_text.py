"""LightGBM's text format: its header, its trees, and whether they are whole.

The text is what ``GBDT::SaveModelToString`` writes; the rules of a node are those of
``Tree::NumericalDecision`` and ``Tree::CategoricalDecision`` (include/LightGBM/tree.h). A damaged
text can end the process inside the library, so everything is checked here beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from converter.lowering.boosters import Categories
from converter.lowering.trees import Tree, single_leaf
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Section = Mapping[str, str]

_CATEGORICAL, _DEFAULT_LEFT = 1, 2  # bits of a node's decision_type; above them what is missing
_MISSING_ZERO: Final = 1
_ZERO: Final = float(np.float32(1e-35))  # LightGBM's kZeroThreshold
_OF_NODES: Final = (
    "split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child",
    "internal_value", "internal_weight", "internal_count",
)  # fmt: skip
_OF_LEAVES: Final = ("leaf_value", "leaf_weight", "leaf_count")
_OPTIONAL: Final = frozenset({"split_gain", "leaf_weight", "leaf_count"} | {
    key for key in _OF_NODES if key.startswith("internal")
})  # fmt: skip


@dataclass(frozen=True)
class Text:
    """A model's text, taken apart and found whole.

    Attributes:
        head: keys and values of the header.
        trees: keys and values of each tree.
        count: trees in a round.
        inputs: columns.
    """

    head: Section
    trees: Sequence[Section]
    count: int
    inputs: int


def read_text(text: str) -> Text:
    """Take a text apart.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        head, *trees = list(_sections(text))
        found = Text(
            head, trees, int(head["num_tree_per_iteration"]), int(head["max_feature_idx"]) + 1
        )
        _require_whole(text, found)
    except (ValueError, KeyError, IndexError, OverflowError) as exc:
        raise ConfigError(f"is damaged: {exc}; save it again by Booster.save_model") from exc
    return found


def _require_whole(text: str, found: Text) -> None:
    """Check what the library takes for granted.

    Raises:
        ValueError, KeyError: something is missing or out of range.
    """
    data, sizes = text.encode(), _ints(found.head, "tree_sizes")
    start = data.index(b"\nTree=0\n") + 1 if found.trees else 0
    ends = start + np.cumsum(sizes)
    if len(sizes) != len(found.trees) or "\nend of trees\n" not in text:
        raise ValueError(f"{len(found.trees)} trees of {len(sizes)}")
    if "\nparameters:" in text and "\nend of parameters\n" not in text:
        raise ValueError("its parameters have no end")
    if found.count < 1 or len(sizes) % found.count or found.inputs < 1:
        raise ValueError(f"{len(sizes)} trees for {found.count} in a round")
    for number, (begin, section) in enumerate(zip([start, *ends], found.trees, strict=False)):
        if not data.startswith(b"Tree=%d\n" % number, int(begin)):
            raise ValueError(f"tree {number} is not where tree_sizes says")
        _require_tree(section, found.inputs)


def _require_tree(section: Section, inputs: int) -> None:
    """Check the lengths and ranges of one tree."""
    leaves = int(section["num_leaves"])
    lengths = dict.fromkeys(_OF_LEAVES, leaves) | dict.fromkeys(_OF_NODES, leaves - 1)
    for key, length in lengths.items():
        if leaves == 1 and key != "leaf_value":
            continue  # a lone leaf may be written with or without the rest
        if key in _OPTIONAL and key not in section:
            continue
        if len(_floats(section, key)) != length:
            raise ValueError(f"{key} has not {length} values")
    if leaves < 1:
        raise ValueError("a tree without leaves")
    if leaves == 1:
        return
    children = np.concatenate([_ints(section, "left_child"), _ints(section, "right_child")])
    places = np.where(children < 0, leaves - 1 + ~children, children)
    if not np.array_equal(np.sort(places), np.arange(1, 2 * leaves - 1)):
        raise ValueError("nodes without or with several parents")
    feature = _ints(section, "split_feature")
    if feature.min() < 0 or feature.max() >= inputs:
        raise ValueError(f"a column beyond {inputs}")
    _require_sets(section)


def _require_sets(section: Section) -> None:
    """Check the sets of categories of one tree."""
    asked = _floats(section, "threshold")[_ints(section, "decision_type") & _CATEGORICAL != 0]
    if not int(section["num_cat"]):
        if asked.size:
            raise ValueError("sets of categories are missing")
        return
    bounds, words = _ints(section, "cat_boundaries"), _ints(section, "cat_threshold")
    rising = bounds[0] == 0 and (np.diff(bounds) >= 0).all() and bounds[-1] == len(words)
    if not rising or len(bounds) != int(section["num_cat"]) + 1:
        raise ValueError("sets of categories have no order")
    if asked.size and (asked.min() < 0 or asked.max() >= len(bounds) - 1):
        raise ValueError("a set of categories is missing")


def _sections(text: str) -> Iterator[dict[str, str]]:
    """The header and each tree, as keys and values."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line == "end of trees":
            break
        if line.startswith("Tree="):
            yield found
            found = {}
        key, _, value = line.partition("=")
        found[key] = value
    yield found


def tree_of(section: Section, categories: Categories, count: int, column: int) -> Tree:
    """One tree: its inner nodes first, then its leaves.

    Args:
        section: of the text.
        categories: receives the sets of categories.
        count: trees in a round, which is the number of results.
        column: of the results that this tree adds to.

    Raises:
        ConfigError: its leaves are linear models, or it has too many categories.
    """
    if section.get("is_linear", "0") != "0":
        raise ConfigError("linear_tree has no ONNX form here: train with linear_tree=False")
    leaf_values = _floats(section, "leaf_value")
    inner = int(section["num_leaves"]) - 1
    values = np.zeros((inner + len(leaf_values), count))
    values[inner:, column] = leaf_values
    if inner == 0:
        return single_leaf(values[0])
    no_child = np.full(len(leaf_values), -1)
    left, right = (
        np.concatenate([np.where(side < 0, inner + ~side, side), no_child])
        for side in (_ints(section, "left_child"), _ints(section, "right_child"))
    )
    threshold = _floats(section, "threshold")
    kinds = _ints(section, "decision_type")
    feature = _ints(section, "split_feature")
    nan_left = _nan_left(kinds, threshold)
    for node in np.flatnonzero(kinds & _CATEGORICAL).tolist():
        members = _members(section, int(threshold[node]))
        feature[node] = categories.column(int(feature[node]), members)
        threshold[node] = 0.5
        left[node], right[node] = right[node], left[node]  # inside the set is left
    idle = np.zeros(len(leaf_values))
    return Tree(
        left=left,
        right=right,
        feature=np.concatenate([feature, idle.astype(np.int64)]),
        threshold=np.concatenate([_beside_zero(threshold), idle]),
        nan_left=np.concatenate([nan_left, idle.astype(bool)]),
        values=values,
    )


def _nan_left(kinds: I64, threshold: F64) -> NDArray[np.bool_]:
    """Where each node sends NaN: its default side, or where 0 goes if it knows no missing value."""
    unknown = (kinds >> 2) & 3 == 0
    return np.where(unknown, threshold >= 0, (kinds & _DEFAULT_LEFT) != 0)


def _beside_zero(threshold: F64) -> F64:
    """Thresholds that need no rounding of tiny values to 0, which LightGBM does with each row."""
    below = np.where((threshold >= -_ZERO) & (threshold < 0), np.nextafter(-_ZERO, -1), threshold)
    return np.where((threshold >= 0) & (threshold < _ZERO), _ZERO, below)


def _members(section: Section, number: int) -> list[int]:
    """The categories of a set, which is a row of bits."""
    bounds = _ints(section, "cat_boundaries")
    words = _ints(section, "cat_threshold")[bounds[number] : bounds[number + 1]]
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
    return [int(code) for code in np.flatnonzero(bits)]


def blank_up_to(sections: Sequence[Section], inputs: int) -> F64 | None:
    """Up to which size a value of each column is missing, -1 for never; None where none is.

    With zero_as_missing a zero takes the default side of a node. It is the same for all nodes of
    a column, and of no consequence where the default side is that of 0 anyhow.
    """
    limits = np.full(inputs, -1.0)
    for section in sections:
        if int(section["num_leaves"]) < 2:
            continue
        kinds, threshold = _ints(section, "decision_type"), _floats(section, "threshold")
        zeros = ((kinds >> 2) & 3 == _MISSING_ZERO) & (kinds & _CATEGORICAL == 0)
        moved = zeros & (((kinds & _DEFAULT_LEFT) != 0) != (threshold >= 0))
        if moved.any():
            limits[_ints(section, "split_feature")[moved]] = _ZERO
    return limits if (limits >= 0).any() else None


def _floats(section: Section, key: str) -> F64:
    return np.array(section[key].split(), dtype=np.float64)


def _ints(section: Section, key: str) -> I64:
    return np.array(section[key].split(), dtype=np.int64)
