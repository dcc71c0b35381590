"""From a recipe to a bundle: import, compare every form, measure, choose, pack, prove, write."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from converter.case import Case, open_case
from converter.forms.candidates import Allowance, Forms, judge_forms
from converter.forms.target import Target, write_forms
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
from converter.profile import Profile, profile
from converter.recipe import Recipe, check_recipe, load_recipe
from converter.registry import Origin, fetched
from converter.reports.page import render
from converter.turn import turn
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
        origin: of a model that was fetched from MLflow.
    """

    bundle: Path
    report: Path
    measured: Path
    manifest: Manifest
    digest: str
    notes: tuple[str, ...]
    origin: Origin | None = None


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
        LinkError: MLflow, which the recipe names, cannot be reached.
    """
    with _local(_checked(recipe), progress) as (wanted, origin):
        stem = f"{wanted.name}-{wanted.version}"
        ends = (".measured.json", ".report.json", ".html", ".bundle")
        paths = [Path(wanted.output, stem + end) for end in ends]
        known = None if measure_anew else read_measured(paths[0])

        progress("reading data and model")
        case = open_case(wanted, (origin.note,) if origin else ())
        forms = judge_forms(case, _allowance(wanted, known), progress)
        outcome, measured = decide(case, forms, known=known, target=target, progress=progress)
        if forms_folder is not None:
            write_forms(forms_folder, forms.models, case)
        found, measured = _profiled(case, outcome, measured, known, progress)
        progress("packing and proving the bundle")
        packed = pack(case, outcome, found)
        bundle, page = prove(packed.data), render(packed.report, packed.reference)
        told = msgspec.json.format(msgspec.json.encode(packed.report, order="sorted"), indent=2)
        _write(paths, (encode_measured(measured), told, page.encode(), packed.data))
    return Built(
        bundle=paths[3],
        report=paths[2],
        measured=paths[0],
        manifest=bundle.manifest,
        digest=bundle.digest,
        notes=packed.report.notes,
        origin=origin,
    )


@contextmanager
def _local(recipe: Recipe, progress: Progress) -> Iterator[tuple[Recipe, Origin | None]]:
    """The recipe with a model that is a file, and where in MLflow that comes from."""
    if not recipe.in_mlflow:
        yield recipe, None
        return
    progress(f"fetching {recipe.model}")
    with fetched(recipe.model) as (path, origin):
        yield msgspec.structs.replace(recipe, model=str(path)), origin


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
    with turn(progress):
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


def _profiled(
    case: Case, outcome: Outcome, measured: Measured, known: Measured | None, progress: Progress
) -> tuple[Profile, Measured]:
    """The chosen form's profile, and the figures to keep with it in them."""
    model, imported = outcome.winner.model, case.imported
    key = hashlib.sha256(model).hexdigest()
    found = known.profiles.get(key) if known and known.machine == measured.machine else None
    if found is None:
        progress("profiling the chosen form")
        with turn(progress):
            found = profile(model, case.windows, imported.outputs, imported.states)
    return found, msgspec.structs.replace(measured, profiles={key: found})


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
