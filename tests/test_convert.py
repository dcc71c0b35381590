"""The whole way from a trained model to a bundle that answers as the model did."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
import onnx
import pytest
import skops.io
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import make_regression
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from converter import Built, build
from converter.features import WindowFeatures
from converter.forms.quantize import INT8_FORMS
from converter.frontends import Answers
from converter.golden import choose_golden, pack_golden, shake
from converter.lowering.graph import Graph
from converter.measure import Measured, machine, measure
from converter.parity import FLOAT32, Judged, choose, compare, flips
from converter.recipe import (
    Aim,
    ChannelRecipe,
    DataRecipe,
    FeaturesRecipe,
    QuantizeRecipe,
    Recipe,
    WindowRecipe,
)
from edge_agent.contract.bundle import Bundle, read_bundle
from edge_agent.contract.errors import BundleError, ConfigError
from edge_agent.contract.manifest import DecideSpec, Figures, Output, Parity
from edge_agent.contract.reference import decode_reference
from edge_agent.infer import Model, engine_of, golden_fault

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
FLOAT_ONLY = QuantizeRecipe(int8=False)


@dataclass(frozen=True)
class Trained:
    """A fitted model in a file, windows that it has not seen, and their truth."""

    model: Any
    path: Path
    windows: NDArray[np.float32]
    truth: NDArray[Any]
    data: Path

    @property
    def inputs(self) -> NDArray[np.float32]:
        return self.windows.reshape(len(self.windows), -1)


def waves(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Windows (count, 20, 2) of noise around three kinds of wave."""
    rng = np.random.default_rng(seed)
    kind = np.arange(count) % 3
    time = np.arange(20)[None, :, None] / 10 + rng.uniform(0, 1, (count, 1, 2))
    wave = (1 + kind)[:, None, None] * np.sin(2 * np.pi * (1 + kind)[:, None, None] * time)
    return (wave + rng.normal(0, 0.5, wave.shape)).astype(np.float32), kind


def save(folder: Path, model: Any, windows: NDArray[np.float32], truth: NDArray[Any]) -> Trained:
    path, data = folder / "model.skops", folder / "val.npz"
    skops.io.dump(model, path)
    np.savez(data, windows=windows, y=truth)
    return Trained(model, path, windows, truth, data)


def recipe_of(trained: Trained, **changes: Any) -> Recipe:
    _, length, width = trained.windows.shape
    recipe = Recipe(
        name="waves",
        version="1.0.0",
        model=str(trained.path),
        data=DataRecipe(path=str(trained.data), label="y"),
        channels=tuple(ChannelRecipe(name=f"c{at}") for at in range(width)),
        rate_hz=10.0,
        window=WindowRecipe(length=length),
        output=str(trained.path.parent / "out"),
        quantize=FLOAT_ONLY,
    )
    return msgspec.structs.replace(recipe, **changes)


def device_answers(bundle: Bundle, windows: NDArray[np.float32]) -> list[tuple[int, float]]:
    model = Model.load(bundle)
    return [model.answer(window)[:2] for window in windows]


def device_labels(built: Built, windows: NDArray[np.float32]) -> list[str]:
    bundle = read_bundle(built.bundle)
    return [bundle.manifest.labels[label] for label, _ in device_answers(bundle, windows)]


