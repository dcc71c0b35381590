"""ONNX forms: every one answers as its original does, in any batch size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from onnx_runs import assert_same_answers, labels_of, run
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.covariance import EllipticEnvelope
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.decomposition import PCA, KernelPCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    RandomTreesEmbedding,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import RFE, RFECV, SelectKBest
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import (
    ConstantKernel,
    DotProduct,
    ExpSineSquared,
    Matern,
    RationalQuadratic,
    WhiteKernel,
)
from sklearn.impute import SimpleImputer
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDOneClassSVM,
)
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, LocalOutlierFactor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier

from converter.frontends.sklearn import import_estimator
from converter.lowering.trees import float32_cut
from edge_agent.contract.errors import ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def imported(estimator, x, **options):
    names = tuple(f"c{i}" for i in range(x.shape[1]))
    return import_estimator(estimator, length=1, channels=names, rate_hz=1.0, **options)


def rows(x):
    return x.astype(np.float32)[:, None, :]


def operators(model):
    return [node.op_type for node in model.graph.node]


def iris(kind=np.asarray):
    x, y = load_iris(return_X_y=True)
    return x.astype(np.float32), kind(y)


def cancer():
    x, y = load_breast_cancer(return_X_y=True)
    return x.astype(np.float32), np.array(["malignant", "benign"])[y]


def diabetes(targets=1):
    x, y = load_diabetes(return_X_y=True)
    return x, y if targets == 1 else np.stack([y, -3.0 * y], axis=1)


def members():
    return [
        ("linear", make_pipeline(StandardScaler(), LogisticRegression())),
        ("forest", RandomForestClassifier(8, random_state=0)),
        ("boosted", HistGradientBoostingClassifier(max_iter=3, random_state=0)),
    ]


CLASSIFIERS = [
    LogisticRegression(max_iter=50),
    LinearDiscriminantAnalysis(),
    LinearSVC(random_state=0),
    RidgeClassifier(),
    make_pipeline(StandardScaler(), SGDClassifier(random_state=0)),
    make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)),
    make_pipeline(StandardScaler(), MLPClassifier((8, 5), max_iter=20, random_state=0)),
    make_pipeline(
        RobustScaler(), MLPClassifier((8,), activation="tanh", max_iter=20, random_state=0)
    ),
    make_pipeline(MinMaxScaler(), MLPClassifier((8,), activation="logistic", max_iter=20)),
    DecisionTreeClassifier(random_state=0),
    ExtraTreeClassifier(random_state=0),
    RandomForestClassifier(20, random_state=0),
    ExtraTreesClassifier(20, max_depth=4, random_state=0),
    GradientBoostingClassifier(n_estimators=5, random_state=0),
    HistGradientBoostingClassifier(max_iter=5, random_state=0),
    make_pipeline(StandardScaler(), SVC()),
    SVC(kernel="linear"),
    make_pipeline(StandardScaler(), SVC(kernel="poly", break_ties=True)),
    make_pipeline(StandardScaler(), SVC(kernel="sigmoid")),
    make_pipeline(StandardScaler(), NuSVC(nu=0.2)),
    make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)),
    VotingClassifier(members(), voting="soft", weights=[1, 2, 3]),
    StackingClassifier(members(), cv=2),
    StackingClassifier(members()[:2], LogisticRegression(), passthrough=True, cv=2),
    GridSearchCV(RandomForestClassifier(5, random_state=0), {"max_depth": [2, 4]}, cv=2),
    GaussianNB(),
    make_pipeline(StandardScaler(), KNeighborsClassifier(7)),
    make_pipeline(StandardScaler(), KNeighborsClassifier(metric="manhattan")),
    CalibratedClassifierCV(LinearSVC(random_state=0), cv=2),
    AdaBoostClassifier(n_estimators=4, random_state=0),
    AdaBoostClassifier(LogisticRegression(), n_estimators=4, random_state=0),
    make_pipeline(StandardScaler(), SGDClassifier(loss="modified_huber", random_state=0)),
    SGDClassifier(loss="log_loss", random_state=0),  # far from 0, where sigmoids underflow
    GradientBoostingClassifier(n_estimators=3, init=DecisionTreeClassifier(max_depth=2)),
    VotingClassifier(members()),
    VotingClassifier(members(), weights=[1, 2, 2]),
    StackingClassifier(members()[:2], stack_method="predict", cv=2),
    StackingClassifier([("a", LinearSVC()), ("b", SVC())], RidgeClassifier(), cv=2),
    BaggingClassifier(LogisticRegression(max_iter=50), 4, max_features=0.5, random_state=0),
    BaggingClassifier(LinearSVC(random_state=0), 4, max_samples=9, random_state=0),
    CalibratedClassifierCV(RandomForestClassifier(5, random_state=0), method="isotonic", cv=2),
    CalibratedClassifierCV(make_pipeline(StandardScaler(), SVC(probability=True)), cv=2),
    OneVsRestClassifier(LogisticRegression(max_iter=50)),
    OneVsRestClassifier(DecisionTreeClassifier(max_depth=2, random_state=0)),
    OneVsRestClassifier(LinearSVC(random_state=0)),
    OneVsRestClassifier(LinearRegression()),  # gives labels and nothing else
    OneVsOneClassifier(make_pipeline(StandardScaler(), LogisticRegression())),
    OneVsOneClassifier(DecisionTreeClassifier(max_depth=2, random_state=0)),
    KNeighborsClassifier(weights="distance"),  # rows that it was trained on are among these
    make_pipeline(StandardScaler(), GaussianProcessClassifier()),
    make_pipeline(StandardScaler(), RFE(LogisticRegression(), n_features_to_select=2)),
    DummyClassifier(),
    DummyClassifier(strategy="most_frequent"),
]


@pytest.mark.parametrize("data", [iris, cancer])
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=lambda e: type(e).__name__)
def test_classifiers(estimator, data):
    x, y = data()
    assert_same_answers(imported(estimator.fit(x, y), x), rows(x), atol=1e-5)


@pytest.mark.parametrize(
    "estimator",
    [
        OutputCodeClassifier(LinearSVC(random_state=0), code_size=2.0, random_state=3),
        SelfTrainingClassifier(make_pipeline(StandardScaler(), LogisticRegression())),
    ],
    ids=lambda e: type(e).__name__,
)
def test_classifiers_of_numbered_classes(estimator):
    x, y = iris()
    assert_same_answers(imported(estimator.fit(x, y), x), rows(x), atol=1e-5)


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("threshold", [0.2, 0.9])
def test_a_threshold_of_its_own_moves_the_label_and_not_the_scores(threshold, positive):
    x, y = iris(lambda y: (y > 1).astype(int))
    member = LogisticRegression(max_iter=50).fit(x, y)
    model = FixedThresholdClassifier(member, threshold=threshold, pos_label=positive).fit(x, y)
    assert_same_answers(imported(model, x), rows(x))
    assert (model.predict(x) != member.predict(x)).any()


def test_a_tuned_threshold_is_kept():
    x, y = cancer()
    model = TunedThresholdClassifierCV(RandomForestClassifier(10, random_state=0), cv=3)
    assert_same_answers(imported(model.fit(x, y == "benign"), x), rows(x))


REGRESSORS = [
    LinearRegression(),
    Ridge(),
    make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), max_iter=20, random_state=0)
    ),
    DecisionTreeRegressor(random_state=0),
    RandomForestRegressor(10, random_state=0),
    GradientBoostingRegressor(n_estimators=5, random_state=0),
    GradientBoostingRegressor(n_estimators=5, init="zero", loss="huber", random_state=0),
    HistGradientBoostingRegressor(max_iter=5),
    HistGradientBoostingRegressor(max_iter=5, loss="poisson"),
    SVR(),
    SVR(kernel="linear"),
    VotingRegressor([("a", Ridge()), ("b", RandomForestRegressor(3))], weights=[1, 3]),
    StackingRegressor([("a", Ridge()), ("b", RandomForestRegressor(3))], cv=2),
    KNeighborsRegressor(),
    KNeighborsRegressor(weights="distance", metric="manhattan"),
    AdaBoostRegressor(n_estimators=5, random_state=0),
    BaggingRegressor(Ridge(), 4, max_features=0.5, random_state=0),
    GradientBoostingRegressor(n_estimators=4, init=Ridge()),
    KernelRidge(kernel="rbf"),
    GaussianProcessRegressor(ConstantKernel(2.0) * Matern(1.0, nu=2.5) + WhiteKernel(), alpha=1.0),
    GaussianProcessRegressor(
        RationalQuadratic() * DotProduct() + Matern(nu=0.5), alpha=1.0, normalize_y=True
    ),
    TransformedTargetRegressor(Ridge(), transformer=StandardScaler()),
    TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
    RFECV(Ridge(), cv=2),
    DummyRegressor(strategy="median"),
]


@pytest.mark.parametrize("estimator", REGRESSORS, ids=lambda e: type(e).__name__)
def test_regressors(estimator):
    x, y = diabetes()
    assert_same_answers(imported(estimator.fit(x, y), x), rows(x))


@pytest.mark.parametrize(
    "estimator",
    [
        Ridge(),
        RandomForestRegressor(5),
        MLPRegressor(hidden_layer_sizes=(4,), max_iter=5),
        KNeighborsRegressor(),
        KNeighborsRegressor(weights="distance"),
        MultiOutputRegressor(Ridge()),
        RegressorChain(Ridge(), order=[1, 0]),
        TransformedTargetRegressor(Ridge(), transformer=StandardScaler()),
        GaussianProcessRegressor(alpha=1.0, normalize_y=True),
        BaggingRegressor(random_state=0),
    ],
    ids=lambda e: type(e).__name__,
)
def test_several_targets(estimator):
    x, y = diabetes(targets=2)
    model = imported(estimator.fit(x, y), x)
    assert model.outputs[0].width == 2
    assert_same_answers(model, rows(x))


DETECTORS = [
    IsolationForest(n_estimators=20, random_state=0),
    IsolationForest(
        n_estimators=20, max_features=0.5, max_samples=3, contamination=0.1, random_state=0
    ),
    OneClassSVM(nu=0.2),
    make_pipeline(StandardScaler(), OneClassSVM(kernel="poly", nu=0.2)),
    EllipticEnvelope(random_state=0),
    SGDOneClassSVM(random_state=0),
]


@pytest.mark.parametrize("estimator", DETECTORS, ids=lambda e: type(e).__name__)
def test_outlier_detectors(estimator):
    x, _ = iris()
    model = imported(estimator.fit(x), x)
    assert model.labels == ("normal", "anomaly")
    assert_same_answers(model, rows(x))
    assert model.original(rows(x)).labels.any()  # there are both kinds among these rows


def test_a_local_outlier_factor_keeps_its_labels():
    x, _ = iris()
    model = imported(LocalOutlierFactor(novelty=True).fit(x), x)
    got, want = run(model.graph, rows(x)), model.original(rows(x))
    np.testing.assert_array_equal(labels_of(model, got), want.labels)
    np.testing.assert_allclose(got["scores"], want.scores, atol=5e-3)


@pytest.mark.parametrize(
    "step",
    [
        MinMaxScaler((-1, 2), clip=True),
        MaxAbsScaler(),
        PCA(3),
        PCA(2, whiten=True),
        SelectKBest(k=2),
        PolynomialFeatures(2),
        ColumnTransformer(
            [("a", StandardScaler(), [2, 0]), ("b", "drop", [1])], remainder="passthrough"
        ),
        make_union(StandardScaler(), PCA(2)),
        Normalizer(),
        Normalizer("max"),
        FunctionTransformer(np.log1p),
        KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf"),
        KBinsDiscretizer(3, encode="ordinal", strategy="uniform"),
        QuantileTransformer(n_quantiles=40),
        Binarizer(threshold=2.5),
        KMeans(5, n_init=1, random_state=0),
        KernelPCA(3, kernel="rbf"),
        KernelPCA(3, kernel="cosine"),
        Nystroem(n_components=9, random_state=0),
        RBFSampler(n_components=9, random_state=0),
        RandomTreesEmbedding(4, max_depth=3, random_state=0),
        SimpleImputer(add_indicator=True),
    ],
    ids=lambda step: type(step).__name__,
)
def test_transformers_before_a_model(step):
    x, y = iris()
    model = make_pipeline(step, LogisticRegression(max_iter=300)).fit(x, y)
    assert_same_answers(imported(model, x), rows(x), atol=1e-5)


@pytest.mark.parametrize(
    "encoder",
    [
        OneHotEncoder(),
        OneHotEncoder(drop="first", sparse_output=False),
        OneHotEncoder(handle_unknown="ignore"),
        OneHotEncoder(min_frequency=40, handle_unknown="infrequent_if_exist"),
        OrdinalEncoder(),
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-3),
        TargetEncoder(cv=3),
        ColumnTransformer([("a", OneHotEncoder(), [0, 2])], remainder="passthrough"),
    ],
    ids=lambda encoder: type(encoder).__name__,
)
def test_encoders_of_numbers(encoder):
    x, y = iris()
    x = np.floor(x) + 3.0  # no category is 1
    model = make_pipeline(encoder, LogisticRegression(max_iter=300)).fit(x, y)
    assert_same_answers(imported(model, x), rows(x), atol=1e-5)
    if getattr(encoder, "handle_unknown", "error") in {"error", "value"}:
        return
    unseen = rows(x) + 50
    got = run(imported(model, x).graph, unseen)["scores"]
    np.testing.assert_allclose(got, model.predict_proba(unseen[:, 0]), atol=1e-5)


@pytest.mark.parametrize(
    "imputer",
    [
        SimpleImputer(),
        SimpleImputer(strategy="median", add_indicator=True),
        SimpleImputer(strategy="constant", fill_value=-2.0),
    ],
    ids=["mean", "marked median", "constant"],
)
def test_imputers_fill_gaps(imputer):
    x, y = iris()
    x = x.copy()
    x[::7, 1] = np.nan
    x[3::9, 2] = np.nan
    model = make_pipeline(imputer, DecisionTreeClassifier(random_state=0)).fit(x, y)
    assert_same_answers(imported(model, x), rows(x))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(
    "scaler",
    [
        StandardScaler(),
        StandardScaler(with_std=False),
        RobustScaler(),
        MaxAbsScaler(),
        MinMaxScaler(),
    ],
    ids=lambda scaler: type(scaler).__name__,
)
def test_a_tree_behind_a_scaler_sees_the_same_bits(scaler, kind):
    """A forest that memorised noise answers differently for one unit in the last place."""
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(400, 3)) * [1.0, 50.0, 1e-3] + [3.0, 1e4, 7.0]).astype(np.float32)
    y = rng.integers(0, 2, 400)
    model = make_pipeline(scaler, DecisionTreeClassifier(random_state=0)).fit(x.astype(kind), y)
    assert_same_answers(imported(model, x), rows(x))


@pytest.mark.parametrize(
    "estimator",
    [DecisionTreeClassifier(), HistGradientBoostingClassifier(min_samples_leaf=1, max_iter=1)],
    ids=lambda e: type(e).__name__,
)
def test_thresholds_between_neighbouring_floats(estimator):
    """The midpoint of two neighbouring float32 is no float32: rounding it up would flip one."""
    lows = np.random.default_rng(0).uniform(1e2, 1e6, 40).astype(np.float32)
    for low in lows:
        high = np.nextafter(low, np.float32(np.inf))
        x = np.repeat(np.array([[low], [high]], dtype=np.float32), 20, axis=0)
        model = imported(estimator.fit(x, np.repeat([0, 1], 20)), x)
        want = model.original(rows(x)).labels
        np.testing.assert_array_equal(want, np.repeat([0, 1], 20))
        np.testing.assert_array_equal(labels_of(model, run(model.graph, rows(x))), want)


@given(st.floats(allow_nan=False, width=64))
def test_the_cut_is_the_largest_float32_not_above(threshold):
    cut = float32_cut(np.array([threshold]))[0]
    assert cut.dtype == np.float32
    assert float(cut) <= threshold
    with np.errstate(over="ignore"):
        above = np.nextafter(cut, np.float32(np.inf))
    assert threshold == np.inf or float(above) > threshold


def test_missing_values_take_the_learned_side():
    x, y = iris()
    x = x.copy()
    x[::5, 2] = np.nan
    estimator = HistGradientBoostingClassifier(max_iter=4, random_state=0).fit(x, y)
    assert_same_answers(imported(estimator, x), rows(x))


def test_a_forest_is_one_node_without_zero_weights():
    x, y = iris()
    model = imported(RandomForestClassifier(20, random_state=0).fit(x, y), x).graph
    assert operators(model) == ["Flatten", "TreeEnsembleRegressor"]
    attributes = {a.name: helper.get_attribute_value(a) for a in model.graph.node[1].attribute}
    assert 0.0 not in attributes["target_weights"]


def test_an_isolation_forest_is_one_tree_node_and_three_others():
    x, _ = iris()
    model = imported(IsolationForest(n_estimators=20, random_state=0).fit(x), x).graph
    assert operators(model) == ["Flatten", "TreeEnsembleRegressor", "Mul", "Exp", "Add"]


@pytest.mark.parametrize(
    "estimator",
    [DecisionTreeRegressor(), RandomForestRegressor(3), HistGradientBoostingRegressor(max_iter=2)],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_trees_that_never_split(estimator, value):
    x, _ = diabetes()
    model = imported(estimator.fit(x, np.full(len(x), value)), x)
    np.testing.assert_allclose(run(model.graph, rows(x))["value"], value)


def test_an_even_vote_of_trees_is_a_tie_as_in_the_original():
    x = np.arange(8, dtype=np.float32)[:, None]
    forest = RandomForestClassifier(4, max_depth=1, random_state=1).fit(x, [0, 1] * 4)
    model = imported(forest, x)
    even = np.isclose(forest.predict_proba(x)[:, 0], 0.5)
    got = labels_of(model, run(model.graph, rows(x)))
    np.testing.assert_array_equal(got[even], model.original(rows(x)).labels[even])


def test_a_net_is_made_of_layers_that_can_be_quantized_and_the_scaler_is_not():
    x, y = iris()
    model = imported(make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=5)).fit(x, y), x)
    names = {node.name: node.op_type for node in model.graph.graph.node}
    assert operators(model.graph) == ["Flatten", "Sub", "Div", "Gemm", "Relu", "Gemm", "Softmax"]
    assert {names[name] for name in model.keep_float} == {
        "Flatten",
        "Sub",
        "Div",
        "Relu",
        "Softmax",
    }


def test_a_label_output_is_there_only_where_it_is_not_the_argmax():
    x, y = iris()
    for estimator, expected in (
        (LogisticRegression(max_iter=50), ["scores"]),
        (RandomForestClassifier(3), ["scores"]),
        (SVC(), ["scores", "label"]),
    ):
        outputs = imported(estimator.fit(x, y), x).outputs
        assert [output.name for output in outputs] == expected


@pytest.mark.parametrize(
    "names",
    [
        lambda y: y + 5,
        lambda y: -y,
        lambda y: y.astype(np.float64),
        lambda y: np.array(["c", "a", "b"])[y],
        lambda y: y > 0,
    ],
    ids=["numbers", "negative", "floats", "strings", "booleans"],
)
@pytest.mark.parametrize("estimator", [LogisticRegression(max_iter=50), KNeighborsClassifier()])
def test_any_kind_of_class_name(estimator, names):
    x, y = iris(names)
    model = imported(estimator.fit(x, y), x)
    assert model.labels == tuple(str(label) for label in np.unique(y).tolist())
    assert_same_answers(model, rows(x))


class Halve:
    """A user's own transformer, with and without its ONNX form."""

    n_features_in_ = 4

    def fit(self, x, y=None):
        return self

    def transform(self, x):
        return x / np.float32(2)


