"""From a recipe to a bundle: import, compare every form, measure, choose, pack, prove, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from converter.candidates import Allowance, Forms, judge_forms
from converter.case import Case, open_case
from converter.measure import (
    Measured,
    encode_measured,
    figures_of,
    machine,
    measure,
    read_measured,
)
from converter.pack import pack, prove
from converter.parity import Outcome, choose, contenders
from converter.recipe import Recipe, check_recipe, load_recipe
from converter.report import render
from converter.target import Target, write_forms
from edge_agent.contract.bundle import write_bundle
from edge_agent.contract.errors import ConfigError
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
    target: Target | None = None,
    forms_folder: Path | None = None,
    progress: Progress = lambda _: None,
) -> Built:
    """Turn a trained model into a verified bundle. Nothing is written before it is proven.

    Args:
        recipe: a recipe, or the path of its file.
        measure_anew: do not use the figures of an earlier build.
        target: figures of the machine that will run the model; they decide if they cover every
            form.
        forms_folder: receives every form, to be measured on the target.
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
    forms = judge_forms(case, _allowance(recipe, known), progress)
    outcome, measured = decide(case, forms, known=known, target=target, progress=progress)
    if forms_folder is not None:
        write_forms(forms_folder, forms.models, case)
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


def decide(
    case: Case,
    forms: Forms,
    *,
    known: Measured | None = None,
    target: Target | None = None,
    progress: Progress = lambda _: None,
) -> tuple[Outcome, Measured]:
    """Measure the forms and choose one; arguments as for :func:`build`.

    Raises:
        InferenceError: a form cannot be measured.
    """
    settings, judged = case.recipe.quantize, forms.judged
    models = forms.models
    measured = measure(
        models,
        case.windows,
        case.imported.outputs,
        states=case.imported.states,
        known=known,
        contenders=lambda figures: contenders(judged, figures, settings),
        progress=progress,
    )
    measured = msgspec.structs.replace(measured, untried=tuple(sorted(forms.untried)))
    figures = {name: figures_of(measured, model) for name, model in models.items()}
    place = measured.machine
    if target is not None and (elsewhere := target.figures_of(models)) is not None:
        figures, place = elsewhere, target.machine
    elif target is not None:
        place += (
            f"; the figures of {target.machine} do not decide, because they cover "
            f"{target.count(models)} of {len(models)} forms"
        )
    return Outcome(judged, forms.absent, choose(judged, figures, settings), place), measured


def _allowance(recipe: Recipe, known: Measured | None) -> Allowance:
    """An earlier build on this machine has decided what is tried."""
    again = known is not None and known.machine == machine()
    untried = frozenset(known.untried) if known is not None and again else None
    return Allowance(recipe.quantize.build_s_max, untried)


def _write(paths: Sequence[Path], contents: Sequence[bytes]) -> None:
    """Write the files whole, the bundle last: where there is one, the others belong to it."""
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"output: {paths[0].parent}: {exc.strerror}") from exc
    for path, content in zip(paths, contents, strict=True):
        write_bundle(path, content)
