"""LightGBM: every objective of trees, missing values and zeros, categories, files, estimators."""

from __future__ import annotations

import numpy as np
import pytest
import skops.io
from boosted import assert_answers, at_cuts, load, readings
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converter.frontends.sklearn import import_estimator
from edge_agent.contract.errors import ConfigError

lightgbm = pytest.importorskip("lightgbm", reason="lightgbm is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")

CLASSES = ("binary", "multiclass", "multiclassova")
VALUES = (
    "regression", "regression_l1", "huber", "fair", "quantile", "mape", "poisson", "gamma",
    "tweedie", "cross_entropy", "cross_entropy_lambda",
)  # fmt: skip


def trained(x, y, *, rounds=10, group=None, categorical="auto", **options):
    settings = {"num_leaves": 15, "verbose": -1, "num_threads": 1, **options}
    if str(options.get("objective", "")).startswith("multi"):
        settings["num_class"] = 3
    data = lightgbm.Dataset(x, y, group=group, categorical_feature=categorical)
    return lightgbm.train(settings, data, rounds)


def truth(objective, y):
    if objective == "binary":
        return y > 0
    return y / 2 if objective.startswith("cross") else y if objective in CLASSES else y + 1.0


def cuts(booster):
    lines = booster.model_to_string().splitlines()
    return [
        float(cut)
        for line in lines
        if line.startswith("threshold=")
        for cut in line.partition("=")[2].split()
    ]


def saved(booster, folder, name="m.txt"):
    booster.save_model(folder / name)
    return folder / name


@pytest.mark.parametrize("objective", CLASSES + VALUES)
def test_every_objective_answers_alike_at_cuts_and_with_missing_values(tmp_path, objective):
    x, y = readings(missing=True)
    booster = trained(x, truth(objective, y), objective=objective)
    name = "m.txt" if objective in CLASSES else "m.model"
    imported = load(saved(booster, tmp_path, name), x)
    assert imported.task == ("classification" if objective in CLASSES else "regression")
    assert imported.estimator.startswith("LightGBM")
    assert_answers(imported, at_cuts(x, cuts(booster)), atol=1e-5)


@pytest.mark.parametrize("objective", CLASSES)
@pytest.mark.parametrize("kind", ["dart", "rf"])
def test_kinds_of_boosting(tmp_path, objective, kind):
    x, y = readings()
    options = {"bagging_freq": 1, "bagging_fraction": 0.5} if kind == "rf" else {"drop_rate": 0.5}
    booster = trained(x, truth(objective, y), objective=objective, boosting=kind, **options)
    assert_answers(load(saved(booster, tmp_path), x), x)


@pytest.mark.parametrize(
    "options",
    [{"objective": "binary", "sigmoid": 2.5}, {"objective": "regression", "reg_sqrt": True}],
    ids=["sigmoid", "sqrt"],
)
def test_settings_of_the_link(tmp_path, options):
    x, y = readings()
    target = y > 0 if options["objective"] == "binary" else y - 1.0
    assert_answers(load(saved(trained(x, target, **options), tmp_path), x), x)


@pytest.mark.parametrize(
    "options",
    [{}, {"zero_as_missing": True}, {"use_missing": False}],
    ids=["nan", "zero", "none"],
)
@pytest.mark.parametrize("categorical", [[], [0]], ids=["numbers", "categories"])
def test_what_counts_as_missing(tmp_path, options, categorical):
    x, y = readings(missing=True)
    rng = np.random.default_rng(1)
    x[:, 2][rng.random(800) < 0.3] = 0.0
    y = np.where(x[:, 2] == 0, 0, y)  # so that zeros matter
    booster = trained(
        x, y, objective="multiclass", categorical=categorical, min_data_per_group=5,
        cat_smooth=1, **options,
    )  # fmt: skip
    imported = load(saved(booster, tmp_path), x)
    odd = np.array([-3, -0.5, 2.7, 39, 40, 50, 1e8, np.nan, 0.0], np.float32)
    rows = np.concatenate([x, np.c_[odd, x[:9, 1:]]])
    assert_answers(imported, at_cuts(rows, cuts(booster)))
    assert any("category codes" in note for note in imported.notes) == bool(categorical)


