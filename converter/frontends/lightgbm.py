"""LightGBM: text models and the estimators of its scikit-learn interface.

LightGBM compares float64 with float64, x <= t, as scikit-learn does. The text is what
``GBDT::SaveModelToString`` writes; the rules of a node are those of ``Tree::NumericalDecision`` and
``Tree::CategoricalDecision`` (include/LightGBM/tree.h).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.boosters import (
    CLASS_LINKS,
    Boosted,
    BoosterClassifier,
    BoosterRegressor,
    Categories,
    Link,
    import_booster,
    link_of,
    lower_boosted,
    two_sided,
)
from converter.frontends import Context, Imported, require_package
from converter.graph import Graph
from converter.heads import Head
from converter.trees import Tree, single_leaf
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Section = Mapping[str, str]

_LINKS: Final[dict[str, Link]] = {
    "binary": "logistic",
    "multiclass": "softmax",
    "multiclassova": "one_vs_rest",
    "regression": "identity",
    "regression_l1": "identity",
    "huber": "identity",
    "fair": "identity",
    "quantile": "identity",
    "mape": "identity",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "cross_entropy": "sigmoid",
    "cross_entropy_lambda": "log1p_exp",
}
_CATEGORICAL, _DEFAULT_LEFT = 1, 2  # bits of a node's decision_type; above them what is missing
_MISSING_ZERO: Final = 1
_ZERO: Final = float(np.float32(1e-35))  # LightGBM's kZeroThreshold


class LightGBMClassifier(BoosterClassifier):
    """A classifier in a file of LightGBM."""


class LightGBMRegressor(BoosterRegressor):
    """A regression in a file of LightGBM."""


def import_file(path: Path, context: Context) -> Imported:
    """Read a model that ``Booster.save_model`` wrote; all trees in it count.

    Raises:
        ConfigError: lightgbm is not installed, cannot read the file, or the model has no ONNX
            form.
    """
    lightgbm = require_package("lightgbm", "lightgbm")
    try:
        text = path.read_text(encoding="utf-8")
        booster = lightgbm.Booster(model_str=text, params={"verbose": -1, "num_threads": 1})
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError, OSError) as exc:
        raise ConfigError(f"lightgbm cannot read it: {exc}") from exc
    model = _read(text)
    names = _own_names(booster.feature_name())
    given: dict[str, Any] = {"inputs": booster.num_feature(), "names": names}
    ask = _asking(booster, model.link)
    if model.link not in CLASS_LINKS:
        return import_booster(LightGBMRegressor(model, ask, **given), context)
    classes = np.arange(max(2, booster.num_model_per_iteration()))
    return import_booster(LightGBMClassifier(model, ask, classes=classes, **given), context)


def lower_estimator(estimator: Any, graph: Graph, x: str) -> Head:
    """The nodes of a fitted LGBMClassifier or LGBMRegressor.

    Raises:
        ConfigError: the model has no ONNX form; says why.
    """
    model = _read(estimator.booster_.model_to_string())
    link = link_of(estimator, model.link, estimator.objective_)
    return lower_boosted(replace(model, link=link), graph, x)


def _own_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns, none where LightGBM has made them up."""
    made_up = [f"Column_{at}" for at in range(len(names))]
    return () if list(names) == made_up else tuple(names)


def _asking(booster: Any, link: Link) -> Callable[[F32], F64]:
    """The library's own answers to rows (n, inputs)."""

    def ask(rows: F32) -> F64:
        given = np.asarray(booster.predict(rows), dtype=np.float64)
        return two_sided(given) if link == "logistic" else given.reshape(len(rows), -1)

    return ask


def _read(text: str) -> Boosted:
    """The model in a text.

    Raises:
        ConfigError: it has no ONNX form.
    """
    head, *sections = list(_sections(text))
    objective, *settings = head.get("objective", "").split() or [""]
    link, scale = _link(objective, dict(word.split(":") for word in settings if ":" in word))
    if "sqrt" in settings:
        link = "square"
    count = int(head["num_tree_per_iteration"])
    categories = Categories(int(head["max_feature_idx"]) + 1)
    trees = [_tree(section, categories, count, at % count) for at, section in enumerate(sections)]
    average = "average_output" in head
    return Boosted(
        trees=trees or [single_leaf(np.zeros(count))],
        base=(),
        link=link,
        # The mean is over the rounds, of which each has a tree for every class.
        scale=scale * (count if average else 1),
        average=average,
        categories=categories,
        blank_up_to=_blank_up_to(sections, int(head["max_feature_idx"]) + 1),
        notes=tuple(_notes(objective, sections)),
    )


def _notes(objective: str, sections: Sequence[Section]) -> Iterator[str]:
    if not objective:
        yield "The file names no objective: the values are the sums of the trees."
    if any(section["num_cat"] != "0" for section in sections):
        yield "Categorical channels are read as category codes from 0."


def _link(objective: str, settings: Mapping[str, str]) -> tuple[Link, float]:
    """The link of an objective, and what the sum is multiplied by before it."""
    if not objective:
        return "identity", 1.0
    if objective not in _LINKS:
        why = "ranks rows" if "rank" in objective else "is not known here"
        raise ConfigError(
            f"objective={objective!r} {why}: train with one of {', '.join(sorted(_LINKS))}"
        )
    link = _LINKS[objective]
    steep = link in {"logistic", "one_vs_rest"}
    return link, float(settings.get("sigmoid", "1")) if steep else 1.0


def _sections(text: str) -> Iterator[Section]:
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


def _tree(section: Section, categories: Categories, count: int, column: int) -> Tree:
    """One tree: its inner nodes first, then its leaves."""
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


def _blank_up_to(sections: Sequence[Section], inputs: int) -> F64 | None:
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
