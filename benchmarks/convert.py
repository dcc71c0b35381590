"""What conversion gains: our graphs on the agent's call path, and the forms that were chosen.

``speedup_vs_export``: one row through ``run(None, …)`` of ``skl2onnx.to_onnx(model, X[:1])``
against the agent's engine on the float32 form, one thread each, rotating rows, rounds interleaved;
the median of the rounds' p50 ratios; null where skl2onnx fails, which ``latency`` then says.
``quantization``: the form that a build chooses, its p50
against float32's in the same manner, and its growth of resident memory against skl2onnx's export,
each in a fresh process after a tiny session and a first inference. Networks that skl2onnx does not
know are compared with their own float32 form.

Usage: python benchmarks/convert.py [--rounds N] [--only NAME …]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from converter.case import Case
from converter.convert import decide
from converter.data import Validation
from converter.forms.candidates import Allowance, judge_forms
from converter.frontends import Answers, Imported
from converter.frontends.sklearn import import_estimator
from converter.lowering.graph import Graph
from converter.parity import FLOAT32
from converter.recipe import ChannelRecipe, DataRecipe, QuantizeRecipe, Recipe, WindowRecipe
from edge_agent.arrays import F32
from edge_agent.contract.manifest import Output, Task
from edge_agent.infer import Engine

TRAINED_N = 1200
CALLS_N = 300
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """A fitted estimator, and rows that it has not seen with what is right for them."""

    estimator: Any
    rows: Rows
    truth: NDArray[Any]


def digits() -> tuple[Rows, NDArray[np.int64]]:
    """8 x 8 images of digits: 64 features, 10 classes."""
    inputs, labels = load_digits(return_X_y=True)
    return inputs.astype(np.float32), labels


def fit(estimator: Any) -> Trained:
    """The estimator on the digits; a regressor learns their number."""
    inputs, labels = digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(inputs[:TRAINED_N], labels[:TRAINED_N])
    return Trained(estimator, inputs[TRAINED_N:], labels[TRAINED_N:])


def network(*hidden: int, epochs: int = 30) -> Any:
    """A scaler and a perceptron."""
    return make_pipeline(StandardScaler(), MLPClassifier(hidden, max_iter=epochs, random_state=0))


AGAINST_EXPORT: dict[str, Callable[[], Any]] = {
    "logistic_regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=99)),
    "ridge": Ridge,
    "decision_tree": lambda: DecisionTreeClassifier(random_state=0),
    "random_forest": lambda: RandomForestClassifier(100, random_state=0),
    "random_forest_regressor": lambda: RandomForestRegressor(100, random_state=0),
    "extra_trees": lambda: ExtraTreesClassifier(100, random_state=0),
    "gradient_boosting": lambda: GradientBoostingClassifier(n_estimators=30, random_state=0),
    "hist_gradient_boosting": lambda: HistGradientBoostingClassifier(max_iter=30, random_state=0),
    "isolation_forest": lambda: IsolationForest(random_state=0),
    "mlp": lambda: network(64, 32),
    "svc": SVC,
}


# --- against skl2onnx's export -------------------------------------------------------------------


def speedup_vs_export(estimator: Any, rounds: int) -> dict[str, float | str]:
    """p50 of skl2onnx's export and ours, and the median of their ratios."""
    trained = fit(estimator)
    case = case_of(trained)
    ours = judge_forms(case, Allowance(1.0, frozenset()), lambda _: None).judged[FLOAT32].model
    exported = export(trained)
    if isinstance(exported, str):
        found = compare({"ours": engine_call(ours, case)}, rounds)
        return {"export": exported, "ours_us": round(statistics.median(found["ours"]), 2)}
    theirs = export_call(exported, trained.rows)
    found = compare({"export": theirs, "ours": engine_call(ours, case)}, rounds)
    ratios = [a / b for a, b in zip(found["export"], found["ours"], strict=True)]
    return {
        "export_us": round(statistics.median(found["export"]), 2),
        "ours_us": round(statistics.median(found["ours"]), 2),
        "speedup": round(statistics.median(ratios), 2),
    }