def left_behind(recipe: Recipe) -> list[Path]:
    return list(Path(recipe.output).glob("*")) if Path(recipe.output).exists() else []


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A small neural network on window features: the model that int8 is for."""
    x, y = waves(300, seed=1)
    bands = ((0.5, 1.5), (1.5, 2.5), (2.5, 3.5))
    model = make_pipeline(
        WindowFeatures(bands=bands, rate_hz=10.0),
        StandardScaler(),
        MLPClassifier((128, 64), max_iter=200, random_state=0, tol=1e-2),
    ).fit(x, np.array(["slow", "medium", "fast"])[y])
    windows, truth = waves(120, seed=2)
    folder = tmp_path_factory.mktemp("network")
    return save(folder, model, windows, np.array(["slow", "medium", "fast"])[truth])


@pytest.fixture(scope="module")
def built(network: Trained) -> Built:
    return build(recipe_of(network, quantize=QuantizeRecipe()))


# --- the whole way -------------------------------------------------------------------------------


def test_the_device_answers_as_the_model_or_the_flips_are_counted(
    network: Trained, built: Built
) -> None:
    labels = np.array(device_labels(built, network.windows))
    differ = int((labels != network.model.predict(network.windows)).sum())
    assert differ == built.manifest.chosen.parity.label_flips
    accuracy = float((labels == network.truth).mean())
    assert built.manifest.chosen.parity.converted == pytest.approx(accuracy, abs=1e-6)


def test_every_form_is_judged_and_measured(built: Built) -> None:
    names = [variant.name for variant in built.manifest.variants]
    absent = msgspec.json.decode(read_bundle(built.bundle).report)["absent"]
    assert sorted([*names, *absent]) == sorted([FLOAT32, *INT8_FORMS, "float16"])
    assert {FLOAT32, "int8-static", "int8-dynamic", "float16"} <= set(names)
    assert sum(variant.chosen for variant in built.manifest.variants) == 1
    for variant in built.manifest.variants:
        figures = variant.figures
        assert figures.file_bytes > 0
        assert 0 < figures.p50_us <= figures.p99_us
        assert figures.load_ms > 0
        assert figures.rss_bytes > 0
        assert variant.why.startswith("Chosen" if variant.chosen else "Not chosen")


def test_golden_vectors_come_from_the_original_model(network: Trained, built: Built) -> None:
    bundle = read_bundle(built.bundle)
    with np.load(io.BytesIO(bundle.golden)) as golden:
        windows, scores = golden["window"], golden["scores"]
    assert len(windows) == bundle.manifest.golden.count >= 16
    np.testing.assert_array_equal(scores, network.model.predict_proba(windows).astype(np.float32))
    assert len(np.unique(scores.argmax(axis=1))) == 3
    assert golden_fault(bundle, engine_of(bundle)) is None


def test_a_rebuild_from_the_same_inputs_gives_the_same_bytes(
    network: Trained, built: Built
) -> None:
    paths = (built.bundle, built.report, built.measured)
    before = [path.read_bytes() for path in paths]
    again = build(recipe_of(network, quantize=QuantizeRecipe()))
    assert again.digest == built.digest
    assert [path.read_bytes() for path in paths] == before


def test_the_reference_counts_every_window(network: Trained, built: Built) -> None:
    reference = decode_reference(read_bundle(built.bundle).reference)
    assert reference.windows == len(network.windows)
    assert [histogram.name for histogram in reference.channels] == ["c0", "c1"]
    assert reference.features[0].name == "c0.mean"
    assert [histogram.name for histogram in reference.scores] == ["fast", "medium", "slow"]
    for histogram in (*reference.features, *reference.scores):
        assert sum(histogram.counts) == len(network.windows)
        assert len(histogram.counts) == len(histogram.edges) + 1
    assert sum(reference.labels.values()) == len(network.windows)


def test_a_forest_with_recipe_features_and_renamed_labels(tmp_path: Path) -> None:
    features = WindowFeatures(features=("mean", "std", "rms"))
    x, y = waves(300, seed=3)
    forest = RandomForestClassifier(30, max_depth=6, random_state=0)
    forest.fit(features.fit_transform(x), y + 5)
    windows, truth = waves(90, seed=4)
    trained = save(tmp_path, forest, windows, truth + 5)
    recipe = recipe_of(
        trained,
        features=FeaturesRecipe(names=("mean", "std", "rms")),
        labels=("slow", "medium", "fast"),
        quantize=QuantizeRecipe(),
        decide=DecideSpec(fire_on=("fast",)),
    )
    built = build(recipe)
    expected = np.array(recipe.labels)[forest.predict(features.transform(windows)) - 5]
    assert device_labels(built, windows) == expected.tolist()
    report = msgspec.json.decode(read_bundle(built.bundle).report)
    assert "decision trees" in report["absent"]["int8"]
    assert built.manifest.chosen.name == FLOAT32


def test_a_regression_with_two_targets(tmp_path: Path) -> None:
    x, y = make_regression(200, 3, n_targets=2, noise=2.0, random_state=0)
    model = make_pipeline(StandardScaler(), Ridge()).fit(x[:100], y[:100])
    windows = x[100:, None, :].astype(np.float32)
    trained = save(tmp_path, model, windows, y[100:])
    built = build(recipe_of(trained))
    assert built.manifest.task == "regression"
    assert built.manifest.chosen.parity.metric == "r2"
    device = Model.load(read_bundle(built.bundle))
    expected = model.predict(trained.inputs)
    for window, values in zip(windows, expected, strict=True):
        answered = device.answer(window)[2]
        np.testing.assert_allclose(answered, values, rtol=1e-4, atol=1e-3)


def test_an_outlier_detector_without_any_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = IsolationForest(n_estimators=50, random_state=0).fit(rng.normal(size=(200, 2)))
    windows = (rng.normal(size=(80, 1, 2)) * 2).astype(np.float32)
    trained = save(tmp_path, model, windows, np.zeros(80))
    built = build(recipe_of(trained, data=DataRecipe(path=str(trained.data))))
    assert built.manifest.chosen.parity.metric == "agreement"
    expected = np.where(model.predict(trained.inputs) == -1, "anomaly", "normal")
    assert device_labels(built, windows) == expected.tolist()
    assert {"normal", "anomaly"} == set(expected)


def test_scores_below_the_threshold_are_noted(tmp_path: Path) -> None:
    x, y = waves(150, seed=5)
    model = make_pipeline(WindowFeatures(), StandardScaler(), LinearSVC(C=1e-4)).fit(x, y)
    windows, truth = waves(60, seed=6)
    built = build(recipe_of(save(tmp_path, model, windows, truth)))
    lead = model.decision_function(windows).max(axis=1)
    assert (lead < 0).any()
    assert any(f"On {(lead < 0).sum()} of 60 windows" in note for note in built.notes)


@pytest.mark.skipif(not DATA.exists(), reason="the recordings are not beside the project")
def test_room_occupancy_from_real_recordings(tmp_path: Path) -> None:
    def table(name: str) -> tuple[NDArray[np.float64], NDArray[Any]]:
        rows = np.genfromtxt(DATA / "stream_occupancy" / name, delimiter=",", names=True)
        columns = ("Temperature", "Humidity", "Light", "CO2", "HumidityRatio")
        return np.stack([rows[column] for column in columns], axis=1), rows["Occupancy"]

    x, y = table("datatraining.csv")
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y.astype(int))
    skops.io.dump(model, tmp_path / "occupancy.skops")
    (tmp_path / "recipe.yaml").write_text(
        f"""