class HalveWithForm(Halve):
    def onnx_form(self, graph, x):
        return graph.add("Mul", x, graph.constant(0.5))


def test_an_own_transformer_exports_by_its_method():
    x, y = iris()
    model = make_pipeline(HalveWithForm(), LogisticRegression(max_iter=50)).fit(x, y)
    assert_same_answers(imported(model, x), rows(x))


class OwnForest(RandomForestClassifier):
    """A subclass may answer anything: its parent's form is not taken for its own."""


class OwnBoundary(ClassifierMixin, BaseEstimator):
    """A user's own classifier: the first feature against its mean."""

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        self.border_ = float(np.mean(x[:, 0]))
        return self

    def decision_function(self, x):
        return x[:, 0] - np.float32(self.border_)

    def predict(self, x):
        return self.classes_[(self.decision_function(x) > 0).astype(int)]

    def onnx_form(self, graph, x):
        first = graph.add("Gather", x, graph.constant([0], np.int64), axis=1)
        above = graph.add("Sub", first, graph.constant(self.border_))
        return graph.add("Concat", graph.add("Neg", above), above, axis=1)


class Broken(HalveWithForm):
    def onnx_form(self, graph, x):
        return graph.add("NoSuchOperator", x)


def test_an_own_classifier_exports_by_its_method():
    x, y = iris()
    assert_same_answers(imported(OwnBoundary().fit(x, y > 0), x), rows(x))


