"""XGBoost: model files (``.json``, ``.ubj``) and the estimators of its scikit-learn interface.

XGBoost compares float32 with float32, x < t, and so does the graph, as x <= (the float32 before
t). Format: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
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
    softmax,
    two_sided,
)
from converter.frontends import Context, Imported, require_package
from converter.graph import Graph
from converter.heads import Head
from converter.trees import Tree, single_leaf
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]
_LINKS: Final[dict[str, Link]] = {
    "binary:logistic": "logistic",
    "binary:logitraw": "decision",
    "binary:hinge": "step",
    "multi:softmax": "softmax",
    "multi:softprob": "softmax",
    "reg:logistic": "sigmoid",
    "reg:squarederror": "identity",
    "reg:linear": "identity",
    "reg:squaredlogerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:absoluteerror": "identity",
    "reg:quantileerror": "identity",
    "reg:expectileerror": "identity",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
    "count:poisson": "exp",
    "survival:cox": "exp",
    "survival:aft": "exp",
}
_BASE_IS_PROBABILITY: Final = frozenset({"binary:logistic", "reg:logistic"})


class XGBoostClassifier(BoosterClassifier):
    """A classifier in a file of XGBoost."""


class XGBoostRegressor(BoosterRegressor):
    """A regression in a file of XGBoost."""


def import_file(path: Path, context: Context) -> Imported:
    """Read a model that ``Booster.save_model`` or an estimator's ``save_model`` wrote.

    Where training stopped early, the file says so, and the trees up to the best one count.

    Raises:
        ConfigError: xgboost is not installed, cannot read the file, or the model has no ONNX form.
    """
    xgboost = require_package("xgboost", "xgboost")
    try:
        booster = xgboost.Booster(model_file=str(path))
    except xgboost.core.XGBoostError as exc:
        raise ConfigError(f"xgboost cannot read it: {str(exc).splitlines()[0]}") from exc
    model, objective = _read(booster)
    given: dict[str, Any] = {
        "inputs": booster.num_features(),
        "names": booster.feature_names or (),
    }
    ask = _asking(xgboost, booster, objective)
    if model.link not in CLASS_LINKS:
        return import_booster(XGBoostRegressor(model, ask, **given), context)
    classes = np.arange(max(2, len(model.base)))
    return import_booster(XGBoostClassifier(model, ask, classes=classes, **given), context)


def lower_estimator(estimator: Any, graph: Graph, x: str) -> Head:
    """The nodes of a fitted XGBClassifier, XGBRegressor or one of their random-forest kinds.

    Raises:
        ConfigError: the model has no ONNX form; says why.
    """
    model, objective = _read(estimator.get_booster())
    model = replace(model, link=link_of(estimator, model.link, objective))
    if estimator.missing is not None and not np.isnan(estimator.missing):
        absent = graph.add("Equal", x, graph.constant(estimator.missing))
        x = graph.add("Where", absent, graph.constant(np.nan), x)
    return lower_boosted(model, graph, x)


def _asking(xgboost: Any, booster: Any, objective: str) -> Callable[[F32], F64]:
    """The library's own answers to rows (n, inputs)."""
    link = _LINKS[objective]
    rounds = (0, _rounds(booster))

    def ask(rows: F32) -> F64:
        data = xgboost.DMatrix(
            rows,
            feature_names=booster.feature_names,
            feature_types=booster.feature_types,
            enable_categorical=True,
        )
        # multi:softmax gives the label alone, so its probabilities are made of the raw sums.
        margin = link == "softmax"
        given = booster.predict(data, iteration_range=rounds, output_margin=margin)
        if link == "softmax":
            return softmax(given)
        if link == "decision":
            return np.stack([-given, given], axis=1).astype(np.float64)
        if link in CLASS_LINKS:
            return two_sided(given)
        return np.asarray(given, dtype=np.float64).reshape(len(rows), -1)

    return ask


def _rounds(booster: Any) -> int:
    """How many rounds of boosting count; 0 for all."""
    best = booster.attr("best_iteration")
    return 0 if best is None else int(best) + 1


