"""Forms of a model: what they compute, why some do not exist, and which of them is taken."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from bundles import make_bundle
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converter.case import Case
from converter.convert import decide
from converter.data import Validation
from converter.forms.absent import AbsentForm
from converter.forms.candidates import Allowance, judge_forms
from converter.forms.half import half_form
from converter.forms.prune import fewer_trees, shallower_trees
from converter.forms.quantize import INT8_FORMS, Layers, int8_form
from converter.forms.target import Row, bench, read_target, write_forms
from converter.frontends.sklearn import import_estimator
from converter.lowering.forest import read_forest
from converter.lowering.graph import Graph
from converter.measure import Measured, machine, measure
from converter.parity import FLOAT32
from converter.recipe import ChannelRecipe, DataRecipe, QuantizeRecipe, Recipe, WindowRecipe
from edge_agent.bench.measure import bench as bench_bundle
from edge_agent.contract.bench import BenchResult
from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Figures, Output
from edge_agent.infer import CPU

RNG = np.random.default_rng(0)
WINDOWS = RNG.normal(size=(96, 1, 8)).astype(np.float32)
SCORES = (Output(name="scores", role="scores", width=3),)


def network(
    *, blow_up: float = 1.0, uneven: bool = False
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """window > scale > dense 8x16 > relu > dense 16x3 > scores, and the names of the products."""
    rng = np.random.default_rng(1)
    graph = Graph()
    x = graph.add("Flatten", "window", axis=1)
    scale = np.logspace(0, 3, 8) if uneven else rng.uniform(1, 100, 8)
    x = graph.add("MatMul", x, graph.constant(np.diag(scale)))
    weights = rng.normal(size=(8, 16)) * np.where(np.arange(16) == 0, blow_up, 1.0)
    if uneven:  # one scale for all inputs leaves nothing of the small ones
        weights /= scale[:, None]
    x = graph.add("Relu", graph.add("Gemm", x, graph.constant(weights), dense=True))
    x = graph.add("Gemm", x, graph.constant(rng.normal(size=(16, 3))), dense=True)
    model = graph.finish([(SCORES[0], x)], length=1, channels=8)
    return model, tuple(n.name for n in model.graph.node if n.name not in graph.dense)


def layers_of(**changes) -> Layers:
    return Layers.of(*network(**changes), WINDOWS)


def case_of(estimator, rows, truth, **settings) -> Case:
    names = tuple(f"c{at}" for at in range(rows.shape[1]))
    imported = import_estimator(estimator, length=1, channels=names, rate_hz=1.0)
    windows = rows[:, None, :].astype(np.float32)
    recipe = Recipe(
        name="some",
        version="1.0.0",
        model="",
        data=DataRecipe(path=""),
        channels=tuple(ChannelRecipe(name=name) for name in names),
        rate_hz=1.0,
        window=WindowRecipe(),
        quantize=QuantizeRecipe(**settings),
    )
    validation = Validation(windows, None, np.arange(len(windows)), "window")
    original = imported.original(windows)
    return Case(recipe, imported, imported.labels, validation, original, truth)


@pytest.fixture(scope="module")
def forest() -> Case:
    inputs, labels = load_digits(return_X_y=True)
    model = RandomForestClassifier(24, random_state=0).fit(inputs[:500], labels[:500])
    return case_of(model, inputs[500:600], labels[500:600])


@pytest.fixture(scope="module")
def logistic() -> Case:
    inputs, labels = load_digits(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    return case_of(model.fit(inputs[:500], labels[:500]), inputs[500:600], labels[500:600])


def integer_layers(model: bytes) -> list[str]:
    """Operators that are given a quantized weight."""
    return [
        node.op_type
        for node in onnx.load_from_string(model).graph.node
        if any("quantized" in name or "DequantizeLinear" in name for name in node.input)
        and node.op_type in {"MatMul", "Gemm", "MatMulInteger"}
    ]


def quantized_nodes(model: bytes) -> list[str]:
    return [
        node.name
        for node in onnx.load_from_string(model).graph.node
        if node.op_type == "Gemm" and any("DequantizeLinear" in name for name in node.input)
    ]


def ticking(*times: float):
    """A clock that shows one time after another, and the last for ever."""
    left = list(times)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def never(_: bytes) -> bool:
    return False


def always(_: bytes) -> bool:
    return True


# --- int8 and float16 ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", [form for form in INT8_FORMS if form != "int8-mixed"])
def test_every_int8_form_spares_what_must_stay_float_and_is_reproducible(form: str) -> None:
    model = int8_form(layers_of(), form)
    kind = "MatMulInteger" if "dynamic" in form else "Gemm"
    assert integer_layers(model) == [kind, kind]
    assert int8_form(layers_of(), form) == model


def test_calibration_does_not_print(capfd: pytest.CaptureFixture[str]) -> None:
    int8_form(layers_of(), "int8-static-percentile")
    assert capfd.readouterr().out == ""


def test_mixed_keeps_the_layer_in_float_that_int8_harms() -> None:
    model = int8_form(layers_of(uneven=True), "int8-mixed")
    (spared,) = [name for name in layers_of().names if name not in quantized_nodes(model)]
    assert spared == layers_of().names[0]


def test_mixed_needs_layers_to_choose_from() -> None:
    alone = replace(layers_of(), names=layers_of().names[:1])
    with pytest.raises(AbsentForm, match="the model has 1 that int8 could replace"):
        int8_form(alone, "int8-mixed")


def test_a_failing_quantizer_is_a_reason_and_no_crash() -> None:
    wrong = replace(layers_of(), calibration=np.zeros((16, 1, 7), np.float32))
    with pytest.raises(AbsentForm, match="quantizer failed"):
        int8_form(wrong, "int8-static")


def test_float16_halves_the_weights_and_keeps_the_answers() -> None:
    layers = layers_of()
    model = half_form(layers)
    shorts = [t for t in onnx.load_from_string(model).graph.initializer if t.data_type == 10]
    assert [tuple(tensor.dims) for tensor in shorts] == [(8, 16)]


def test_a_weight_beyond_float16_is_a_reason() -> None:
    with pytest.raises(AbsentForm, match="65504"):
        half_form(layers_of(blow_up=1e6))


# --- trees ---------------------------------------------------------------------------------------


def trees_in(model: bytes) -> int:
    for node in onnx.load_from_string(model).graph.node:
        for entry in node.attribute:
            if entry.name == "tree_roots":
                return len(entry.ints)
        if (found := read_forest(node)) is not None:
            return len(found.roots)
    raise AssertionError("no trees")


def test_thinning_goes_as_far_as_it_may(forest: Case) -> None:
    graph = forest.imported.graph
    assert trees_in(fewer_trees(graph, always)) == 1
    assert trees_in(fewer_trees(graph, lambda model: trees_in(model) >= 10)) == 10
    assert len(shallower_trees(graph, always)) < 0.1 * graph.ByteSize()
    for thin in (fewer_trees, shallower_trees):
        with pytest.raises(AbsentForm, match="keeps the answers"):
            thin(graph, never)


def test_fewer_trees_of_boosting_are_those_of_fewer_rounds() -> None:
    inputs, targets = load_diabetes(return_X_y=True)
    inputs = inputs.astype(np.float32)
    long = GradientBoostingRegressor(n_estimators=64, random_state=0).fit(inputs, targets)
    case = case_of(long, inputs, targets[:, None], accuracy_loss_max=1.0)
    model = fewer_trees(case.imported.graph, lambda model: trees_in(model) >= 16)
    short = GradientBoostingRegressor(n_estimators=16, random_state=0).fit(inputs, targets)
    from converter.parity import answer_all  # noqa: PLC0415 - only this test asks by hand

    got = answer_all(model, case.windows, case.imported.outputs, "regression").scores[:, 0]
    np.testing.assert_allclose(got, short.predict(inputs), rtol=1e-5)


def test_a_forest_is_thinned_without_a_change_of_label(forest: Case) -> None:
    found = judge_forms(forest, Allowance(60.0), lambda _: None)
    assert "int8" in found.absent
    for name, form in found.judged.items():
        assert form.parity.label_flips == 0, name
    assert {"trees-fewer", "trees-shallower"} <= found.judged.keys() | found.absent.keys()


# --- the whole choice ----------------------------------------------------------------------------


def test_the_float32_form_is_folded_and_every_other_form_accounted_for(logistic: Case) -> None:
    found = judge_forms(logistic, Allowance(60.0), lambda _: None)
    ops = [n.op_type for n in onnx.load_from_string(found.judged[FLOAT32].model).graph.node]
    assert ops == ["Flatten", "Gemm", "Softmax"]
    assert {*found.judged, *found.absent} == {FLOAT32, *INT8_FORMS, "float16"}
    assert next(iter(found.judged)) == FLOAT32


def test_forms_beyond_the_time_are_named_and_left_out_again_the_next_time(logistic: Case) -> None:
    slow = Allowance(10.0, clock=ticking(0.0, 1.0, 11.0))
    found = judge_forms(logistic, slow, lambda _: None)
    assert list(found.judged) == [FLOAT32, "int8-static"]
    assert "10 s of quantize.build_s_max" in found.absent["float16"]
    again = judge_forms(logistic, Allowance(10.0, found.untried), lambda _: None)
    assert again.models == found.models
    assert again.absent == found.absent


def test_only_contenders_are_measured_again() -> None:
    models = {name: network(blow_up=size)[0].SerializeToString() for name, size in SIZES.items()}
    steps: list[str] = []
    measure(models, WINDOWS, SCORES, contenders=lambda _: ["a"], progress=steps.append)
    assert steps == [
        "measuring a (1 of 3)",
        "measuring b (1 of 3)",
        "measuring a (2 of 3)",
        "measuring a (3 of 3)",
    ]


SIZES = {"a": 1.0, "b": 2.0}


# --- a target's figures --------------------------------------------------------------------------


def rows_for(models, cheap: str, where: str = "Pi 5") -> list[Row]:
    return [
        Row(
            model_sha256=hashlib.sha256(model).hexdigest(),
            p50_us=1.0 if name == cheap else 100.0,
            p99_us=200.0,
            load_ms=1.0,
            rss_bytes=1000,
            machine=where,
        )
        for name, model in models.items()
    ]


def test_the_figures_of_a_target_decide_when_they_cover_every_form(logistic, tmp_path) -> None:
    forms = judge_forms(logistic, Allowance(60.0), lambda _: None)
    path = tmp_path / "pi.json"
    path.write_bytes(msgspec.json.encode(rows_for(forms.models, "float16")))
    outcome, measured = decide(logistic, forms, target=read_target(path))
    assert [variant.name for variant in outcome.variants if variant.chosen] == ["float16"]
    assert outcome.machine == "Pi 5"
    path.write_bytes(msgspec.json.encode(rows_for(forms.models, "float16")[:-1]))
    known = Measured(machine=machine(), figures=measured.figures)
    outcome, _ = decide(logistic, forms, known=known, target=read_target(path))
    assert outcome.machine.startswith(machine())
    assert f"cover {len(forms.models) - 1} of {len(forms.models)} forms" in outcome.machine


def test_a_folder_of_forms_is_measured_as_a_program_on_the_target(logistic, tmp_path) -> None:
    forms = judge_forms(logistic, Allowance(0.0, frozenset(INT8_FORMS)), lambda _: None)
    write_forms(tmp_path, forms.models, logistic)
    done = subprocess.run(
        [sys.executable, "-m", "converter.forms.target", str(tmp_path)],
        capture_output=True,
        timeout=100,
        check=True,
    )
    (tmp_path / "bench.json").write_bytes(done.stdout)
    target = read_target(tmp_path / "bench.json")
    figures = target.figures_of(forms.models)
    assert target.machine == machine()
    assert figures is not None
    assert figures[FLOAT32].file_bytes == len(forms.models[FLOAT32])
    assert figures[FLOAT32].p50_us > 0


def bench_of(path: Path, **options) -> BenchResult:
    """What ``edge-agent bench --json`` writes of a small bundle."""
    path.write_bytes(make_bundle())
    return bench_bundle(path, seconds=0.2, **options)


def test_files_of_edge_agent_bench_are_a_targets_figures(logistic, tmp_path) -> None:
    forms = judge_forms(logistic, Allowance(0.0, frozenset(INT8_FORMS)), lambda _: None)
    result = bench_of(tmp_path / "a.bundle", threads=(1, 2))
    model = parse_bundle(make_bundle()).model
    assert result.model_sha256 == hashlib.sha256(model).hexdigest()
    paths = []
    for name, form in forms.models.items():
        paths.append(tmp_path / f"{name}.json")
        digest = hashlib.sha256(form).hexdigest()
        measured = msgspec.structs.replace(result, model_sha256=digest)
        paths[-1].write_bytes(msgspec.json.encode(measured))
    target = read_target(*paths)
    outcome, _ = decide(logistic, forms, target=target)
    assert target.machine == outcome.machine == machine()
    run = result.runs[0]
    assert (run.provider, run.threads) == (CPU, 1)
    assert target.figures_of(forms.models) == {
        name: Figures(
            file_bytes=len(form),
            load_ms=run.init.load_ms,
            rss_bytes=run.rss_bytes.load - run.rss_bytes.engine,
            p50_us=run.latency_us.p50,
            p99_us=run.latency_us.p99,
        )
        for name, form in forms.models.items()
    }


def test_figures_of_more_threads_are_not_those_of_a_device(tmp_path) -> None:
    path = tmp_path / "pi.json"
    path.write_bytes(msgspec.json.encode(bench_of(tmp_path / "a.bundle", threads=(2,))))
    with pytest.raises(ConfigError, match="--threads 1"):
        read_target(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "measure on the target"),
        (b"[]", "0 machines"),
        (
            msgspec.json.encode([*rows_for({"a": b""}, "a"), *rows_for({"b": b"b"}, "b", "Pi 4")]),
            "2 machines",
        ),
    ],
)
def test_a_target_file_that_is_none_is_refused(tmp_path, content, expected) -> None:
    path = tmp_path / "pi.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        read_target(path)


def test_a_folder_without_forms_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="--forms"):
        bench(tmp_path)
