"""How the classes of the coverage matrix are made and fed where their defaults do not do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

Task = Literal["binary", "three classes", "two labels", "one target", "two targets", "anomaly"]
Make = Callable[..., Any]
Forms = Mapping[str, Mapping[str, Any]]


def logistic() -> LogisticRegression:
    """The linear model at the end of a pipeline."""
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
NEEDED: Final[Mapping[str, Mapping[str, Any]]] = {
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
FORMS: Final[Mapping[str, Forms]] = {
    "AdaBoostClassifier": {
        "logistic members": {"estimator": logistic()},
        "deep members": {"estimator": DecisionTreeClassifier(max_depth=4, random_state=0)},
    },
    "AdaBoostRegressor": {"linear members": {"estimator": Ridge()}},
    "BaggingClassifier": {
        "logistic members": {"estimator": logistic(), "max_features": 0.5},
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
FOODS: Final[Mapping[str, str]] = {
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
TRANSFORMS_NO_INPUTS: Final = frozenset(
    # Of targets, of text and dictionaries, of a kernel's values: never of what a device measures.
    {"DictVectorizer", "FeatureHasher", "KernelCenterer", "LabelBinarizer", "LabelEncoder"}
)
IMPOSSIBLE: Final[Mapping[str, tuple[Task, ...]]] = {
    **dict.fromkeys(
        ("MultiTaskElasticNet", "MultiTaskElasticNetCV", "MultiTaskLasso", "MultiTaskLassoCV"),
        ("one target",),
    ),
    "MultiOutputClassifier": ("binary", "three classes"),
    "MultiOutputRegressor": ("one target",),
    "TunedThresholdClassifierCV": ("three classes",),
}
SCALABLE: Final = frozenset({"measured", "positive"})
SEVERAL_TARGETS: Final = frozenset(
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