def export(trained: Trained) -> bytes | str:
    """skl2onnx's own export with its default options, or why there is none.

    Where the newest operator sets that it would take by itself are beyond what its converter of
    the estimator knows, it is given the newest ones that it does know.
    """
    first = trained.rows[:1]
    why = ""
    for opsets in (None, {"": 18, "ai.onnx.ml": 3}):
        try:
            return to_onnx(trained.estimator, first, target_opset=opsets).SerializeToString()
        # skl2onnx raises whatever its converters happen to raise.
        except Exception as exc:  # noqa: BLE001 - an export that fails is a result
            why = f"skl2onnx fails: {str(exc).splitlines()[0][:80]}"
    return why


def compare(calls: Mapping[str, Callable[[int], None]], rounds: int) -> dict[str, list[float]]:
    """p50 in µs of each call in each round; the rounds of all alternate."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for number in range(50):
            call(number)
    for _ in range(rounds):
        for name, call in calls.items():
            took = []
            for number in range(CALLS_N):
                began = perf_counter_ns()
                call(number)
                took.append(perf_counter_ns() - began)
            found[name].append(statistics.median(took) / 1000)
    return found


def export_call(model: bytes, rows: Rows) -> Callable[[int], None]:
    """What people write: ``session.run(None, …)``, one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    feeds = [{name: row[np.newaxis]} for row in rows]
    return lambda number: session.run(None, feeds[number % len(feeds)])


def engine_call(model: bytes, case: Case) -> Callable[[int], None]:
    """The agent's engine."""
    windows = list(case.windows)
    _, length, channels = case.windows.shape
    engine = Engine(model, length=length, channels=channels, outputs=case.imported.outputs)
    return lambda number: engine.run(windows[number % len(windows)])


# --- the chosen form -----------------------------------------------------------------------------


def chosen_form(case: Case, exported: bytes | None, rounds: int) -> dict[str, object]:
    """What a build chooses, and how that compares with float32 and with an export."""
    settings = case.recipe.quantize
    forms = judge_forms(case, Allowance(settings.build_s_max), say)
    outcome, _ = decide(case, forms, progress=say)
    name = next(variant.name for variant in outcome.variants if variant.chosen)
    model, base = forms.judged[name].model, forms.judged[FLOAT32].model
    speedup = 1.0
    if name != FLOAT32:
        calls = {FLOAT32: engine_call(base, case), name: engine_call(model, case)}
        found = compare(calls, rounds)
        ratios = [a / b for a, b in zip(found[FLOAT32], found[name], strict=True)]
        speedup = statistics.median(ratios)
    ours = resident(model, case, engine=True)
    theirs = resident(exported or base, case, engine=exported is None)
    return {
        "chosen": name,
        "speedup_vs_float32": round(speedup, 2),
        "rss_ratio": round(ours / theirs, 3),
        "rss_against": "skl2onnx export" if exported else FLOAT32,
        "rss_mb": round(ours / 1e6, 1),
        "flips": forms.judged[name].parity.label_flips,
        "accuracy": [forms.judged[name].parity.original, forms.judged[name].parity.converted],
        "windows": len(case.windows),
        "variants": {
            variant.name: {
                "p50_us": variant.figures.p50_us,
                "file_bytes": variant.figures.file_bytes,
                "rss_bytes": variant.figures.rss_bytes,
                "flips": variant.parity.label_flips,
                "why": variant.why,
            }
            for variant in outcome.variants
        },
        "absent": dict(outcome.absent),
    }


