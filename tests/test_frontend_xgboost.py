"""XGBoost: every objective of trees, missing values, categories, files and estimators."""

from __future__ import annotations

import json
import subprocess
import sys

import joblib
import numpy as np
import pytest
import skops.io
from boosted import DATA, assert_answers, at_cuts, load, readings
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converter import build
from converter.features import WindowFeatures
from converter.frontends import import_model
from converter.frontends.sklearn import import_estimator
from converter.recipe import ChannelRecipe, DataRecipe, QuantizeRecipe, Recipe
from edge_agent.contract.errors import ConfigError

xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed")

CLASSES = ("binary:logistic", "binary:logitraw", "binary:hinge", "multi:softmax", "multi:softprob")
VALUES = (
    "reg:logistic", "reg:squarederror", "reg:squaredlogerror", "reg:pseudohubererror",
    "reg:absoluteerror", "reg:quantileerror", "reg:gamma", "reg:tweedie", "count:poisson",
    "survival:cox", "survival:aft",
)  # fmt: skip


def trained(objective, x, y, *, rounds=10, feature_types=None, **options):
    settings = {"objective": objective, "max_depth": 4, "nthread": 1, **options}
    if objective.startswith("multi"):
        settings["num_class"] = 3
    if objective == "reg:quantileerror":
        settings["quantile_alpha"] = [0.1, 0.5, 0.9]
    data = xgboost.DMatrix(x, y, feature_types=feature_types, enable_categorical=True)
    if objective == "survival:aft":
        data.set_float_info("label_lower_bound", y)
        data.set_float_info("label_upper_bound", y)
    return xgboost.train(settings, data, rounds)


def truth(objective, y):
    if objective.startswith("binary"):
        return y > 0
    if objective == "reg:logistic":
        return y / 2
    return y if objective.startswith("multi") else y + 1.0


def cuts(booster):
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    trees = trees.get("gbtree", trees)["model"]["trees"]
    return [cut for tree in trees for cut in tree["split_conditions"]]


def saved(booster, folder, name="m.json"):
    booster.save_model(folder / name)
    return folder / name


@pytest.mark.parametrize("objective", CLASSES + VALUES)
def test_every_objective_answers_alike_at_cuts_and_with_missing_values(tmp_path, objective):
    x, y = readings(missing=True)
    booster = trained(objective, x, truth(objective, y))
    imported = load(saved(booster, tmp_path), x)
    assert imported.task == ("classification" if objective in CLASSES else "regression")
    assert imported.estimator.startswith("XGBoost")
    assert_answers(imported, at_cuts(x, cuts(booster)), atol=1e-5)


def test_dropped_trees_keep_their_weights_in_a_binary_file_too(tmp_path):
    x, y = readings()
    booster = trained("multi:softprob", x, y, booster="dart", rate_drop=0.5, seed=1)
    weights = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["weight_drop"]
    assert min(weights) < 1.0
    assert_answers(load(saved(booster, tmp_path, "m.ubj"), x), x)


@pytest.mark.parametrize("one_hot_max", [1, 100], ids=["sets", "one-hot"])
def test_categories_answer_alike_whatever_code_comes(tmp_path, one_hot_max):
    x, y = readings(missing=True)
    kinds = ["c", "q", "q", "q"]
    booster = trained("multi:softprob", x, y, feature_types=kinds, max_cat_to_onehot=one_hot_max)
    odd = np.array([-3, -0.5, 2.7, 39, 40, 50, 1e8, np.nan], np.float32)
    rows = np.concatenate([x, np.c_[odd, x[:8, 1:]]])
    imported = load(saved(booster, tmp_path), x)
    assert_answers(imported, rows)
    assert any("category codes" in note for note in imported.notes)


def test_training_that_stopped_early_counts_to_its_best_round(tmp_path):
    x, y = readings()
    noise = xgboost.DMatrix(x, np.random.default_rng(0).random(800) > 0.5)
    booster = xgboost.train(
        {"objective": "binary:logistic", "eta": 1.0}, xgboost.DMatrix(x, y > 0), 30,
        evals=[(noise, "noise")], early_stopping_rounds=3, verbose_eval=False,
    )  # fmt: skip
    best = booster.best_iteration + 1
    assert best < booster.num_boosted_rounds()
    imported = load(saved(booster, tmp_path), x)
    expected = booster.predict(xgboost.DMatrix(x), iteration_range=(0, best))
    np.testing.assert_allclose(imported.original(x[:, None]).scores[:, 1], expected)
    assert_answers(imported, x)
    assert any(f"the {best} rounds up to the best" in note for note in imported.notes)


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_several_targets(tmp_path, strategy):
    x, y = readings()
    model = xgboost.XGBRegressor(n_estimators=5, multi_strategy=strategy, tree_method="hist")
    model.fit(x, np.c_[y, 2.0 * y])
    assert_answers(load(saved(model, tmp_path), x), x)


