"""XGBoost: model files (``.json``, ``.ubj``) and the estimators of its scikit-learn interface.

XGBoost compares float32 with float32, x < t, and so does the graph, as x <= (the float32 before
t). Format: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.frontends import Context, Imported, require_package
from converter.frontends.xgboost_json import (
    forest_of,
    groups_of,
    require_whole,
    tree_count,
    tree_of,
)
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
    softmax,
    two_sided,
)
from converter.lowering.graph import Graph
from converter.lowering.heads import Head
from converter.lowering.trees import single_leaf
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
_JSON: Final = re.compile(rb'\{\s*"')
_READ_S_MAX: Final = 120.0
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
    data = path.read_bytes()
    with reading("xgboost"):
        if not _JSON.match(data):
            data = _as_json(path)
        require_whole(json.loads(data)["learner"])
        booster = xgboost.Booster()
        booster.load_model(bytearray(data))
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


def _as_json(path: Path) -> bytes:
    """A binary file (``.ubj``) as JSON, by a process of its own: a damaged one can end it.

    Raises:
        ConfigError: it did.
    """
    code = (
        "import sys, xgboost; booster = xgboost.Booster(model_file=sys.argv[1]); "
        "sys.stdout.buffer.write(booster.save_raw('json'))"
    )
    command = [sys.executable, "-c", code, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=_READ_S_MAX)
    except (subprocess.SubprocessError, OSError) as exc:
        raise ConfigError(
            "is damaged: xgboost cannot read it; save it again by save_model"
        ) from exc
    return done.stdout


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
    groups = groups_of(learner)
    if groups > 1 and link in CLASS_LINKS and link != "softmax":
        raise ConfigError("it predicts several labels at once: train one model for each of them")
    kind = learner["gradient_booster"]["name"]
    if kind not in {"gbtree", "dart"}:
        raise ConfigError(
            f"booster={kind!r} is no tree model: save a linear model as scikit-learn's"
        )
    rounds = _rounds(booster)
    categories = Categories(booster.num_features(), floor=True)
    forest, weights = forest_of(learner)
    trees = [
        tree_of(entry, categories, groups, forest["tree_info"][at], weights[at])
        for at, entry in enumerate(forest["trees"][: tree_count(forest, groups, rounds)])
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