def _read(booster: Any) -> tuple[Boosted, str]:
    """The model in a booster, and the name of its objective."""
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective = str(learner["objective"]["name"])
    link = _link(objective)
    parameters = learner["learner_model_param"]
    groups = max(int(parameters["num_class"]), int(parameters.get("num_target", 1)), 1)
    if groups > 1 and link in CLASS_LINKS and link != "softmax":
        raise ConfigError("it predicts several labels at once: train one model for each of them")
    kind = learner["gradient_booster"]
    forest = kind["gbtree"] if kind["name"] == "dart" else kind
    if kind["name"] not in {"gbtree", "dart"}:
        raise ConfigError(
            f"booster={kind['name']!r} is no tree model: save a linear model as scikit-learn's"
        )
    rounds = _rounds(booster)
    categories = Categories(booster.num_features(), floor=True)
    count = _tree_count(forest["model"], groups, rounds)
    weights = kind.get("weight_drop", [1.0] * count)
    groups_of = forest["model"]["tree_info"]
    trees = [
        _tree(entry, categories, groups, groups_of[at], weights[at])
        for at, entry in enumerate(forest["model"]["trees"][:count])
    ]
    model = Boosted(
        trees=trees or [single_leaf(np.zeros(groups))],
        base=_base(parameters["base_score"], objective, groups),
        link=link,
        categories=categories,
        notes=tuple(_notes(rounds, learner)),
    )
    return model, objective


def _notes(rounds: int, learner: Mapping[str, Any]) -> Iterator[str]:
    if rounds:
        yield f"Training stopped early: the {rounds} rounds up to the best one count."
    if "c" in learner["feature_types"]:
        yield "Categorical channels are read as category codes from 0."


def _link(objective: str) -> Link:
    if objective not in _LINKS:
        why = "ranks rows" if objective.startswith("rank:") else "is not known here"
        raise ConfigError(
            f"objective={objective!r} {why}: train with one of {', '.join(sorted(_LINKS))}"
        )
    return _LINKS[objective]


def _base(written: str, objective: str, groups: int) -> list[float]:
    """What every sum starts from; the file has it as a prediction, before the link."""
    score = np.ravel(np.asarray(json.loads(written), dtype=np.float32))
    if objective in _BASE_IS_PROBABILITY:
        score = -np.log(np.float32(1.0) / score - np.float32(1.0))
    elif _LINKS[objective] == "exp":
        score = np.log(score)
    return [float(value) for value in np.broadcast_to(score, (groups,))]


def _tree_count(model: Mapping[str, Any], groups: int, rounds: int) -> int:
    """How many trees belong to the rounds that count."""
    trees = len(model["trees"])
    if rounds == 0:
        return trees
    if starts := model.get("iteration_indptr"):
        return int(starts[min(rounds, len(starts) - 1)])
    parallel = int(model["gbtree_model_param"].get("num_parallel_tree", "1"))
    return min(trees, rounds * groups * max(1, parallel))  # the format before 2.0


def _tree(
    entry: Mapping[str, Any], categories: Categories, groups: int, group: int, weight: float
) -> Tree:
    """One tree; nodes that pruning has left unused are dropped."""
    kept, left, right = _walk(entry)
    leaf = left < 0
    feature = np.asarray(entry["split_indices"], np.int64)[kept]
    cut = np.asarray(entry["split_conditions"], np.float32)[kept]
    nan_left = np.asarray(entry["default_left"], bool)[kept]
    threshold = np.nextafter(cut, np.float32(-np.inf)).astype(np.float64)
    sets = _sets(entry)
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


def _walk(entry: Mapping[str, Any]) -> tuple[NDArray[np.int64], ...]:
    """The nodes that the root leads to, and their children as places among them; -1 in a leaf."""
    lefts, rights = entry["left_children"], entry["right_children"]
    kept = [0]
    for node in kept:  # grows while it is walked
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


def _sets(entry: Mapping[str, Any]) -> dict[int, list[int]]:
    """The categories that a node sends to the right, by node."""
    spans = zip(
        entry.get("categories_nodes", ()),
        entry.get("categories_segments", ()),
        entry.get("categories_sizes", ()),
        strict=True,
    )
    return {node: entry["categories"][start : start + size] for node, start, size in spans}
