"""The benchmarks' own tools: what is kept and under which commit, plots, and the small networks."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from svgs import boxes_of, words_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import keep  # noqa: E402
import plots  # noqa: E402
import tiny  # noqa: E402
import tiny_models  # noqa: E402
from charts import Panel, draw  # noqa: E402

KEPT = sorted(plots.RESULTS.glob("*.json"))


# --- under which commit --------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path) -> Path:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "one")
    return tmp_path


def test_a_clean_checkout_is_named_by_its_commit(checkout) -> None:
    assert re.fullmatch(r"[0-9a-f]{10}", keep.commit(checkout))


@pytest.mark.parametrize("name", ["code.py", "new.py", "benchmarks/new.py"])
def test_changed_and_unknown_files_make_it_dirty(checkout, name) -> None:
    (checkout / "benchmarks").mkdir()
    (checkout / name).write_text("2\n")
    assert keep.commit(checkout).endswith("-dirty")


def test_figures_that_an_earlier_run_kept_do_not(checkout) -> None:
    (checkout / "benchmarks/results").mkdir(parents=True)
    (checkout / "benchmarks/results/bench.json").write_text("{}")
    assert not keep.commit(checkout).endswith("-dirty")


def test_outside_a_checkout_it_is_unknown(tmp_path) -> None:
    assert keep.commit(tmp_path) == "unknown"


def test_a_run_is_filed_under_its_start_and_dirty_if_the_code_changed() -> None:
    assert keep.ran("a1", "a1") == "a1"
    assert keep.ran("a1", "b2") == keep.ran("a1", "a1-dirty") == "a1-dirty"
    assert keep.ran("a1-dirty", "b2") == "a1-dirty"


def test_the_code_that_runs_here_is_this_checkouts() -> None:
    assert keep.stranger() is None


# --- plots ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_is_kept_says_where_it_comes_from(path) -> None:
    kept = json.loads(path.read_text())
    assert {"figures", "machine", "versions", "commit"} <= set(kept)
    assert kept["machine"]["cpu"]


@pytest.mark.parametrize(
    "path", [path for path in KEPT if path.stem in plots.PLOTS], ids=lambda path: path.stem
)
def test_every_plot_is_that_of_its_figures(path, tmp_path) -> None:
    copy = tmp_path / path.name
    copy.write_text(path.read_text())
    drawn = plots.draw_kept(copy).read_text()
    assert path.with_suffix(".svg").read_text() == drawn, "run `make plots`"
    kept = json.loads(path.read_text())
    words = " ".join(words_of(drawn))
    assert kept["commit"] in words
    assert kept["machine"]["cpu"] in words
    assert len(boxes_of(drawn)) > 2, "there are bars"


def test_the_page_of_results_shows_every_plot(tmp_path) -> None:
    for path in plots.RESULTS.glob("*.svg"):
        (tmp_path / path.name).touch()
    plots.write_page(tmp_path)
    page = (plots.RESULTS / "README.md").read_text()
    assert page == (tmp_path / "README.md").read_text(), "run `make plots`"
    shown = re.findall(r"\]\(([\w-]+\.svg)\)", page)
    assert sorted(shown) == sorted(path.name for path in plots.RESULTS.glob("*.svg"))


def test_a_panel_has_a_bar_for_each_figure_and_its_goal() -> None:
    rows = {"a": {"ours": 1.0, "theirs": 4.0}, "b": {"ours": 2.0}}
    svg = draw("title", ["said <&>"], [Panel("panel", rows, goal=3.0)])
    words = words_of(svg)
    assert {"title", "said <&>", "panel", "a", "b", "ours", "theirs", "goal: 3"} <= set(words)
    background, legend, legend_2, first, second, third = boxes_of(svg)
    assert (background, legend, legend_2) == (760, 10, 10)
    assert second == pytest.approx(4 * first, abs=0.5)
    assert third == pytest.approx(2 * first, abs=0.5)


def test_logarithmic_bars_keep_within_the_axis() -> None:
    svg = draw("t", [], [Panel("p", {"a": {"": 0.0}, "b": {"": 5e6}}, log=True)])
    assert all(math.isfinite(width) and 0 < width <= 760 for width in boxes_of(svg))


def test_figures_that_are_not_there_are_left_out() -> None:
    for _, describe in plots.PLOTS.values():
        assert [panel for panel in describe({}) if panel.rows] == []


def test_the_page_and_make_name_every_benchmark() -> None:
    page = (ROOT / "benchmarks/README.md").read_text()
    make = (ROOT / "Makefile").read_text()
    kept = re.findall(r"benchmarks/keep\.py (\S+?)[ )]", make)
    assert set(plots.PLOTS) <= set(kept)
    assert [name for name in kept if f"`{name}`" not in page] == []


# --- small networks ------------------------------------------------------------------------------

# Weights of the reference networks with their batch normalisation folded.
PARAMETERS = {
    "anomaly_mlp": 265_864,
    "keyword_ds_cnn": 22_604,
    "resnet_8": 77_706,
    "mobilenet_v1_025": 210_850,
}


@pytest.mark.parametrize("name", list(tiny_models.MODELS))
def test_a_built_network_is_always_the_same_and_runs_on_both_paths(name, tmp_path) -> None:
    network = tiny_models.MODELS[name]()
    again = tiny_models.MODELS[name]()
    assert network.SerializeToString(deterministic=True) == again.SerializeToString(
        deterministic=True
    )
    assert tiny_models.parameters(network) == PARAMETERS[name]
    path = tmp_path / f"{name}.onnx"
    onnx.checker.check_model(network, full_check=True)
    onnx.save(network, path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    window = np.random.default_rng(1).normal(size=(1, *shape[1:])).astype(np.float32)
    (scores,) = session.run(None, {"window": window})
    assert np.isfinite(scores).all()
    assert np.ptp(scores) > 0
    for side in tiny.SIDES:
        figures = tiny.measure_here(path, side, 0.01)
        assert 0 < figures["p50_us"] <= figures["p99_us"]


@pytest.mark.parametrize("batch", ["N", "1"])
def test_a_file_of_ones_own_is_brought_onto_the_agents_terms(batch, tmp_path) -> None:
    given = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> pool '
        f"(float[{batch},3,8,4] image) => (int64[4] size, float[{batch},3,4,2] y) "
        "{ y = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(image)\n size = Shape(image) }"
    )
    network = tiny.contract_form(given)
    onnx.checker.check_model(network)
    image = np.random.default_rng(0).normal(size=(1, 3, 8, 4)).astype(np.float32)
    session = ort.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"window": image.reshape(1, 24, 4)})
    wanted = image.reshape(3, 4, 2, 2, 2).max(axis=(2, 4))
    assert np.array_equal(got.reshape(wanted.shape), wanted)
    path = tmp_path / "pool.onnx"
    onnx.save(network, path)
    assert tiny.measure_here(path, "bound", 0.01)["p50_us"] > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(float[N,4] a, float[N,4] b) => (float[N,4] y) { y = Add(a, b) }", "one input"),
        ("(int64[N,4] a) => (int64[N,4] y) { y = Neg(a) }", "one input of floats"),
        ("(float[N,M] a) => (float[N,M] y) { y = Neg(a) }", "must be fixed"),
        ("(float[2,4] a) => (float[2,4] y) { y = Neg(a) }", "must be fixed"),
        ("(float[N,4] a) => (int64[2] y) { y = Shape(a) }", "no output of floats"),
        ("(float[N,4] window) => (float[N,4] y) { y = Neg(window) }", "rename it"),
    ],
)
def test_a_file_that_cannot_be_measured_is_refused(text, words) -> None:
    network = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> g {text}')
    with pytest.raises(SystemExit, match=words):
        tiny.contract_form(network)