name: occupancy
version: 1.0.0
model: occupancy.skops
rate_hz: 0.0166667
channels:
  - {{name: Temperature, unit: degC, minimum: -20, maximum: 60}}
  - {{name: Humidity, unit: "%", minimum: 0, maximum: 100}}
  - {{name: Light, unit: lux, minimum: 0}}
  - {{name: CO2, unit: ppm, minimum: 0}}
  - {{name: HumidityRatio}}
data: {{path: {DATA.resolve()}/stream_occupancy/datatest.csv, label: Occupancy}}
labels: [empty, occupied]
decide: {{debounce: 3, fire_on: [occupied]}}
output: out
""",
        encoding="utf-8",
    )
    built = build(tmp_path / "recipe.yaml")
    unseen, _ = table("datatest2.csv")
    windows = unseen[::20, None, :].astype(np.float32)
    expected = np.array(["empty", "occupied"])[model.predict(windows[:, 0])]
    assert device_labels(built, windows) == expected.tolist()
    assert built.manifest.chosen.parity.converted > 0.97


def test_an_int8_form_in_the_bundle_is_proven_too(network: Trained, tmp_path: Path) -> None:
    settings = QuantizeRecipe(aim="size", accuracy_loss_max=0.1)
    built = build(recipe_of(network, quantize=settings, output=str(tmp_path)))
    chosen = built.manifest.chosen
    assert chosen.name.startswith("int8")
    assert chosen.parity.score_error_max > 1e-4
    labels = np.array(device_labels(built, network.windows))
    differ = int((labels != network.model.predict(network.windows)).sum())
    assert differ == chosen.parity.label_flips
    assert 1e-5 < built.manifest.golden.atol <= 0.25


# --- refusals leave nothing behind ---------------------------------------------------------------


class Shifted(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer whose hand-written ONNX form is wrong."""

    def fit(self, X: Any, y: Any = None) -> Shifted:  # noqa: N803 - scikit-learn's name
        self.n_features_in_ = np.asarray(X).shape[1]
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's name
        return np.asarray(X) + 1.0

    def onnx_form(self, graph: Graph, x: str) -> str:
        return graph.add("Sub", x, graph.constant(1.0))


