"""Model files of scikit-learn: what is loaded, what is refused, and real recordings."""

from __future__ import annotations

import csv
import functools
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
import skops.io
from onnx_runs import assert_same_answers
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from converter.features import FEATURES, Flatten, WindowFeatures, WindowTransformer
from converter.frontends import import_model
from converter.frontends.sklearn import import_estimator
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import INPUT_NAME

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no recordings in {DATA}")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

IRIS = ("a", "b", "c", "d")


def iris():
    x, y = load_iris(return_X_y=True)
    return x.astype(np.float32), np.array(["setosa", "versicolor", "virginica"])[y]


def fitted(estimator):
    return estimator.fit(*iris())


def load(path, **options):
    settings = {"length": 1, "channels": IRIS, "rate_hz": 1.0, **options}
    return import_model(path, **settings)


def understand(estimator, **options):
    settings = {"length": 1, "channels": IRIS, "rate_hz": 1.0, **options}
    return import_estimator(estimator, **settings)


class Doubler(WindowTransformer):
    """A user's own window transformer."""

    def onnx_form(self, graph, x):
        return graph.add("Mul", graph.add("Flatten", x, axis=1), graph.constant(2.0))

    def _compute(self, windows):
        return 2.0 * windows.reshape(len(windows), -1)

    def _names(self, channel):
        return [f"{channel}.double"]


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(5),
        HistGradientBoostingClassifier(max_iter=3),
        MLPClassifier((4,), max_iter=5),
        MLPClassifier((4,), max_iter=5, solver="sgd"),
        KNeighborsClassifier(),
        KNeighborsClassifier(metric="manhattan", algorithm="ball_tree"),
        VotingClassifier([("a", LogisticRegression()), ("b", RandomForestClassifier(3))]),
        StackingClassifier([("a", LogisticRegression())], RandomForestClassifier(3), cv=2),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=lambda e: type(e).__name__,
)
def test_skops_files_of_scikit_learns_own_types_load(tmp_path, estimator):
    skops.io.dump(fitted(estimator), tmp_path / "m.skops")
    assert_same_answers(load(tmp_path / "m.skops"), iris()[0][:, None, :], atol=1e-5)


def test_an_unknown_type_is_named_and_loads_only_when_trusted(tmp_path):
    path = tmp_path / "m.skops"
    skops.io.dump(_own(), path)
    with pytest.raises(ConfigError, match=r"test_frontend_sklearn\.Doubler.*trust.*runs"):
        load(path)
    model = load(path, trust=("test_frontend_sklearn.Doubler",))
    assert model.estimator == "Doubler > LogisticRegression"
    assert_same_answers(model, iris()[0][:, None, :])


def test_a_reviewed_type_gives_no_way_to_a_function_that_is_not(tmp_path):
    marker = tmp_path / "ran"
    hostile = FunctionTransformer(functools.partial(os.system, f"touch {marker}"))
    skops.io.dump(hostile, tmp_path / "m.skops")
    with pytest.raises(ConfigError, match=r"reviewed list: posix\.system"):
        load(tmp_path / "m.skops")
    assert not marker.exists()


def _own():
    x, y = iris()
    return make_pipeline(Doubler(), LogisticRegression(max_iter=50)).fit(x[:, None, :], y)


def test_pickles_need_consent(tmp_path):
    for name in ("m.joblib", "m.pkl"):
        joblib.dump(fitted(LogisticRegression(max_iter=50)), tmp_path / name)
        with pytest.raises(ConfigError, match="unpickling runs any code"):
            load(tmp_path / name)
        assert load(tmp_path / name, consent_pickle=True).task == "classification"


def test_a_pickle_is_not_opened_without_consent(tmp_path):
    marker = tmp_path / "ran"
    code = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    (tmp_path / "evil.pkl").write_bytes(b"c__builtin__\nexec\n(V" + code.encode() + b"\ntR.")
    with pytest.raises(ConfigError):
        load(tmp_path / "evil.pkl")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["m.skops", "m.pkl", "m.joblib"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ConfigError, match=name):
        load(tmp_path / name, consent_pickle=True)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "m.mat").touch()
    with pytest.raises(ConfigError, match=r"models are \.skops"):
        load(tmp_path / "m.mat")
    with pytest.raises(ConfigError, match="no such model file"):
        load(tmp_path / "absent.skops")


def test_another_version_of_scikit_learn_becomes_a_note(tmp_path):
    path = tmp_path / "m.pkl"
    joblib.dump(fitted(LogisticRegression(max_iter=50)), path)
    older = sklearn.__version__[:-1] + "x"
    path.write_bytes(path.read_bytes().replace(sklearn.__version__.encode(), older.encode()))
    (note,) = load(path, consent_pickle=True).notes
    assert older in note
    assert sklearn.__version__ in note