def test_a_file_without_objective_gives_the_sums(tmp_path):
    x, y = readings()
    booster = trained(x, y, objective=lambda p, data: (p - data.label, np.ones_like(p)))
    imported = load(saved(booster, tmp_path), x)
    assert imported.task == "regression"
    assert any("no objective" in note for note in imported.notes)
    assert_answers(imported, x)


def test_a_constant_model_and_one_that_stopped_early(tmp_path):
    x, y = readings()
    constant = trained(x, y, objective="regression", min_gain_to_split=1e9)
    assert_answers(load(saved(constant, tmp_path), x), x)
    noise = lightgbm.Dataset(x, np.random.default_rng(0).random(800) > 0.5)
    early = lightgbm.train(
        {"objective": "binary", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, y > 0), 40,
        valid_sets=[noise], callbacks=[lightgbm.early_stopping(3, verbose=False)],
    )  # fmt: skip
    imported = load(saved(early, tmp_path), x)
    np.testing.assert_allclose(imported.original(x[:, None]).scores[:, 1], early.predict(x))
    assert_answers(imported, x)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"objective": "lambdarank", "group": [800]}, "'lambdarank' ranks rows"),
        ({"objective": "regression", "linear_tree": True}, "linear_tree has no ONNX form"),
    ],
)
def test_what_has_no_form_is_refused_by_name(tmp_path, options, says):
    x, y = readings()
    with pytest.raises(ConfigError, match=says):
        load(saved(trained(x, y, **options), tmp_path), x)


def test_damaged_and_foreign_files_are_named(tmp_path):
    x, y = readings()
    text = trained(x, y, objective="regression").model_to_string()
    for name, content in (("torn.txt", text[: len(text) // 3]), ("notes.txt", "dear diary\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match=name):
            load(tmp_path / name, x)


def test_columns_in_another_order_are_refused(tmp_path):
    x, y = readings()
    data = lightgbm.Dataset(x, y, feature_name=["c1", "c0", "c2", "c3"])
    path = saved(lightgbm.train({"verbose": -1}, data, 2), tmp_path)
    with pytest.raises(ConfigError, match="trained on the columns c1, c0, c2, c3"):
        load(path, x)


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (lightgbm.LGBMClassifier, load_breast_cancer),
        (lightgbm.LGBMClassifier, load_digits),
        (lightgbm.LGBMRegressor, load_diabetes),
    ],
)
def test_estimators_inside_pipelines_and_skops_files(tmp_path, make, source):
    x, y = source(return_X_y=True)
    x = x.astype(np.float32)
    if source is load_digits:
        y = np.array(list("abcdefghij"))[y]
    model = make_pipeline(StandardScaler(), make(n_estimators=8, verbose=-1, n_jobs=1)).fit(x, y)
    skops.io.dump(model, tmp_path / "m.skops")
    imported = load(tmp_path / "m.skops", x)
    assert imported.estimator == f"StandardScaler > {make.__name__}"
    assert_answers(imported, x, atol=1e-4 if source is load_diabetes else 2e-6)


def test_estimators_with_other_objectives():
    x, y = readings()
    given = {"length": 1, "channels": ("a", "b", "c", "d"), "rate_hz": 1.0}
    options = {"n_estimators": 3, "verbose": -1, "n_jobs": 1}
    model = lightgbm.LGBMClassifier(objective="cross_entropy", **options).fit(x, y > 0)
    assert_answers(import_estimator(model, **given), x)
    own = lightgbm.LGBMClassifier(objective=lambda t, p: (p - t, np.ones_like(p)), **options)
    with pytest.raises(ConfigError, match="gives no probabilities of classes"):
        import_estimator(own.fit(x, y > 0), **given)
