"""CatBoost: model files (``.cbm``, ``.json``) and the estimators of its scikit-learn interface.

CatBoost compares float32 with float32, x > border. The model is read from the library's own JSON
export (https://catboost.ai/docs/en/concepts/json_model_format), whichever format the file has.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier

from converter.frontends import Context, Imported, require_package
from converter.lowering.boosters import (
    CLASS_LINKS,
    Boosted,
    BoosterClassifier,
    BoosterRegressor,
    Categories,
    Link,
    import_booster,
    lower_boosted,
    reading,
)
from converter.lowering.graph import Graph
from converter.lowering.heads import Head
from converter.lowering.trees import Tree, single_leaf
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]
_LINKS: Final[dict[str, Link]] = {
    "Logloss": "logistic",
    "CrossEntropy": "logistic",
    "Focal": "logistic",
    "MultiClass": "softmax",
    "MultiClassOneVsAll": "one_vs_rest",
    "Poisson": "exp",
    "Tweedie": "exp",
    **dict.fromkeys(
        (
            "RMSE", "MAE", "Quantile", "MultiQuantile", "MultiRMSE", "MultiRMSEWithMissingValues",
            "LogLinQuantile", "Lq", "MAPE", "Huber", "Expectile", "LogCosh", "Cox", "RMSPE",
            "SurvivalAft",
        ),
        "identity",
    ),
}  # fmt: skip
_CODES_N: Final = 4096  # category codes that are looked for in a model
_CODES_NOTE: Final = (
    "Categorical channels are read as category codes, without what follows the point."
)
_PROBES: Final = (0.0, 1.0, -1.0)


class CatBoostClassifier(BoosterClassifier):
    """A classifier in a file of CatBoost."""


class CatBoostRegressor(BoosterRegressor):
    """A regression in a file of CatBoost."""


def import_file(path: Path, context: Context) -> Imported:
    """Read a model that ``save_model`` wrote, as ``.cbm`` or with ``format="json"``.

    Raises:
        ConfigError: catboost is not installed, cannot read the file, or the model has no ONNX
            form.
    """
    catboost = require_package("catboost", "catboost")
    with path.open("rb") as file:
        written = "json" if file.read(1) == b"{" else "cbm"
    with reading("catboost"):
        booster = catboost.CatBoost().load_model(str(path), format=written)
        model = _read(booster)
        names, own = [str(name) for name in booster.feature_names_], booster.classes_
    given: dict[str, Any] = {
        "inputs": len(names),
        "names": () if names == [str(at) for at in range(len(names))] else names,
    }
    ask = _asking(catboost, booster, model.link)
    if model.link not in CLASS_LINKS:
        return import_booster(CatBoostRegressor(model, ask, **given), context)
    classes = np.asarray(own)
    return import_booster(CatBoostClassifier(model, ask, classes=classes, **given), context)


def lower_estimator(estimator: Any, graph: Graph, x: str) -> Head:
    """The nodes of a fitted CatBoostClassifier or CatBoostRegressor.

    Raises:
        ConfigError: the model has no ONNX form; says why.
    """
    if estimator.get_cat_feature_indices():
        raise ConfigError(
            f"{type(estimator).__name__} with categorical features takes no array of numbers, as a "
            "pipeline would give it: save_model it alone and convert that file"
        )
    link = None if is_classifier(estimator) else _regression_link(estimator)
    model = _read(estimator, link)
    return lower_boosted(model, graph, x)


def _regression_link(estimator: Any) -> Link:
    """What ``predict`` does with the sums: that depends on how the estimator was made."""
    rows = np.repeat(np.array(_PROBES, np.float32)[:, None], len(estimator.feature_names_), axis=1)
    raw = np.asarray(estimator.predict(rows, prediction_type="RawFormulaVal"))
    given = np.asarray(estimator.predict(rows))
    if np.array_equal(raw, given):
        return "identity"
    if given.shape == raw.shape and np.allclose(np.exp(raw), given, rtol=1e-9, atol=0.0):
        return "exp"
    raise ConfigError(f"{type(estimator).__name__} has a loss whose predictions have no ONNX form")


def _asking(catboost: Any, booster: Any, link: Link) -> Callable[[F32], F64]:
    """The library's own answers to rows (n, inputs)."""
    kind = {"identity": "RawFormulaVal", "exp": "Exponent"}.get(link, "Probability")
    categorical = booster.get_cat_feature_indices()

    def ask(rows: F32) -> F64:
        table: NDArray[Any] = rows
        if categorical:  # which it takes as whole numbers only
            table = rows.astype(object)
            with np.errstate(invalid="ignore"):
                table[:, categorical] = rows[:, categorical].astype(np.int64)
        pool = catboost.Pool(table, cat_features=categorical)
        given = booster.predict(pool, prediction_type=kind, thread_count=1)
        return np.asarray(given, dtype=np.float64).reshape(len(rows), -1)

    return ask


