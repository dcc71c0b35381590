"""The cases of the coverage matrix: every estimator of scikit-learn that sklearn-onnx covers.

The list of classes is generated, so that a new version of either package brings its new classes
in. What stands here by hand is how a class is made and fed where its defaults do not do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from skl2onnx import supported_converters
from skl2onnx._supported_operators import sklearn_operator_name_map
from sklearn.base import OutlierMixin
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import all_estimators

Kind = Literal["classifier", "regressor", "outlier detector", "transformer"]
Task = Literal["binary", "three classes", "two labels", "one target", "two targets", "anomaly"]
Make = Callable[..., Any]
Forms = Mapping[str, Mapping[str, Any]]

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
            needed = _NEEDED.get(name, {})
            for form, settings in {"": {}, **_FORMS.get(name, {})}.items():
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
            if pair not in models and pair[0] not in _TRANSFORMS_NO_INPUTS
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
    food = settings.get("food", _FOODS.get(name, "measured"))

    def alone() -> Any:
        return cls(**{key: _made(value) for key, value in keywords.items()})

    for task in _KIND_TASKS[kind]:
        if task == "two targets" and name not in _SEVERAL_TARGETS:
            continue
        if task == "two labels" and name != "MultiOutputClassifier":
            continue
        if task in _IMPOSSIBLE.get(name, ()):
            continue
        if kind != "transformer":
            yield Case(name, kind, form, "alone", task, food, alone)
            if food in _SCALABLE:
                scaler = StandardScaler if food == "measured" else _within
                behind = _chain(scaler, alone)
                yield Case(name, kind, form, "behind a scaler", task, food, behind)
            continue
        linear = Ridge if task == "one target" else _logistic
        before = _chain(alone, lambda: StandardScaler(with_mean=False), linear)
        yield Case(name, kind, form, "before a linear model", task, food, before)
        if food in _SCALABLE and task == "three classes":
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


def _logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=300)


def _doubled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2.0 * values


def _scaled(model: Make) -> Make:
    """A member of a committee that is a pipeline itself."""
    return lambda: make_pipeline(StandardScaler(), model())


_CLASSIFIERS: Final = lambda: [  # noqa: E731 - a setting that is made anew, see _made
    ("linear", _scaled(LogisticRegression)()),
    ("tree", DecisionTreeClassifier(max_depth=4, random_state=0)),
]
_REGRESSORS: Final = lambda: [  # noqa: E731 - as above
    ("linear", Ridge()),
    ("tree", DecisionTreeRegressor(max_depth=4, random_state=0)),
]

# Settings without which a class cannot be made, would be slow, or would not be repeatable.
_NEEDED: Final[Mapping[str, Mapping[str, Any]]] = {
    "AdaBoostClassifier": {"n_estimators": 10, "random_state": 0},
    "AdaBoostRegressor": {"n_estimators": 10, "random_state": 0},
    "BaggingClassifier": {"random_state": 0},
    "BaggingRegressor": {"random_state": 0},
    "CalibratedClassifierCV": {"cv": 3},
    "ColumnTransformer": {
        "transformers": [("a", StandardScaler(), [0, 2]), ("b", MinMaxScaler(), [1])],
        "remainder": "passthrough",
    },
    "ExtraTreesClassifier": {"n_estimators": 20, "random_state": 0},
    "ExtraTreesRegressor": {"n_estimators": 20, "random_state": 0},
    "FeatureUnion": {"transformer_list": [("a", StandardScaler()), ("b", MinMaxScaler())]},
    "GaussianRandomProjection": {"n_components": 4, "random_state": 0},
    "GenericUnivariateSelect": {"mode": "k_best", "param": 3},
    "GradientBoostingClassifier": {"n_estimators": 10, "random_state": 0},
    "GradientBoostingRegressor": {"n_estimators": 10, "random_state": 0},
    "HistGradientBoostingClassifier": {"max_iter": 10},
    "HistGradientBoostingRegressor": {"max_iter": 10},
    "IsolationForest": {"n_estimators": 30, "random_state": 0},
    "KBinsDiscretizer": {"n_bins": 4, "quantile_method": "averaged_inverted_cdf"},
    "KMeans": {"n_clusters": 4, "n_init": 1, "random_state": 0},
    "KernelPCA": {"n_components": 4},
    "LocalOutlierFactor": {"novelty": True},
    "MLPClassifier": {"hidden_layer_sizes": (8,), "max_iter": 60, "random_state": 0},
    "MLPRegressor": {"hidden_layer_sizes": (8,), "max_iter": 60, "random_state": 0},
    "MiniBatchKMeans": {"n_clusters": 4, "n_init": 1, "random_state": 0},
    "MultiOutputClassifier": {"estimator": LogisticRegression()},
    "MultiOutputRegressor": {"estimator": Ridge()},
    "NeighborhoodComponentsAnalysis": {"n_components": 3, "max_iter": 20, "random_state": 0},
    "NuSVC": {"nu": 0.1},
    "OneVsOneClassifier": {"estimator": _scaled(LogisticRegression)()},
    "OneVsRestClassifier": {"estimator": _scaled(LogisticRegression)()},
    "QuadraticDiscriminantAnalysis": {"reg_param": 1e-3},
    "QuantileTransformer": {"n_quantiles": 50},
    "RFE": {"estimator": DecisionTreeClassifier(random_state=0), "n_features_to_select": 3},
    "RFECV": {"estimator": DecisionTreeClassifier(random_state=0), "cv": 3},
    "RANSACRegressor": {"random_state": 0},
    "RadiusNeighborsClassifier": {"radius": 1e4},
    "RadiusNeighborsRegressor": {"radius": 1e4},
    "RandomForestClassifier": {"n_estimators": 20, "random_state": 0},
    "RandomForestRegressor": {"n_estimators": 20, "random_state": 0},
    "RandomTreesEmbedding": {"n_estimators": 5, "max_depth": 3, "random_state": 0},
    "SelectFdr": {"alpha": 0.5},
    "SelectFpr": {"alpha": 0.5},
    "SelectFromModel": {"estimator": DecisionTreeClassifier(random_state=0)},
    "SelectFwe": {"alpha": 0.5},
    "SelectKBest": {"k": 3},
    "SelectPercentile": {"percentile": 50},
    "StackingClassifier": {"estimators": _CLASSIFIERS, "cv": 3},
    "StackingRegressor": {"estimators": _REGRESSORS, "cv": 3},
    "TargetEncoder": {"cv": 3},
    "TruncatedSVD": {"n_components": 3, "random_state": 0},
    "TunedThresholdClassifierCV": {"estimator": _scaled(LogisticRegression)()},
    "VotingClassifier": {"estimators": _CLASSIFIERS},
    "VotingRegressor": {"estimators": _REGRESSORS},
}
_GP_KERNEL: Final = ConstantKernel(1.0) * RBF(1.0) + WhiteKernel(0.5)

# Forms of a class beside the one above: each gets all places and tasks as well.
_FORMS: Final[Mapping[str, Forms]] = {
    "AdaBoostClassifier": {
        "logistic members": {"estimator": _logistic()},
        "deep members": {"estimator": DecisionTreeClassifier(max_depth=4, random_state=0)},
    },
    "AdaBoostRegressor": {"linear members": {"estimator": Ridge()}},
    "BaggingClassifier": {
        "logistic members": {"estimator": _logistic(), "max_features": 0.5},
        "members without probabilities": {"estimator": LinearSVC()},
    },
    "BaggingRegressor": {"linear members": {"estimator": Ridge(), "max_features": 0.5}},
    "CalibratedClassifierCV": {
        "isotonic": {"method": "isotonic"},
        "logistic": {"estimator": _scaled(LogisticRegression)()},
        "one model": {"ensemble": False},
        "tree, isotonic": {
            "estimator": DecisionTreeClassifier(max_depth=3),
            "method": "isotonic",
        },
    },
    "ColumnTransformer": {
        "weights and drop": {
            "transformers": [("a", StandardScaler(), [0, 2]), ("b", "drop", [1])],
            "remainder": MinMaxScaler(),
            "transformer_weights": {"a": 0.5},
        }
    },
    "FeatureUnion": {
        "weights": {"transformer_weights": {"a": 2.0}},
    },
    "FunctionTransformer": {
        "log1p": {"func": np.log1p, "food": "positive"},
        "a function of one's own": {"func": _doubled},
    },
    "GaussianProcessClassifier": {
        "composed kernel": {
            "kernel": ConstantKernel(2.0) * RBF(2.0),
            "optimizer": None,
        },
        "one_vs_one": {"multi_class": "one_vs_one"},
    },
    "GaussianProcessRegressor": {
        "composed kernel": {"kernel": _GP_KERNEL, "normalize_y": True},
        "Matern": {"kernel": Matern(2.0, nu=1.5), "alpha": 0.1},
    },
    "GradientBoostingClassifier": {
        "own init": {"init": DecisionTreeClassifier(max_depth=2)},
        "init zero": {"init": "zero"},
    },
    "GradientBoostingRegressor": {
        "own init": {"init": LinearRegression()},
        "quantile": {"loss": "quantile", "alpha": 0.8},
    },
    "HistGradientBoostingClassifier": {
        "gaps": {"food": "gaps"},
        "categories": {"categorical_features": [0, 1], "food": "categories"},
    },
    "HistGradientBoostingRegressor": {
        "gaps": {"food": "gaps"},
        "gamma": {"loss": "gamma"},
        "categories": {"categorical_features": [0, 1], "food": "categories"},
    },
    "KBinsDiscretizer": {
        "ordinal": {"encode": "ordinal"},
        "uniform, dense": {"encode": "onehot-dense", "strategy": "uniform"},
        "kmeans": {"strategy": "kmeans", "encode": "ordinal"},
    },
    "KNNImputer": {"by distance": {"weights": "distance"}},
    "KNeighborsClassifier": {
        "by distance": {"weights": "distance"},
        "manhattan": {"metric": "manhattan"},
        "minkowski 3": {"p": 3},
    },
    "KNeighborsRegressor": {
        "by distance": {"weights": "distance"},
        "manhattan": {"metric": "manhattan"},
        "chebyshev": {"metric": "chebyshev", "weights": "distance"},
    },
    "KernelPCA": {
        "rbf": {"kernel": "rbf"},
        "poly": {"kernel": "poly", "degree": 2},
        "sigmoid": {"kernel": "sigmoid", "gamma": 1e-3},
        "cosine": {"kernel": "cosine"},
    },
    "LinearDiscriminantAnalysis": {"shrinkage": {"solver": "lsqr", "shrinkage": "auto"}},
    "LinearSVC": {"crammer_singer": {"multi_class": "crammer_singer"}},
    "LocalOutlierFactor": {"manhattan": {"metric": "manhattan"}},
    "LogisticRegression": {"C=0.01": {"C": 0.01, "max_iter": 300}},
    "MLPClassifier": {"two layers, tanh": {"hidden_layer_sizes": (8, 5), "activation": "tanh"}},
    "MLPRegressor": {"identity": {"activation": "identity"}},
    "MultiOutputRegressor": {
        "trees": {"estimator": DecisionTreeRegressor(max_depth=4, random_state=0)}
    },
    "Normalizer": {"l1": {"norm": "l1"}, "max": {"norm": "max"}},
    "NuSVC": {"probability": {"probability": True, "random_state": 0}},
    "OneHotEncoder": {
        "dropped": {"drop": "first", "sparse_output": False},
        "infrequent": {"min_frequency": 45, "handle_unknown": "infrequent_if_exist"},
    },
    "OneClassSVM": {"poly": {"kernel": "poly", "nu": 0.2}, "sigmoid": {"kernel": "sigmoid"}},
    "OneVsOneClassifier": {"linear SVC": {"estimator": LinearSVC()}},
    "OneVsRestClassifier": {
        "linear SVC": {"estimator": LinearSVC()},
        "trees": {"estimator": DecisionTreeClassifier(max_depth=3, random_state=0)},
    },
    "OrdinalEncoder": {
        "unknown": {"handle_unknown": "use_encoded_value", "unknown_value": -1},
    },
    "PCA": {"whiten": {"whiten": True, "n_components": 3}},
    "PassiveAggressiveClassifier": {"squared_hinge": {"loss": "squared_hinge"}},
    "PolynomialFeatures": {
        "interactions": {"interaction_only": True, "include_bias": False},
        "degree 3": {"degree": 3},
    },
    "PowerTransformer": {
        "box-cox": {"method": "box-cox", "food": "above zero"},
        "not standardized": {"standardize": False},
    },
    "QuadraticDiscriminantAnalysis": {"more regular": {"reg_param": 0.2}},
    "QuantileTransformer": {"normal": {"output_distribution": "normal", "n_quantiles": 50}},
    "RANSACRegressor": {
        "tree": {"estimator": DecisionTreeRegressor(max_depth=3), "min_samples": 50}
    },
    "RadiusNeighborsClassifier": {"by distance": {"weights": "distance"}},
    "RadiusNeighborsRegressor": {"by distance": {"weights": "distance"}},
    "RobustScaler": {"unit variance": {"unit_variance": True}},
    "SGDClassifier": {
        "log_loss": {"loss": "log_loss", "random_state": 0},
        "modified_huber": {"loss": "modified_huber", "random_state": 0},
    },
    "SVC": {
        "linear": {"kernel": "linear"},
        "poly": {"kernel": "poly"},
        "sigmoid": {"kernel": "sigmoid"},
        "probability": {"probability": True, "random_state": 0},
    },
    "SVR": {"linear": {"kernel": "linear"}, "poly": {"kernel": "poly"}},
    "SimpleImputer": {
        "median, indicator": {"strategy": "median", "add_indicator": True},
        "most frequent": {"strategy": "most_frequent"},
        "constant": {"strategy": "constant", "fill_value": -1.0},
    },
    "StackingClassifier": {
        "passthrough": {"passthrough": True},
        "decisions": {
            "estimators": lambda: [("a", LinearSVC()), ("b", _scaled(LogisticRegression)())],
            "final_estimator": RidgeClassifier(),
        },
        "predictions": {"stack_method": "predict"},
    },
    "StackingRegressor": {"passthrough": {"passthrough": True}},
    "TfidfTransformer": {"sublinear": {"sublinear_tf": True, "norm": "l1"}},
    "TweedieRegressor": {"power 1.5": {"power": 1.5}, "identity": {"power": 0, "link": "identity"}},
    "VotingClassifier": {
        "soft": {"voting": "soft", "weights": [1, 2]},
        "hard, weighted": {"weights": [1, 2]},
    },
    "VotingRegressor": {"weights": {"weights": [1, 3]}},
}
_FOODS: Final[Mapping[str, str]] = {
    "CategoricalNB": "categories",
    "ComplementNB": "positive",
    "KNNImputer": "gaps",
    "MultinomialNB": "positive",
    "OneHotEncoder": "categories",
    "OrdinalEncoder": "categories",
    "SimpleImputer": "gaps",
    "TargetEncoder": "categories",
    "TfidfTransformer": "positive",
}
_TRANSFORMS_NO_INPUTS: Final = frozenset(
    # Of targets, of text and dictionaries, of a kernel's values: never of what a device measures.
    {"DictVectorizer", "FeatureHasher", "KernelCenterer", "LabelBinarizer", "LabelEncoder"}
)
_IMPOSSIBLE: Final[Mapping[str, tuple[Task, ...]]] = {
    **dict.fromkeys(
        ("MultiTaskElasticNet", "MultiTaskElasticNetCV", "MultiTaskLasso", "MultiTaskLassoCV"),
        ("one target",),
    ),
    "MultiOutputClassifier": ("binary", "three classes"),
    "MultiOutputRegressor": ("one target",),
    "TunedThresholdClassifierCV": ("three classes",),
}
_SCALABLE: Final = frozenset({"measured", "positive"})
_SEVERAL_TARGETS: Final = frozenset(
    {
        "BaggingRegressor",
        "DecisionTreeRegressor",
        "ElasticNet",
        "ExtraTreeRegressor",
        "ExtraTreesRegressor",
        "GaussianProcessRegressor",
        "KNeighborsRegressor",
        "Lars",
        "Lasso",
        "LassoLars",
        "LinearRegression",
        "MLPRegressor",
        "MultiOutputRegressor",
        "MultiTaskElasticNet",
        "MultiTaskElasticNetCV",
        "MultiTaskLasso",
        "MultiTaskLassoCV",
        "OrthogonalMatchingPursuit",
        "PLSRegression",
        "RANSACRegressor",
        "RadiusNeighborsRegressor",
        "RandomForestRegressor",
        "Ridge",
        "RidgeCV",
    }
)
