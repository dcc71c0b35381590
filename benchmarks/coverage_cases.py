"""The cases of the coverage matrix: every estimator of scikit-learn that sklearn-onnx covers.

The list of classes is generated, so that a new version of either package brings its new classes
in. What stands by hand, in coverage_forms.py, is how a class is made and fed where its
defaults do not do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from coverage_forms import (
    FOODS,
    FORMS,
    IMPOSSIBLE,
    NEEDED,
    SCALABLE,
    SEVERAL_TARGETS,
    TRANSFORMS_NO_INPUTS,
    Make,
    Task,
    logistic,
)
from numpy.typing import NDArray
from skl2onnx import supported_converters
from skl2onnx._supported_operators import sklearn_operator_name_map
from sklearn.base import OutlierMixin
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils import all_estimators

Kind = Literal["classifier", "regressor", "outlier detector", "transformer"]

ROWS: Final = 170


# The original is itself an iteration that stops at 0.005 / classes: LibSVM couples the
# probabilities of pairs. Labels must be equal here as everywhere.
TOLERANCE: Final = 1e-4
_LOOSE: Final = {("SVC", "probability"): 2e-3, ("NuSVC", "probability"): 2e-3}


@dataclass(frozen=True)
class Case:
    """One model that the matrix fits and converts.

    Attributes:
        estimator: name of the class.
        kind: what scikit-learn lists it as.
        form: settings that differ from the defaults, readable; may be empty.
        place: where it stands: alone, behind a scaler, before a linear model.
        task: what the model learns.
        food: the inputs, see :func:`inputs`.
        make: an estimator that is not fitted yet.
    """

    estimator: str
    kind: Kind
    form: str
    place: str
    task: Task
    food: str
    make: Make

    @property
    def tolerance(self) -> float:
        """The largest score error that counts as equal, relative to the row's largest score."""
        return _LOOSE.get((self.estimator, self.form), TOLERANCE)

    @property
    def title(self) -> str:
        """The case in one line."""
        form = f"({self.form})" if self.form else ""
        return f"{self.estimator}{form}, {self.place}, {self.task}"


def cases() -> Iterator[Case]:
    """All cases, in the order of scikit-learn's list."""
    for kind, classes in listed().items():
        for name, cls in classes:
            needed = NEEDED.get(name, {})
            for form, settings in {"": {}, **FORMS.get(name, {})}.items():
                yield from _placed(kind, name, form, cls, {**needed, **settings})


def listed() -> dict[Kind, list[tuple[str, type]]]:
    """The classes of each kind that sklearn-onnx has a converter for."""
    known = set(supported_converters())

    def covered(classes: list[tuple[str, type]]) -> list[tuple[str, type]]:
        return [(name, cls) for name, cls in classes if sklearn_operator_name_map.get(cls) in known]

    detectors = [pair for pair in all_estimators() if issubclass(pair[1], OutlierMixin)]
    models = covered(all_estimators(["classifier", "regressor"]))
    return {
        "classifier": covered(all_estimators("classifier")),
        "regressor": covered(all_estimators("regressor")),
        "outlier detector": covered(detectors),
        # A model that also transforms, such as a vote, is in the matrix as what it is.
        "transformer": [
            pair
            for pair in covered(all_estimators("transformer"))
            if pair not in models and pair[0] not in TRANSFORMS_NO_INPUTS
        ],
    }


def inputs(case: Case) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Inputs (n, features), each a value that float32 can hold, and targets.

    Foods: ``measured`` as in the data set; ``positive`` shifted to begin at 0; ``categories``
    four whole numbers a feature; ``gaps`` with one value in ten missing.
    """
    x, y = _TASKS[case.task]()
    x = x.astype(np.float32).astype(np.float64)
    if case.food in {"positive", "above zero"}:
        x = (
            (x - x.min(axis=0) + (0.5 if case.food == "above zero" else 0.0))
            .astype(np.float32)
            .astype(np.float64)
        )
    if case.food == "categories":
        edges = np.quantile(x, [0.25, 0.5, 0.75], axis=0)
        x = np.sum(x[None] > edges[:, None], axis=0).astype(np.float64)
    if case.food == "gaps":
        x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    return x, y


def _binary() -> tuple[NDArray[np.float64], NDArray[Any]]:
    x, y = load_breast_cancer(return_X_y=True)
    return x[:ROWS, :6], np.array(["malignant", "benign"])[y[:ROWS]]


def _three() -> tuple[NDArray[np.float64], NDArray[Any]]:
    x, y = load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:ROWS]
    return x[order, :7], y[order]


def _one_target() -> tuple[NDArray[np.float64], NDArray[Any]]:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    return x[:ROWS, :6], y[:ROWS]


def _two_targets() -> tuple[NDArray[np.float64], NDArray[Any]]:
    x, y = _one_target()
    return x, np.stack([y, x[:, 2] - 0.1 * y], axis=1)


def _two_labels() -> tuple[NDArray[np.float64], NDArray[Any]]:
    x, y = _three()
    return x, np.stack([y, x[:, 0] > x[:, 0].mean()], axis=1).astype(np.int64)


_TASKS: Final[Mapping[Task, Callable[[], tuple[NDArray[np.float64], NDArray[Any]]]]] = {
    "binary": _binary,
    "three classes": _three,
    "two labels": _two_labels,
    "one target": _one_target,
    "two targets": _two_targets,
    "anomaly": _three,
}
_KIND_TASKS: Final[Mapping[Kind, tuple[Task, ...]]] = {
    "classifier": ("binary", "three classes", "two labels"),
    "regressor": ("one target", "two targets"),
    "outlier detector": ("anomaly",),
    "transformer": ("binary", "three classes", "one target"),
}


def _placed(
    kind: Kind, name: str, form: str, cls: type, settings: Mapping[str, Any]
) -> Iterator[Case]:
    """One form of a class in every place and task that it can take."""
    keywords = {key: value for key, value in settings.items() if key != "food"}
    food = settings.get("food", FOODS.get(name, "measured"))

    def alone() -> Any:
        return cls(**{key: _made(value) for key, value in keywords.items()})

    for task in _KIND_TASKS[kind]:
        if task == "two targets" and name not in SEVERAL_TARGETS:
            continue
        if task == "two labels" and name != "MultiOutputClassifier":
            continue
        if task in IMPOSSIBLE.get(name, ()):
            continue
        if kind != "transformer":
            yield Case(name, kind, form, "alone", task, food, alone)
            if food in SCALABLE:
                scaler = StandardScaler if food == "measured" else _within
                behind = _chain(scaler, alone)
                yield Case(name, kind, form, "behind a scaler", task, food, behind)
            continue
        linear = Ridge if task == "one target" else logistic
        before = _chain(alone, lambda: StandardScaler(with_mean=False), linear)
        yield Case(name, kind, form, "before a linear model", task, food, before)
        if food in SCALABLE and task == "three classes":
            scaler = StandardScaler if food == "measured" else _within
            place = "between a scaler and a linear model"
            yield Case(name, kind, form, place, task, food, _chain(scaler, alone, linear))


def _chain(*makes: Make) -> Make:
    """A pipeline of new steps."""
    return lambda: make_pipeline(*(make() for make in makes))


def _made(value: Any) -> Any:
    """A setting; what has to be new for each fit is a function."""
    return value() if callable(value) and getattr(value, "__name__", "") == "<lambda>" else value


def _within() -> MinMaxScaler:
    """Nothing below 0, for what takes no negative values."""
    return MinMaxScaler(clip=True)