@dataclass(frozen=True)
class _Splits:
    """What a split of the export means for a tree.

    Attributes:
        columns: the input column of each numeric feature.
        nan_true: whether a missing value of it counts as above every border.
        categorical: the input column of each categorical feature.
        codes: category code by hash.
        categories: receives the sets.
    """

    columns: Mapping[int, int]
    nan_true: Mapping[int, bool]
    categorical: Mapping[int, int]
    codes: Mapping[int, int]
    categories: Categories

    def read(self, split: Mapping[str, Any]) -> tuple[int, float, bool]:
        """Column, threshold, and whether NaN goes left, where left is ``x <= threshold``.

        Raises:
            ConfigError: the split compares something that the device does not have.
        """
        kind = split["split_type"]
        if kind == "FloatFeature":
            number = split["float_feature_index"]
            border = float(np.float32(split["border"]))
            return self.columns[number], border, not self.nan_true[number]
        if kind == "OneHotFeature":
            column = self.categorical[split["cat_feature_index"]]
            code = self.codes.get(split["value"] & 0xFFFFFFFF)
            if code is None:
                raise ConfigError(
                    f"column {column} has categories other than the whole numbers from 0 to "
                    f"{_CODES_N - 1}: channels are numbers, so number its categories before "
                    "training"
                )
            return self.categories.column(column, [code]), 0.5, True
        if kind == "OnlineCtr":
            raise ConfigError(
                "the model uses statistics of categories (ctr), which have no ONNX form here: "
                "train with one_hot_max_size at least the number of categories"
            )
        raise ConfigError(f"a split of type {kind} has no ONNX form here: train on numbers")


def _read(booster: Any, link: Link | None = None) -> Boosted:
    """The model in a booster; ``link`` in place of what its loss says.

    Raises:
        ConfigError: it has no ONNX form.
    """
    export = _export(booster)
    link = _link(export["model_info"]) if link is None else link
    threshold = booster.get_metadata().get("binclass_probability_threshold", "0.5")
    if float(threshold) != 0.5:
        raise ConfigError(
            f"the model has a probability threshold of {threshold}: leave it at 0.5 and set "
            "decide.threshold in the recipe"
        )
    scale, bias = export["scale_and_bias"]
    info = export["features_info"]
    numeric, categorical = info.get("float_features", ()), info.get("categorical_features", ())
    splits = _Splits(
        columns={entry["feature_index"]: entry["flat_feature_index"] for entry in numeric},
        nan_true={entry["feature_index"]: _nan_true(entry) for entry in numeric},
        categorical={entry["feature_index"]: entry["flat_feature_index"] for entry in categorical},
        codes=_codes(info.get("cat_features_hash", ())),
        categories=Categories(len(booster.feature_names_)),
    )
    width = len(bias)
    trees = [_oblivious(tree, splits, scale, width) for tree in export.get("oblivious_trees", ())]
    trees += [_grown(tree, splits, scale, width) for tree in export.get("trees", ())]
    return Boosted(
        trees=trees or [single_leaf(np.zeros(width))],
        base=bias,
        link=link,
        categories=splits.categories,
        notes=(_CODES_NOTE,) if categorical else (),
    )