def test_a_class_without_any_weight_still_has_its_base(tmp_path):
    x, _ = readings()
    y = np.arange(800) % 3 + 1.0  # the quantiles are 1, 2 and 3, with hardly a tree to correct them
    imported = load(saved(trained("reg:quantileerror", x, y, rounds=3, max_depth=2), tmp_path), x)
    assert_answers(imported, x)


def test_pruned_nodes_and_constant_models(tmp_path):
    x, y = readings()
    for options in ({"gamma": 1e9}, {"gamma": 5, "tree_method": "exact"}):
        booster = trained("reg:squarederror", x, y, **options)
        assert_answers(load(saved(booster, tmp_path), x), x)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"objective": "rank:pairwise"}, "'rank:pairwise' ranks rows"),
        ({"objective": "reg:squarederror", "booster": "gblinear"}, "'gblinear' is no tree model"),
    ],
)
def test_what_is_no_model_of_trees_is_refused_by_name(tmp_path, options, says):
    x, y = readings()
    data = xgboost.DMatrix(x, y, group=[800])
    booster = xgboost.train(options, data, 2)
    with pytest.raises(ConfigError, match=says):
        load(saved(booster, tmp_path), x)


def test_several_labels_at_once_are_refused(tmp_path):
    x, y = readings()
    model = xgboost.XGBClassifier(n_estimators=2).fit(x, np.c_[y > 0, y > 1])
    with pytest.raises(ConfigError, match="several labels at once"):
        load(saved(model, tmp_path), x)


@pytest.mark.parametrize("name", ["torn.json", "torn.ubj"])
def test_a_damaged_file_is_named(tmp_path, name):
    x, y = readings()
    whole = saved(xgboost.XGBClassifier(n_estimators=2).fit(x, y), tmp_path, name).read_bytes()
    for content in (whole[: len(whole) // 2], b"junk"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            load(tmp_path / name, x)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("left_children", 10**6),
        ("right_children", 0),
        ("split_indices", 4),
        ("split_indices", -1),
        ("default_left", None),
    ],
)
def test_a_file_that_would_crash_the_library_is_refused(tmp_path, key, value):
    x, y = readings()
    path = saved(xgboost.XGBClassifier(n_estimators=2).fit(x, y), tmp_path)
    document = json.loads(path.read_bytes())
    values = document["learner"]["gradient_booster"]["model"]["trees"][0][key]
    values[:1] = [] if value is None else [value]
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"m\.json: xgboost cannot read it"):
        load(path, x)


def test_columns_in_another_order_are_refused(tmp_path):
    x, y = readings()
    data = xgboost.DMatrix(x, y, feature_names=["c1", "c0", "c2", "c3"])
    path = saved(xgboost.train({}, data, 2), tmp_path)
    with pytest.raises(ConfigError, match="trained on the columns c1, c0, c2, c3"):
        load(path, x)
    assert_answers(load(path, x, channels=("c1", "c0", "c2", "c3")), x)


def test_features_of_the_recipe_stand_before_the_model(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    windows = (rng.normal(size=(240, 50, 2)) * (1 + y[:, None, None])).astype(np.float32)
    features = WindowFeatures(features=("std", "max"), rate_hz=50.0).fit(windows)
    model = xgboost.XGBClassifier(n_estimators=5).fit(features.transform(windows), y)
    imported = import_model(
        saved(model, tmp_path), length=50, channels=("u", "v"), rate_hz=50.0,
        features=("std", "max"), labels=("a", "b", "c"),
    )  # fmt: skip
    assert imported.estimator == "WindowFeatures > XGBoostClassifier"
    assert imported.feature_names == ("u.std", "u.max", "v.std", "v.max")
    assert imported.labels == ("a", "b", "c")
    answers = imported.original(windows)
    np.testing.assert_array_equal(answers.labels, model.predict(features.transform(windows)))


def inside(estimator, x):
    names = tuple(f"c{at}" for at in range(x.shape[1]))
    return import_estimator(estimator, length=1, channels=names, rate_hz=1.0)


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (xgboost.XGBClassifier, load_breast_cancer),
        (xgboost.XGBClassifier, load_digits),
        (xgboost.XGBRFClassifier, load_digits),
        (xgboost.XGBRegressor, load_diabetes),
        (xgboost.XGBRFRegressor, load_diabetes),
    ],
)
def test_estimators_inside_pipelines(make, source):
    x, y = source(return_X_y=True)
    x = x.astype(np.float32)
    model = make_pipeline(StandardScaler(), make(n_estimators=8)).fit(x, y)
    assert_answers(inside(model, x), x, atol=2e-4 if source is load_diabetes else 2e-6)


