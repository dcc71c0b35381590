"""LightGBM: text models and the estimators of its scikit-learn interface.

LightGBM compares float64 with float64, x <= t, as scikit-learn does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.frontends import Context, Imported, require_package
from converter.frontends.lightgbm_text import Section, blank_up_to, read_text, tree_of
from converter.lowering.boosters import (
    CLASS_LINKS,
    Boosted,
    BoosterClassifier,
    BoosterRegressor,
    Categories,
    Link,
    import_booster,
    link_of,
    lower_boosted,
    reading,
    two_sided,
)
from converter.lowering.graph import Graph
from converter.lowering.heads import Head
from converter.lowering.trees import single_leaf
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]
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
    with reading("lightgbm"):
        text = path.read_text(encoding="utf-8")
        model = _read(text)
        booster = lightgbm.Booster(model_str=text)
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
        given = np.asarray(booster.predict(rows, num_threads=1), dtype=np.float64)
        return two_sided(given) if link == "logistic" else given.reshape(len(rows), -1)

    return ask


def _read(text: str) -> Boosted:
    """The model in a text.

    Raises:
        ConfigError: it has no ONNX form.
    """
    found = read_text(text)
    objective, *settings = found.head.get("objective", "").split() or [""]
    link, scale = _link(objective, dict(word.split(":") for word in settings if ":" in word))
    if "sqrt" in settings:
        link = "square"
    count = found.count
    categories = Categories(found.inputs)
    trees = [
        tree_of(section, categories, count, at % count) for at, section in enumerate(found.trees)
    ]
    average = "average_output" in found.head
    return Boosted(
        trees=trees or [single_leaf(np.zeros(count))],
        base=(),
        link=link,
        # The mean is over the rounds, of which each has a tree for every class.
        scale=scale * (count if average else 1),
        average=average,
        categories=categories,
        blank_up_to=blank_up_to(found.trees, found.inputs),
        notes=tuple(_notes(objective, found.trees)),
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