def test_a_loss_over_the_budget_is_refused(tmp_path: Path) -> None:
    x, y = waves(90, seed=7)
    flat = x.reshape(len(x), -1)
    model = make_pipeline(Shifted(), RandomForestClassifier(10, random_state=0)).fit(flat, y)
    joblib.dump(model, tmp_path / "model.joblib")
    trained = save(tmp_path, LogisticRegression().fit(flat, y), x, y)
    recipe = recipe_of(trained, model=str(tmp_path / "model.joblib"), allow_pickle=True)
    with pytest.raises(BundleError, match=r"float32 form loses 0\.\d+ accuracy .* allows 0\.01"):
        build(recipe)
    assert left_behind(recipe) == []


def test_nan_in_the_validation_data_is_refused(network: Trained, tmp_path: Path) -> None:
    windows = network.windows.copy()
    windows[7, 3, 1] = np.nan
    data = tmp_path / "nan.npz"
    np.savez(data, windows=windows, y=network.truth)
    recipe = recipe_of(
        network, data=DataRecipe(path=str(data), label="y"), output=str(tmp_path / "out")
    )
    with pytest.raises(ConfigError, match=r"nan\.npz: windows\[7, 3, 1\] is nan"):
        build(recipe)
    assert left_behind(recipe) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"window": WindowRecipe(length=10)}, r"'windows' is float32 \(120, 20, 2\)"),
        ({"labels": ("a", "b")}, r"labels: names 2 classes, the model has 3: fast, medium, slow"),
        ({"decide": DecideSpec(fire_on=("faster",))}, r"fire_on: 'faster' is no state"),
        ({"rate_hz": 20.0}, r"made for 10 readings per second, the recipe says 20"),
        ({"features": FeaturesRecipe(names=("mean",))}, r"computes its own features"),
    ],
)
def test_a_recipe_that_does_not_fit_the_model_is_refused(
    network: Trained, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    recipe = recipe_of(network, output=str(tmp_path / "out"), **changes)
    with pytest.raises(ConfigError, match=expected):
        build(recipe)
    assert left_behind(recipe) == []


def dense(width: int = 8) -> onnx.ModelProto:
    """window (N, 1, width) > dense > scores (N, 3)."""
    graph = Graph()
    x = graph.add("Flatten", "window", axis=1)
    x = graph.add("Gemm", x, graph.constant(np.random.default_rng(0).normal(size=(width, 3))))
    return graph.finish(
        [(Output(name="scores", role="scores", width=3), x)], length=1, channels=width
    )


# --- measurement ---------------------------------------------------------------------------------


def test_only_what_is_unknown_on_this_machine_is_measured() -> None:
    model = dense().SerializeToString()
    windows = np.zeros((4, 1, 8), np.float32)
    outputs = (Output(name="scores", role="scores", width=3),)
    steps: list[str] = []
    first = measure({"float32": model}, windows, outputs, progress=steps.append)
    assert len(steps) == 3
    assert first.machine == machine()
    again = measure({"float32": model}, windows, outputs, known=first, progress=steps.append)
    assert again == first
    assert len(steps) == 3
    elsewhere = Measured(machine="another", figures=first.figures)
    measure({"float32": model}, windows, outputs, known=elsewhere, progress=steps.append)
    assert len(steps) == 6


def test_the_measuring_process_loads_nothing_but_the_engine() -> None:
    heavy = "{'sklearn', 'onnx', 'skl2onnx', 'scipy'}"
    code = f"import sys, converter.measure; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- judgement -----------------------------------------------------------------------------------


def judged(accuracy: float, label_flips: int = 0) -> Judged:
    parity = Parity(
        windows=100,
        metric="accuracy",
        original=0.9,
        converted=accuracy,
        label_flips=label_flips,
        score_error_max=0.0,
        score_error_mean=0.0,
    )
    return Judged(b"", Answers(None, np.zeros((1, 1))), parity)


def figures(p50_us: float, *, size: int = 1000, rss: int = 1000) -> Figures:
    return Figures(file_bytes=size, load_ms=1.0, rss_bytes=rss, p50_us=p50_us, p99_us=p50_us)


@pytest.mark.parametrize(
    ("aim", "static", "accuracy", "winner"),
    [
        ("latency", figures(5.0), 0.9, "int8-static"),
        ("latency", figures(9.6), 0.9, FLOAT32),  # within the noise
        ("latency", figures(5.0), 0.88, FLOAT32),  # over the budget
        ("latency", figures(5.0), 0.895, "int8-static"),
        ("size", figures(20.0, size=300), 0.9, "int8-static"),
        ("memory", figures(20.0, rss=300), 0.9, "int8-static"),
        ("size", figures(5.0), 0.9, FLOAT32),
    ],
)
def test_int8_wins_only_within_the_budget_and_by_a_margin(
    aim: Aim, static: Figures, accuracy: float, winner: str
) -> None:
    forms = {FLOAT32: judged(0.9), "int8-static": judged(accuracy)}
    measured = {FLOAT32: figures(10.0), "int8-static": static}
    variants = choose(forms, measured, QuantizeRecipe(aim=aim))
    assert [variant.name for variant in variants if variant.chosen] == [winner]
    assert all(variant.why for variant in variants)


def test_the_best_of_several_wins_and_the_loser_hears_why() -> None:
    forms = {FLOAT32: judged(0.9), "int8-static": judged(0.9), "int8-dynamic": judged(0.8)}
    measured = {FLOAT32: figures(10), "int8-static": figures(6), "int8-dynamic": figures(4)}
    by_name = {v.name: v for v in choose(forms, measured, QuantizeRecipe())}
    assert by_name["int8-static"].chosen
    assert "6.0 µs" in by_name["int8-static"].why
    assert "loses 0.1000 accuracy, the budget is 0.01" in by_name["int8-dynamic"].why
    assert "int8-static takes 6.0 µs" in by_name[FLOAT32].why


def test_an_unchanged_accuracy_does_not_hide_changed_labels() -> None:
    forms = {FLOAT32: judged(0.9), "int8-static": judged(0.9, label_flips=2)}
    variants = choose(forms, {FLOAT32: figures(10), "int8-static": figures(1)}, QuantizeRecipe())
    assert variants[0].chosen
    assert "changes 2 of 100 labels" in variants[1].why


def test_flips_are_listed_by_their_distance_from_the_border() -> None:
    original = Answers(np.array([0, 1, 1]), np.array([[0.6, 0.4], [0.1, 0.9], [0.45, 0.55]]))
    converted = Answers(np.array([0, 0, 0]), np.array([[0.6, 0.4], [0.6, 0.4], [0.5, 0.5]]))
    parity = compare(original, converted, np.array([0, 1, 0]), "classification")
    assert (parity.original, parity.converted) == (0.666667, 0.666667)
    assert parity.label_flips == 2
    assert parity.score_error_max == pytest.approx(0.5)
    found = flips(original, converted, ("a", "b"))
    assert [(flip.window, flip.original, flip.converted) for flip in found] == [
        (1, "b", "a"),
        (2, "b", "a"),
    ]
    assert found[0].distance == pytest.approx(0.8)


# --- golden vectors ------------------------------------------------------------------------------


def answers(scores: NDArray[np.float64]) -> Answers:
    return Answers(scores.argmax(axis=1).astype(np.int64), scores)


def test_golden_vectors_avoid_windows_that_rounding_could_turn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(4), 200)
    windows = rng.normal(size=(200, 2, 1)).astype(np.float32)
    shaken = scores.copy()
    shaken[::3] = np.roll(shaken[::3], 1, axis=1)  # a third of them jump when shaken
    chosen, atol = choose_golden(windows, answers(scores), answers(scores + 1e-8), answers(shaken))
    assert not set(chosen.tolist()) & set(range(0, 200, 3))
    assert len(chosen) == 32
    assert atol == pytest.approx(1e-5)
    assert set(scores[chosen].argmax(axis=1)) == {0, 1, 2, 3}
    assert np.abs(shake(windows) / windows - 1).max() < 2e-6


def test_golden_tolerance_follows_the_error_of_the_form() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(100, 1)) * 100
    noisy = Answers(None, scores + rng.uniform(-1, 1, scores.shape))
    windows = rng.normal(size=(100, 2, 1)).astype(np.float32)
    chosen, atol = choose_golden(windows, Answers(None, scores), noisy, noisy)
    worst = float(np.abs(noisy.scores - scores)[chosen].max())
    assert worst < atol <= 4 * worst
    output = Output(name="value", role="value", width=1)
    data, golden = pack_golden(windows, Answers(None, scores), (output,), chosen, atol)
    assert pack_golden(windows, Answers(None, scores), (output,), chosen, atol)[0] == data
    assert golden.count == len(chosen)


def test_too_few_windows_answered_alike_are_no_proof() -> None:
    scores = np.tile([[0.9, 0.1]], (20, 1))
    turned = scores.copy()
    turned[:10] = [0.1, 0.9]
    windows = np.ones((20, 2, 1), np.float32)
    with pytest.raises(BundleError, match="only 10 validation windows are answered as the origin"):
        choose_golden(windows, answers(scores), answers(turned), answers(turned))