def resident(model: bytes, case: Case, *, engine: bool, times: int = 3) -> int:
    """Bytes that a model adds to a process with a tiny session, after its first inference."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        np.save(folder / "windows.npy", case.windows[:1])
        role = case.imported.outputs[0]
        command = [sys.executable, __file__, "--resident", name, role.name, role.role]
        command += [str(role.width), "engine" if engine else "export"]
        found = [
            int(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
            for _ in range(times)
        ]
    return int(statistics.median(found))


def resident_child(folder: str, name: str, role: Any, width: str, way: str) -> None:
    """The fresh process: print the growth."""
    windows: F32 = np.load(Path(folder, "windows.npy"))
    tiny_graph = Graph()
    outputs = [(Output(name="value", role="value", width=1), tiny_graph.add("Flatten", "window"))]
    tiny = tiny_graph.finish(outputs, length=1, channels=1).SerializeToString()
    export_call(tiny, np.zeros((1, 1, 1), np.float32))(0)
    before = rss_bytes()
    model = Path(folder, "model.onnx").read_bytes()
    if way == "engine":
        _, length, channels = windows.shape
        output = Output(name=name, role=role, width=int(width))
        engine = Engine(model, length=length, channels=channels, outputs=[output])
        engine.run(windows[0])
    else:
        call = export_call(model, windows.reshape(1, -1))
        call(0)
    print(rss_bytes() - before)


def rss_bytes() -> int:
    """Resident memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


# --- the four models -----------------------------------------------------------------------------


def case_of(trained: Trained, loss_max: float = 0.01) -> Case:
    """An estimator with the digits that it has not seen."""
    names = tuple(f"p{at}" for at in range(trained.rows.shape[1]))
    imported = import_estimator(trained.estimator, length=1, channels=names, rate_hz=1.0)
    truth: Any = trained.truth
    if imported.task == "regression":
        truth = trained.truth[:, np.newaxis].astype(np.float64)
    return as_case(imported, trained.rows[:, np.newaxis, :], truth, names, loss_max)


def as_case(
    imported: Imported, windows: F32, truth: Any, channels: tuple[str, ...], loss_max: float
) -> Case:
    """A case that was not read from files."""
    recipe = Recipe(
        name="bench",
        version="1.0.0",
        model="",
        data=DataRecipe(path=""),
        channels=tuple(ChannelRecipe(name=name) for name in channels),
        rate_hz=1.0,
        window=WindowRecipe(length=windows.shape[1]),
        quantize=QuantizeRecipe(accuracy_loss_max=loss_max),
    )
    validation = Validation(windows, None, np.arange(len(windows)), "window")
    truth = None if imported.task == "anomaly" else truth
    original = imported.original(windows)
    return Case(recipe, imported, imported.labels, validation, original, truth)


def waves(count: int, seed: int) -> tuple[F32, NDArray[np.int64]]:
    """Windows (count, 128, 6) of noise around five kinds of wave."""
    chance = np.random.default_rng(seed)
    kind = np.arange(count) % 5
    time = np.arange(128)[None, :, None] / 50
    pitch = (1.5 + 4 * kind)[:, None, None] * chance.uniform(0.9, 1.1, (count, 1, 1))
    wave = np.sin(2 * np.pi * pitch * time + chance.uniform(0, 6.28, (count, 1, 6)))
    return (wave + chance.normal(0, 0.3, wave.shape)).astype(np.float32), kind


def cnn_64() -> Case:
    """Three convolutions of 64 channels with made weights, and a layer fitted on their means.

    Each convolution is normalised on the training waves, as a trained network's batch norm is.
    """
    windows, kinds = waves(600, seed=1)
    chance = np.random.default_rng(0)
    graph = Graph()
    x, inputs = graph.add("Transpose", "window", perm=[0, 2, 1]), 6
    for _ in range(3):
        weights = chance.normal(0, (2 / (inputs * 5)) ** 0.5, (64, inputs, 5))
        raw = convolution(graph, x, weights, np.zeros(64))
        squared = graph.add("Mul", raw, raw)
        mean = values(graph, mean_over_time(graph, raw), windows).mean(axis=0)
        square = values(graph, mean_over_time(graph, squared), windows).mean(axis=0)
        spread = np.sqrt(square - mean**2)
        bias = -mean / spread
        x = graph.add("Relu", convolution(graph, x, weights / spread[:, None, None], bias))
        inputs = 64
    x = mean_over_time(graph, x)
    head = LogisticRegression(C=1.0, max_iter=5000).fit(values(graph, x, windows), kinds)
    weights, bias = graph.constant(head.coef_.T), graph.constant(head.intercept_)
    logits = graph.add("Gemm", x, weights, bias, dense=True)
    scores = Output(name="scores", role="scores", width=5)
    model = graph.finish([(scores, graph.add("Softmax", logits, axis=1))], length=128, channels=6)
    unseen, truth = waves(400, seed=2)
    imported = own_reference(model, scores, graph.dense)
    return as_case(imported, unseen, truth, tuple("abcdef"), 0.01)