def test_objectives_of_the_other_kind_and_members_of_a_vote():
    x, y = readings()
    for model in (
        xgboost.XGBRegressor(n_estimators=3, objective="binary:logistic"),
        xgboost.XGBClassifier(n_estimators=3, objective="reg:logistic"),
    ):
        assert_answers(inside(model.fit(x, y > 0), x), x)
    vote = VotingClassifier(
        [("x", xgboost.XGBClassifier(n_estimators=3)), ("l", LogisticRegression(max_iter=900))],
        voting="soft",
    )
    assert_answers(inside(vote.fit(x, y), x), x)


def test_a_value_that_stands_for_missing():
    x, y = readings()
    model = xgboost.XGBClassifier(n_estimators=8, missing=0.0).fit(x, y)
    with_nan = xgboost.XGBClassifier(n_estimators=8).fit(x, y)
    assert not np.array_equal(model.predict_proba(x), with_nan.predict_proba(x))
    assert_answers(inside(model, x), x)


@pytest.mark.parametrize("name", ["m.skops", "m.joblib"])
def test_files_of_scikit_learn_hold_estimators_too(tmp_path, name):
    x, y = readings()
    model = make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=3)).fit(x, y)
    (skops.io.dump if name == "m.skops" else joblib.dump)(model, tmp_path / name)
    assert_answers(load(tmp_path / name, x, consent_pickle=True), x)


def test_without_the_package_the_message_says_what_to_install(tmp_path):
    x, y = readings()
    model = xgboost.XGBClassifier(n_estimators=2).fit(x, y)
    paths = [saved(model, tmp_path), tmp_path / "m.skops"]
    skops.io.dump(model, paths[1])
    code = (
        "import sys; sys.modules['xgboost'] = None\n"
        "from pathlib import Path; from converter.frontends import import_model\n"
        "for name in sys.argv[1:]:\n"
        "    try: import_model(Path(name), length=1, channels=tuple('abcd'), rate_hz=1.0)\n"
        "    except Exception as exc: print(type(exc).__name__, exc)\n"
    )
    command = [sys.executable, "-c", code, *map(str, paths)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(out) == 2
    assert all("ConfigError" in line and "edge-agent[xgboost]" in line for line in out)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no recordings in {DATA}")
def test_occupancy_becomes_a_bundle_without_a_flip(tmp_path):
    names = ("Temperature", "Humidity", "Light", "CO2", "HumidityRatio")
    with (DATA / "stream_occupancy" / "datatest.csv").open() as file:
        head = file.readline().replace('"', "").strip().split(",")
        rows = [line.replace('"', "").strip().split(",") for line in file]
    at = [head.index(name) - len(head) for name in names]  # the lines begin with their number
    x = np.array([[row[place] for place in at] for row in rows], np.float32)
    y = np.array([row[-1] for row in rows]).astype(np.int64)
    model = xgboost.XGBClassifier(n_estimators=20).fit(x[::2], y[::2])
    np.savez(tmp_path / "val.npz", windows=x[1::2, None, :], y=y[1::2])
    recipe = Recipe(
        name="occupancy",
        version="1.0.0",
        model=str(saved(model, tmp_path)),
        data=DataRecipe(path=str(tmp_path / "val.npz"), label="y"),
        channels=tuple(ChannelRecipe(name=name) for name in names),
        rate_hz=1 / 60,
        output=str(tmp_path),
        quantize=QuantizeRecipe(int8=False),
    )
    built = build(recipe)
    assert built.manifest.chosen.parity.label_flips == 0
    assert built.manifest.chosen.parity.score_error_max < 1e-5