def _export(booster: Any) -> dict[str, Any]:
    """The library's JSON export, with the codes of categories where there are any.

    The export tells the categories of a data set that is given; that one has every code.
    """
    pool = None
    if categorical := booster.get_cat_feature_indices():
        catboost = require_package("catboost", "catboost")
        codes = np.zeros((_CODES_N, len(booster.feature_names_)), dtype=object)
        codes[:, categorical] = np.arange(_CODES_N)[:, None]
        pool = catboost.Pool(codes, cat_features=categorical)
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        path = Path(folder) / "model.json"
        booster.save_model(str(path), format="json", pool=pool)
        found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def _codes(hashes: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    return {entry["hash"]: int(entry["value"]) for entry in hashes if entry["value"].isdigit()}


def _nan_true(entry: Mapping[str, Any]) -> bool:
    return bool(entry["nan_value_treatment"] == "AsTrue")


def _link(info: Mapping[str, Any]) -> Link:
    loss = str(info["params"]["loss_function"]["type"])
    if loss in _LINKS:
        return _LINKS[loss]
    if loss in {"MultiLogloss", "MultiCrossEntropy"}:
        raise ConfigError("it predicts several labels at once: train one model for each of them")
    raise ConfigError(
        f"loss_function={loss!r} is not known here: train with one of {', '.join(sorted(_LINKS))}"
    )


def _oblivious(tree: Mapping[str, Any], splits: _Splits, scale: float, width: int) -> Tree:
    """A tree whose levels compare the same thing everywhere; split i is bit i of the leaf."""
    levels = [splits.read(split) for split in reversed(tree["splits"] or ())]
    leaves = 1 << len(levels)
    inner = leaves - 1
    values = np.zeros((inner + leaves, width))
    values[inner:] = np.reshape(tree["leaf_values"], (leaves, width)) * scale
    if not levels:
        return single_leaf(values[0])
    counts = [1 << level for level in range(len(levels))]
    column, threshold, nan_left = (
        np.concatenate([np.repeat(part, counts), np.zeros(leaves)])
        for part in zip(*levels, strict=True)
    )
    children = 2 * np.arange(inner) + 1
    none = np.full(leaves, -1)
    return Tree(
        left=np.concatenate([children, none]),
        right=np.concatenate([children + 1, none]),
        feature=column.astype(np.int64),
        threshold=threshold,
        nan_left=nan_left.astype(bool),
        values=values,
    )


def _grown(tree: Mapping[str, Any], splits: _Splits, scale: float, width: int) -> Tree:
    """A tree of the growing policies Depthwise and Lossguide."""
    nodes = list(_nodes(tree))
    count = len(nodes)
    left, right = np.full(count, -1), np.full(count, -1)
    feature, threshold = np.zeros(count, np.int64), np.zeros(count)
    nan_left, values = np.zeros(count, dtype=bool), np.zeros((count, width))
    for place, (node, first, second) in enumerate(nodes):
        if first < 0:
            values[place] = np.asarray(node["value"], np.float64) * scale
            continue
        left[place], right[place] = first, second
        feature[place], threshold[place], nan_left[place] = splits.read(node["split"])
    return Tree(left, right, feature, threshold, nan_left, values)


def _nodes(root: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], int, int]]:
    """Each node with the places of its children, level by level; -1 for a leaf."""
    waiting = [root]
    for node in waiting:  # grows while it is walked
        if "split" not in node:
            yield node, -1, -1
            continue
        yield node, len(waiting), len(waiting) + 1
        waiting += [node["left"], node["right"]]