def test_a_broken_own_form_is_an_error_of_its_author():
    x, y = iris()
    model = make_pipeline(Broken(), LogisticRegression(max_iter=50)).fit(x, y)
    with pytest.raises(ConfigError, match=r"no valid ONNX form[\s\S]*NoSuchOperator"):
        imported(model, x)


def test_a_subclass_of_a_known_estimator_is_refused_by_name():
    x, y = iris()
    with pytest.raises(ConfigError, match="OwnForest has no ONNX form"):
        imported(OwnForest(2).fit(x, y), x)


def test_an_own_transformer_without_a_form_is_refused_by_name():
    x, y = iris()
    model = make_pipeline(Halve(), LogisticRegression(max_iter=50)).fit(x, y)
    with pytest.raises(ConfigError, match=r"test_lower\.Halve has no ONNX form.*onnx_form"):
        imported(model, x)


@pytest.mark.parametrize(
    ("estimator", "says"),
    [
        (SVC(decision_function_shape="ovo"), "decision_function_shape"),
        (SVC(kernel=lambda a, b: a @ b.T), "with kernel="),
        (KNeighborsClassifier(metric="chebyshev"), "manhattan"),
        (KNeighborsClassifier(weights=lambda d: d), "weights='uniform'"),
        (make_pipeline(FunctionTransformer(np.cbrt), Ridge()), "numpy's"),
        (
            TransformedTargetRegressor(Ridge(), transformer=QuantileTransformer(n_quantiles=40)),
            "scaler",
        ),
        (
            make_pipeline(
                QuantileTransformer(n_quantiles=40, output_distribution="normal"), Ridge()
            ),
            "uniform",
        ),
        (GaussianProcessRegressor(ExpSineSquared(), alpha=1e3), "ExpSineSquared"),
        (IsolationForest(max_samples=1), "max_samples=1"),
        (DummyClassifier(strategy="uniform"), "by chance"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_has_no_right_form_is_refused_by_name(estimator, says):
    x, y = iris()
    with pytest.raises(ConfigError, match=says) as caught:
        imported(estimator.fit(x, y), x)
    named = estimator[0] if isinstance(estimator, Pipeline) else estimator
    known = isinstance(named, GaussianProcessRegressor)  # the message names its kernel
    assert known or type(named).__name__ in str(caught.value)
