"""CatBoost: every loss of trees, missing values, one-hot categories, files and estimators."""

from __future__ import annotations

import json

import numpy as np
import pytest
import skops.io
from boosted import assert_answers, at_cuts, load, readings
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converter.frontends.sklearn import import_estimator
from edge_agent.contract.errors import ConfigError

catboost = pytest.importorskip("catboost", reason="catboost is not installed")

CLASSES = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll")
VALUES = (
    "RMSE", "MAE", "Quantile", "Poisson", "Tweedie:variance_power=1.5", "Huber:delta=1", "LogCosh",
    "MultiRMSE", "MultiQuantile:alpha=0.1,0.5", "LogLinQuantile", "Cox",
)  # fmt: skip
SETTINGS = {"iterations": 8, "verbose": 0, "allow_writing_files": False, "thread_count": 1}


def trained(loss, x, y, **options):
    return catboost.CatBoost({**SETTINGS, "loss_function": loss, **options}).fit(x, y)


def truth(loss, y):
    if loss == "Logloss":
        return y > 0
    if loss == "CrossEntropy":
        return y / 2
    return np.c_[y, 2 * y] if loss == "MultiRMSE" else y


def saved(model, folder, name="m.cbm"):
    model.save_model(str(folder / name), format=name.partition(".")[2])
    return folder / name


def cuts(model, folder):
    export = json.loads(saved(model, folder, "cuts.json").read_text())
    return [cut for entry in export["features_info"]["float_features"] for cut in entry["borders"]]


def coded(x):
    """The rows with the codes of the first column as whole numbers."""
    rows = x.astype(object)
    rows[:, 0] = x[:, 0].astype(int)
    return rows


@pytest.mark.parametrize("loss", CLASSES + VALUES)
def test_every_loss_answers_alike_at_borders_and_with_missing_values(tmp_path, loss):
    x, y = readings(missing=True)
    model = trained(loss, x, truth(loss, y), depth=4)
    imported = load(saved(model, tmp_path, "m.cbm" if loss in CLASSES else "m.json"), x)
    assert imported.task == ("classification" if loss in CLASSES else "regression")
    assert imported.estimator.startswith("CatBoost")
    assert_answers(imported, at_cuts(x, cuts(model, tmp_path)), atol=1e-5)


@pytest.mark.parametrize("policy", ["SymmetricTree", "Depthwise", "Lossguide"])
@pytest.mark.parametrize("nan_mode", ["Min", "Max"])
def test_shapes_of_trees_and_sides_of_missing_values(tmp_path, policy, nan_mode):
    x, y = readings(missing=True)
    names = np.array(["low", "mid", "high"])[y]
    model = trained("MultiClass", x, names, grow_policy=policy, nan_mode=nan_mode)
    imported = load(saved(model, tmp_path), x)
    assert imported.labels == ("high", "low", "mid")
    assert_answers(imported, at_cuts(x, cuts(model, tmp_path)))


@pytest.mark.parametrize("policy", ["SymmetricTree", "Depthwise"])
def test_one_hot_categories_answer_alike_whatever_code_comes(tmp_path, policy):
    x, y = readings()
    model = catboost.CatBoostClassifier(
        **SETTINGS, cat_features=[0], one_hot_max_size=64, grow_policy=policy
    ).fit(coded(x), y)
    odd = np.array([-3, -0.5, 2.7, 39, 40, 50, 1e6], np.float32)
    imported = load(saved(model, tmp_path), x)
    export = json.loads(saved(model, tmp_path, "m.json").read_text())
    assert "OneHotFeature" in json.dumps(export)
    assert_answers(imported, np.concatenate([x, np.c_[odd, x[:7, 1:]]]))
    assert any("category codes" in note for note in imported.notes)


def test_statistics_of_categories_and_words_are_refused_by_name(tmp_path):
    x, y = readings()
    options = {**SETTINGS, "cat_features": [0]}
    counted = catboost.CatBoostClassifier(**options, one_hot_max_size=2).fit(coded(x), y)
    with pytest.raises(ConfigError, match=r"ctr.*one_hot_max_size"):
        load(saved(counted, tmp_path), x)
    words = coded(x)
    words[:, 0] = [f"k{code}" for code in words[:, 0]]
    named = catboost.CatBoostClassifier(**options, one_hot_max_size=64).fit(words, y)
    with pytest.raises(ConfigError, match="number its categories"):
        load(saved(named, tmp_path), x)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("RMSEWithUncertainty", "'RMSEWithUncertainty' is not known here"),
        ("MultiLogloss", "several labels at once"),
    ],
)
def test_other_losses_are_refused_by_name(tmp_path, loss, says):
    x, y = readings()
    target = np.c_[y > 0, y > 1] if loss == "MultiLogloss" else y
    with pytest.raises(ConfigError, match=says):
        load(saved(trained(loss, x, target), tmp_path), x)


def test_a_threshold_of_its_own_is_refused(tmp_path):
    x, y = readings()
    model = catboost.CatBoostClassifier(**SETTINGS).fit(x, y > 0)
    model.set_probability_threshold(0.3)
    with pytest.raises(ConfigError, match=r"threshold of 0\.3.*decide\.threshold"):
        load(saved(model, tmp_path), x)


@pytest.mark.parametrize(("name", "content"), [("m.cbm", b"CBM1torn"), ("m.json", b'{"trees": [')])
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}: catboost cannot read it"):
        load(tmp_path / name, readings()[0])


@pytest.mark.parametrize(
    ("make", "source", "options"),
    [
        (catboost.CatBoostClassifier, load_breast_cancer, {}),
        (catboost.CatBoostClassifier, load_digits, {}),
        (catboost.CatBoostRegressor, load_diabetes, {}),
        (catboost.CatBoostRegressor, load_diabetes, {"loss_function": "Poisson"}),
    ],
)
def test_estimators_inside_pipelines_and_skops_files(tmp_path, make, source, options):
    x, y = source(return_X_y=True)
    x = x.astype(np.float32)
    model = make_pipeline(StandardScaler(), make(**SETTINGS, depth=4, **options)).fit(x, y)
    skops.io.dump(model, tmp_path / "m.skops")
    imported = load(tmp_path / "m.skops", x)
    assert imported.estimator == f"StandardScaler > {make.__name__}"
    assert_answers(imported, x, atol=1e-3 if source is load_diabetes else 2e-6)


def test_estimators_that_no_pipeline_could_ask_are_refused():
    x, y = readings()
    given = {"length": 1, "channels": ("a", "b", "c", "d"), "rate_hz": 1.0}
    categorical = catboost.CatBoostClassifier(**SETTINGS, cat_features=[0], one_hot_max_size=64)
    with pytest.raises(ConfigError, match=r"cannot answer a window.*cat_features"):
        import_estimator(categorical.fit(coded(x), y), **given)
    spread = catboost.CatBoostRegressor(**SETTINGS, loss_function="RMSEWithUncertainty").fit(x, y)
    with pytest.raises(ConfigError, match="predictions have no ONNX form"):
        import_estimator(spread, **given)
