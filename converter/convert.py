"""From a recipe to a bundle: import, quantize, compare, measure, choose, pack, prove, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from converter.case import Case, open_case
from converter.measure import encode_measured, figures_of, measure, read_measured
from converter.pack import pack, prove
from converter.parity import FLOAT32, Judged, Outcome, choose, judge, require_float32
from converter.quantize import Int8, int8_forms
from converter.recipe import Recipe, check_recipe, load_recipe
from converter.report import render
from edge_agent.contract.bundle import write_bundle
from edge_agent.contract.errors import ConfigError, InferenceError
from edge_agent.contract.manifest import Manifest

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """What a build leaves behind.

    Attributes:
        bundle: the bundle file.
        report: the HTML report.
        measured: the figures, an input of the next build.
        manifest: of the bundle.
        digest: SHA-256 of the bundle file.
        notes: what the author should know about model and data.
    """

    bundle: Path
    report: Path
    measured: Path
    manifest: Manifest
    digest: str
    notes: tuple[str, ...]


def build(
    recipe: Recipe | Path | str,
    *,
    measure_anew: bool = False,
    progress: Progress = lambda _: None,
) -> Built:
    """Turn a trained model into a verified bundle. Nothing is written before it is proven.

    Args:
        recipe: a recipe, or the path of its file.
        measure_anew: do not use the figures of an earlier build.
        progress: told what comes next.

    Raises:
        ConfigError: recipe, data or model are not usable; says where and why.
        BundleError: the converted model does not answer as the original one within the budget.
        InferenceError: onnxruntime cannot run the converted model.
    """
    recipe = _checked(recipe)
    stem = f"{recipe.name}-{recipe.version}"
    paths = [Path(recipe.output, stem + end) for end in (".measured.json", ".html", ".bundle")]
    known = None if measure_anew else read_measured(paths[0])

    progress("reading data and model")
    case = open_case(recipe)
    judged, absent = _judge(case, progress)
    models = {name: form.model for name, form in judged.items()}
    measured = measure(
        models,
        case.windows,
        case.imported.outputs,
        states=case.imported.states,
        known=known,
        progress=progress,
    )
    figures = {name: figures_of(measured, model) for name, model in models.items()}
    variants = choose(judged, figures, recipe.quantize)
    outcome = Outcome(judged, absent, variants, measured.machine)
    progress("packing and proving the bundle")
    data, report = pack(case, outcome)
    bundle = prove(data)
    _write(paths, (encode_measured(measured), render(report).encode(), data))
    return Built(paths[2], paths[1], paths[0], bundle.manifest, bundle.digest, report.notes)


def _checked(recipe: Recipe | Path | str) -> Recipe:
    if not isinstance(recipe, Recipe):
        return load_recipe(Path(recipe))
    check_recipe(recipe)
    return recipe


def _judge(case: Case, progress: Progress) -> tuple[dict[str, Judged], dict[str, str]]:
    """Every form of the model against the original, float32 first, and why others do not exist.

    Raises:
        BundleError: float32 loses more than the budget.
        InferenceError: onnxruntime cannot run float32.
    """
    imported, settings = case.imported, case.recipe.quantize
    progress(f"comparing {FLOAT32} with the original")
    judged = {FLOAT32: judge(case, imported.graph.SerializeToString(deterministic=True))}
    require_float32(judged[FLOAT32].parity, settings.accuracy_loss_max)
    if not settings.int8:
        return judged, {"int8": "The recipe asks for float32 only."}
    if imported.states:
        return judged, {"int8": "The model carries state, in which the errors of int8 add up."}
    progress("quantizing")
    int8: Int8 = int8_forms(imported.graph, imported.keep_float, case.windows)
    absent = dict(int8.absent)
    for name, model in int8.forms.items():
        progress(f"comparing {name} with the original")
        try:
            judged[name] = judge(case, model)
        except InferenceError as exc:
            absent[name] = f"onnxruntime cannot run this form: {exc}"
    return judged, absent


def _write(paths: Sequence[Path], contents: Sequence[bytes]) -> None:
    """Write the files whole, the bundle last: where there is one, the others belong to it."""
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"output: {paths[0].parent}: {exc.strerror}") from exc
    for path, content in zip(paths, contents, strict=True):
        write_bundle(path, content)