def test_another_number_of_inputs_names_both():
    with pytest.raises(ConfigError, match=r"LogisticRegression expects 4 inputs.*has 6"):
        understand(fitted(LogisticRegression(max_iter=50)), length=2, channels=("x", "y", "z"))


@pytest.mark.parametrize("length", [1, 5])
def test_readings_are_flattened_oldest_first(length):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, length, 2)).astype(np.float32)
    y = x[:, 0, 0] > x[:, -1, 1]
    model = LogisticRegression().fit(x.reshape(300, -1), y)
    imported = understand(model, length=length, channels=("u", "v"))
    assert_same_answers(imported, x)
    names = ("u", "v") if length == 1 else ("u[0]", "v[0]", "u[1]")
    assert imported.feature_names[:3] == names
    np.testing.assert_array_equal(imported.features(x), x.reshape(300, -1))
    assert imported.labels == ("False", "True")


def windows(count=120, length=50, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, length, channels)).astype(np.float32)
    y = np.arange(count) % 3
    return (x * (1 + y[:, None, None])).astype(np.float32), y


def test_features_of_the_recipe_stand_before_the_model():
    x, y = windows()
    features = WindowFeatures(features=("std", "max"), bands=((1.0, 10.0),), rate_hz=50.0).fit(x)
    model = RandomForestClassifier(10, random_state=0).fit(features.transform(x), y)
    spec = WindowFeatures(features=("std", "max"), bands=((1.0, 10.0),), rate_hz=50.0)
    imported = understand(model, length=50, channels=("u", "v"), rate_hz=50.0, features=spec)
    assert imported.estimator == "WindowFeatures > RandomForestClassifier"
    assert imported.feature_names == (
        "u.std", "u.max", "u.band_1_10", "v.std", "v.max", "v.band_1_10",
    )  # fmt: skip
    np.testing.assert_array_equal(imported.features(x), features.transform(x))
    assert_same_answers(imported, x)
    assert not hasattr(spec, "window_shape_")  # the caller's object is left alone


def test_features_as_names():
    x, y = windows()
    rows = WindowFeatures(features=("std",)).fit(x).transform(x)
    model = LogisticRegression().fit(rows, y)
    imported = understand(model, length=50, channels=("u", "v"), features=("std",))
    assert imported.feature_names == ("u.std", "v.std")
    assert_same_answers(imported, x)


def test_features_that_do_not_fit_are_named():
    x, y = windows()
    pipeline = make_pipeline(WindowFeatures(), LogisticRegression()).fit(x, y)
    plain = LogisticRegression().fit(x[:, 0, :], y)
    given = {"length": 50, "channels": ("u", "v"), "rate_hz": 50.0}
    with pytest.raises(ConfigError, match="computes its own features"):
        understand(pipeline, **given, features=("std",))
    with pytest.raises(ConfigError, match="unknown features"):
        understand(plain, **given, features=("sdt",))
    with pytest.raises(ConfigError, match=r"expects 2 inputs.*4"):
        understand(plain, **given, features=("std", "mean"))
    with pytest.raises(ConfigError, match=r"50 readings of 2 channels.*60 of 2"):
        understand(pipeline, **{**given, "length": 60})
    banded = WindowFeatures(bands=((1.0, 5.0),), rate_hz=100.0)
    with pytest.raises(ConfigError, match=r"100 readings per second.*50"):
        understand(make_pipeline(banded, LogisticRegression()).fit(x, y), **given)


def test_flatten_in_a_pipeline():
    x, y = windows(length=6)
    model = make_pipeline(Flatten(), StandardScaler(), LogisticRegression()).fit(x, y)
    imported = understand(model, length=6, channels=("u", "v"))
    assert imported.feature_names[:3] == ("u[0]", "v[0]", "u[1]")
    assert_same_answers(imported, x)


def test_labels_can_be_named():
    model = understand(fitted(LogisticRegression(max_iter=50)), labels=("x", "y", "z"))
    assert model.labels == ("x", "y", "z")
    with pytest.raises(ConfigError, match=r"has 3 classes.*names 2"):
        understand(fitted(LogisticRegression(max_iter=50)), labels=("x", "y"))
    regression = Ridge().fit(iris()[0], np.arange(150.0))
    with pytest.raises(ConfigError, match="regression has no labels"):
        understand(regression, labels=("x", "y"))


@pytest.mark.parametrize(
    ("estimator", "says"),
    [
        (LogisticRegression, "LogisticRegression is not fitted"),
        (lambda: make_pipeline(StandardScaler(), Ridge()), "StandardScaler > Ridge is not fitted"),
        (GaussianProcessRegressor, "GaussianProcessRegressor is not fitted"),
        (lambda: StandardScaler().fit(iris()[0]), "StandardScaler is not a classifier"),
        (lambda: {"model": 1}, "dict is not a classifier"),
        (
            lambda: MultiOutputClassifier(LogisticRegression()).fit(
                iris()[0], np.arange(300).reshape(150, 2) % 3
            ),
            "several labels at once",
        ),
        (
            lambda: RandomForestClassifier(2).fit(iris()[0], np.arange(300).reshape(150, 2) % 3),
            "several labels at once",
        ),
        (lambda: RandomForestClassifier(2).fit(iris()[0], np.zeros(150)), "one class only"),
    ],
)
def test_what_is_no_model_is_refused(estimator, says):
    with pytest.raises(ConfigError, match=says):
        understand(estimator())