def convolution(graph: Graph, x: str, weights: Any, bias: Any) -> str:
    """A 1-D convolution over five readings."""
    constants = graph.constant(weights), graph.constant(bias)
    return graph.add("Conv", x, *constants, dense=True, pads=[2, 2])


def mean_over_time(graph: Graph, x: str) -> str:
    """(N, 64, readings) to (N, 64)."""
    return graph.add("ReduceMean", x, graph.constant([2], np.int64), keepdims=0)


def values(graph: Graph, tensor: str, windows: F32) -> NDArray[np.float32]:
    """A tensor of an unfinished graph on windows."""
    model = graph.finish(
        [(Output(name="value", role="value", width=64), tensor)], length=128, channels=6
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"window": windows})[0])


def own_reference(model: Any, scores: Output, dense: set[str]) -> Imported:
    """A classifier that is its own original."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def answer(windows: F32) -> Answers:
        found = np.asarray(session.run(None, {"window": windows})[0], np.float64)
        return Answers(found.argmax(axis=1), found)

    task: Task = "classification"
    return Imported(
        graph=model,
        task=task,
        labels=tuple(str(number) for number in range(scores.width)),
        outputs=(scores,),
        original=answer,
        estimator="1-D convolutional network",
        feature_names=(),
        features=lambda windows: windows.reshape(len(windows), -1).astype(np.float64),
        notes=(),
        keep_float=tuple(node.name for node in model.graph.node if node.name not in dense),
    )


def quantization(rounds: int) -> dict[str, Callable[[], dict[str, object]]]:
    """The four models by name."""

    def estimator(make: Callable[[], Any], loss_max: float = 0.01) -> dict[str, object]:
        trained = fit(make())
        exported = export(trained)
        assert isinstance(exported, bytes), exported
        return chosen_form(case_of(trained, loss_max), exported, rounds)

    return {
        "mlp_1024": lambda: estimator(lambda: network(1024, 1024, epochs=15)),
        "cnn_64": lambda: chosen_form(cnn_64(), None, rounds),
        "mlp_64_32": lambda: estimator(lambda: network(64, 32)),
        "forest_500": lambda: estimator(lambda: RandomForestClassifier(500, random_state=0)),
    }


def say(text: str) -> None:
    """What happens next, for whoever watches."""
    print(f"… {text}", file=sys.stderr)


def main() -> None:
    """Run what was asked for and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--resident", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.resident:
        resident_child(*given.resident)
        return
    figures: dict[str, dict[str, Any]] = {"speedup_vs_export": {}, "quantization": {}}
    details: dict[str, Any] = {}
    for name, make in AGAINST_EXPORT.items():
        if given.only and name not in given.only:
            continue
        details[name] = found = speedup_vs_export(make(), given.rounds)
        figures["speedup_vs_export"][name] = found.get("speedup")  # None: see latency
        print(f"{name:24} {found}")
    for name, run in quantization(given.rounds).items():
        if given.only and name not in given.only:
            continue
        figures["quantization"][name] = chosen = run()
        for form, row in chosen["variants"].items():
            print(
                f"{name:12} {form:24} {row['p50_us']:9.2f} us {row['flips']:3} flips  {row['why']}"
            )
        for form, why in chosen["absent"].items():
            print(f"{name:12} {form:24} {why}")
        speedup, rss = chosen["speedup_vs_float32"], chosen["rss_ratio"]
        print(f"{name:12} chosen {chosen['chosen']} x{speedup} rss {rss}")
    print("RESULT " + json.dumps({**figures, "latency": details}))


if __name__ == "__main__":
    main()
