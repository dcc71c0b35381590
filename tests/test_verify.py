"""``verify``: what a bundle states must hold on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import numpy as np
import pytest
import skops.io
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression, Ridge

from converter import Built, build
from converter.recipe import ChannelRecipe, DataRecipe, QuantizeRecipe, Recipe
from converter.reports.tensorboard import write_runs
from converter.verify import verify
from edge_agent.contract.bundle import Bundle, pack_bundle, read_bundle, write_bundle
from edge_agent.contract.errors import BundleError, ConfigError

DATA = {"classification": "y", "regression": "value", "anomaly": None}
MODELS = {
    "classification": LogisticRegression(),
    "regression": Ridge(),
    "anomaly": IsolationForest(n_estimators=10, random_state=0),
}


def rows(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = np.random.default_rng(seed).normal(size=(150, 2))
    return x, x @ [2.0, -1.0] + 0.1 * np.random.default_rng(seed + 1).normal(size=150)


@pytest.fixture(scope="module", params=["classification", "regression", "anomaly"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    task = request.param
    folder = tmp_path_factory.mktemp(task)
    x, value = rows(1)
    target = np.where(value > 0, "up", "down") if task == "classification" else value
    skops.io.dump(MODELS[task].fit(x, target), folder / "model.skops")
    for name, seed in (("own", 3), ("other", 5)):
        x, value = rows(seed)
        # A second recording begins half way.
        lines = [
            f"{a},{b},{'up' if v > 0 else 'down'},{v},{number // 75}"
            for number, ((a, b), v) in enumerate(zip(x, value, strict=True))
        ]
        (folder / f"{name}.csv").write_text("\n".join(["a,b,y,value,part", *lines]), "utf-8")
    return build(
        Recipe(
            name=task,
            version="1.0.0",
            model=str(folder / "model.skops"),
            data=DataRecipe(path=str(folder / "own.csv"), label=DATA[task], recording="part"),
            channels=(ChannelRecipe(name="a"), ChannelRecipe(name="b")),
            rate_hz=10.0,
            quantize=QuantizeRecipe(int8=False),
            output=str(folder),
        )
    )


def data_of(built: Built, name: str) -> DataRecipe:
    path = built.bundle.parent / f"{name}.csv"
    return DataRecipe(path=str(path), label=DATA[built.manifest.task], recording="part")


def members_of(bundle: Bundle) -> dict[str, bytes]:
    return {
        "model.onnx": bundle.model,
        "golden.npz": bundle.golden,
        "reference.json": bundle.reference,
        "report.json": bundle.report,
    }


def rewritten(bundle: Bundle, folder: Path, **changes: object) -> Path:
    """The bundle with other figures in manifest and report, every digest right."""
    [variant] = bundle.manifest.variants
    parity = msgspec.structs.replace(variant.parity, **changes)
    variants = (msgspec.structs.replace(variant, parity=parity),)
    manifest = msgspec.structs.replace(bundle.manifest, variants=variants)
    report = msgspec.json.decode(bundle.report)
    report["variants"] = msgspec.to_builtins(variants)
    members = members_of(bundle) | {"report.json": msgspec.json.encode(report)}
    path = folder / "rewritten.bundle"
    write_bundle(path, pack_bundle(manifest, members))
    return path


def test_the_own_data_give_what_the_bundle_states(built: Built) -> None:
    found = verify(built.bundle, data_of(built, "own"))
    assert found.same_data
    assert found.moved == 0
    assert found.windows == 150
    if found.metric:
        assert found.value == pytest.approx(found.stated)
    assert found.figures.file_bytes == found.stated_figures.file_bytes
    assert found.figures.p50_us > 0


def test_other_data_are_measured_and_bind_nobody(built: Built) -> None:
    found = verify(built.bundle, data_of(built, "other"))
    assert not found.same_data
    assert (found.windows, found.moved) == (150, 0)


def test_a_quality_that_is_not_reached_here_is_refused(built: Built, tmp_path: Path) -> None:
    if built.manifest.task == "anomaly":
        pytest.skip("without a truth there is no quality to reach")
    path = rewritten(read_bundle(built.bundle), tmp_path, original=1.5)
    with pytest.raises(BundleError, match="less than the original one"):
        verify(path, data_of(built, "own"))
    assert verify(path, data_of(built, "other")).windows == 150


def test_other_labels_than_at_the_build_are_refused(built: Built, tmp_path: Path) -> None:
    if built.manifest.task == "regression":
        pytest.skip("a regression has no labels")
    bundle = read_bundle(built.bundle)
    reference, report = msgspec.json.decode(bundle.reference), msgspec.json.decode(bundle.report)
    first, second = reference["labels"]
    reference["labels"] = {first: 10, second: 140}
    report["confusion_converted"] = []
    members = members_of(bundle) | {
        "reference.json": msgspec.json.encode(reference),
        "report.json": msgspec.json.encode(report),
    }
    path = tmp_path / "moved.bundle"
    write_bundle(path, pack_bundle(bundle.manifest, members))
    with pytest.raises(BundleError, match="windows get another label than when"):
        verify(path, data_of(built, "own"))


def test_parts_that_contradict_each_other_are_refused(built: Built, tmp_path: Path) -> None:
    bundle = read_bundle(built.bundle)
    members = members_of(bundle)
    path = tmp_path / "odd.bundle"
    manifest = msgspec.structs.replace(bundle.manifest, opsets={"ai.onnx": 7})
    write_bundle(path, pack_bundle(manifest, members))
    with pytest.raises(BundleError, match="needs the opsets"):
        verify(path)
    members["report.json"] = b"{}"
    write_bundle(path, pack_bundle(bundle.manifest, members))
    with pytest.raises(BundleError, match=r"report\.json"):
        verify(path)
    golden = msgspec.structs.replace(bundle.manifest.golden, atol=0.2)
    members["report.json"] = bundle.report
    manifest = msgspec.structs.replace(bundle.manifest, golden=golden)
    write_bundle(path, pack_bundle(manifest, members))
    with pytest.raises(BundleError, match="different figures"):
        verify(path)


def test_the_own_data_cut_otherwise_are_an_error_of_the_command(
    built: Built, tmp_path: Path
) -> None:
    bundle = read_bundle(built.bundle)
    reference = msgspec.json.decode(bundle.reference) | {"windows": 149}
    members = members_of(bundle) | {"reference.json": msgspec.json.encode(reference)}
    path = tmp_path / "cut.bundle"
    write_bundle(path, pack_bundle(bundle.manifest, members))
    with pytest.raises(ConfigError, match="give --recording as in its recipe"):
        verify(path, data_of(built, "own"))


def test_the_json_beside_the_page_is_the_one_in_the_bundle(built: Built) -> None:
    beside = built.bundle.with_name(f"{built.manifest.name}-1.0.0.report.json").read_bytes()
    inside = msgspec.json.decode(read_bundle(built.bundle).report)
    assert msgspec.json.decode(beside) == inside
    assert inside["profile"]["operators"]


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs the extra tensorboard"
)
def test_every_form_is_a_tensorboard_run(built: Built, tmp_path: Path) -> None:
    for _ in range(2):  # a second time replaces the first
        write_runs(tmp_path, built.manifest)
    accumulator = importlib.import_module(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    [variant] = built.manifest.variants
    run = tmp_path / f"{built.manifest.name}-1.0.0" / variant.name
    assert len(list(run.iterdir())) == 1
    events = accumulator(str(run)).Reload()
    assert events.Scalars("cost/file_bytes")[0].value == variant.figures.file_bytes
    assert events.Scalars("chosen")[0].value == 1.0