def test_columns_in_another_order_are_refused():
    model = fitted(LogisticRegression(max_iter=50))
    model.feature_names_in_ = np.array(["a", "b", "d", "c"], dtype=object)
    with pytest.raises(ConfigError, match="trained on the columns a, b, d, c"):
        understand(model)
    model.feature_names_in_ = np.array(IRIS, dtype=object)
    assert_same_answers(understand(model), iris()[0][:, None, :])


def by_name():
    """Columns that are chosen by their names in three ways."""
    return ColumnTransformer(
        [
            ("some", StandardScaler(), ["a", "c"]),
            ("from_to", MinMaxScaler(), slice("b", "d")),
            ("kept", "passthrough", ["d"]),
        ]
    )


@pytest.mark.parametrize("channels", [IRIS, ("p", "q", "r", "s")])
@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(by_name(), LogisticRegression()),
        VotingClassifier([("v", make_pipeline(by_name(), LogisticRegression()))], voting="soft"),
    ],
)
def test_a_model_that_names_its_columns_is_asked_with_frames(estimator, channels):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    x, y = iris()
    estimator.fit(pandas.DataFrame(x, columns=IRIS), y)
    imported = import_estimator(estimator, length=1, channels=channels, rate_hz=1.0)
    assert_same_answers(imported, x[:, None, :])


def test_the_graph_is_for_any_batch_and_old_runtimes():
    graph = understand(fitted(LogisticRegression(max_iter=50))).graph
    (window,) = graph.graph.input
    assert window.name == INPUT_NAME
    assert window.type.tensor_type.shape.dim[0].dim_param == "N"
    assert {o.domain: o.version for o in graph.opset_import} == {"": 18, "ai.onnx.ml": 3}


def test_frontends_import_without_the_converters_weight():
    code = "import sys, converter.features; print('skl2onnx' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@needs_data
def test_watch_recordings_answer_as_the_original_on_every_window():
    with np.load(DATA / "motion_watch" / "watch.npz", allow_pickle=False) as archive:
        signal, offsets, label = (archive[key] for key in ("signal", "offsets", "label"))
        channels = tuple(archive["channels"].tolist())
    spans = list(pairwise(offsets))[::4]
    cut = [
        (signal[t : t + 100], label[i * 4])
        for i, (start, stop) in enumerate(spans)
        for t in range(start, stop - 99, 50)
    ]
    x = np.array([window for window, _ in cut], dtype=np.float32)
    y = np.array([truth for _, truth in cut])
    features = WindowFeatures(features=FEATURES, bands=((0.5, 5.0), (5.0, 25.0)), rate_hz=50.0)
    given = {"length": 100, "channels": channels, "rate_hz": 50.0}
    for tail in (
        [StandardScaler(), LogisticRegression(max_iter=300)],
        [StandardScaler(), RandomForestClassifier(30, random_state=0)],
        [HistGradientBoostingClassifier(max_iter=8)],
    ):
        model = make_pipeline(features, *tail).fit(x[::2], y[::2])
        assert_same_answers(import_estimator(model, **given), x, atol=1e-5)


@needs_data
def test_occupancy_readings_answer_as_the_original():
    with (DATA / "stream_occupancy" / "datatest.csv").open() as file:
        table = [list(row.values()) for row in csv.DictReader(file)]
    x = np.array([row[1:6] for row in table], dtype=np.float64)
    y = np.array([row[6] for row in table])
    given = {"length": 1, "channels": ("t", "h", "light", "co2", "hr"), "rate_hz": 1 / 60}
    for model in (
        LogisticRegression(max_iter=500),
        make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=30, random_state=0)),
        RandomForestClassifier(30, random_state=0),
    ):
        imported = import_estimator(model.fit(x[:1500], y[:1500]), **given)
        assert_same_answers(imported, x.astype(np.float32)[:, None, :], atol=1e-4)


@needs_data
def test_fan_vibration_anomalies_answer_as_the_original():
    table = np.loadtxt(DATA / "vibration_fan" / "accelerometer.csv", delimiter=",", skiprows=1)
    x = table[:, 2:].reshape(-1, 50, 3).astype(np.float32)[::3]
    healthy = table[::50, 0][::3] == 3
    model = make_pipeline(WindowFeatures(), IsolationForest(n_estimators=50, random_state=0))
    imported = import_estimator(
        model.fit(x[healthy]), length=50, channels=("x", "y", "z"), rate_hz=50.0
    )
    assert imported.task == "anomaly"
    assert_same_answers(imported, x)
