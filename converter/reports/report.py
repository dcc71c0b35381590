"""The report: what was built, why this form was chosen, and what it answers differently.

``report.json`` travels in the bundle; :mod:`converter.reports.page` shows the same to people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from converter.case import Case
from converter.data import Validation
from converter.frontends import Answers
from converter.parity import Flip, Outcome, flips
from converter.profile import Profile
from converter.recipe import Recipe
from converter.truth import Truth
from edge_agent.contract.manifest import Golden, Provenance, Task, Variant, WindowSpec
from edge_agent.contract.reference import Histogram

FLIPS_SHOWN: Final = 50
_DECADES: Final = range(-8, 1)


class ClassFlips(msgspec.Struct, frozen=True, kw_only=True):
    """How the windows of one label of the original model fared.

    Attributes:
        windows: to which the original model gave this label.
        flips: of those, how many the converted model labels differently.
        distance_max: the farthest of the flips from the decision border, 0 without any.
    """

    label: str
    windows: int
    flips: int
    distance_max: float


class PlacedFlip(Flip, frozen=True, kw_only=True):
    """A flip with the place in the validation data where its window ends, e.g. ``line 120``."""

    place: str


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory on a device, in bytes; measured in child processes of the build.

    Attributes:
        agent: the agent without a model.
        model: what the model adds.
        running: both.
        trial: the child process that tries the model before it is taken over, once an update.
        updating: the most at a time: the agent with this model and a new one of its size, or with
            one and the trial of the other.
    """

    agent: int
    model: int
    running: int
    trial: int
    updating: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """``report.json``.

    Attributes:
        summary: what a reader must know, in a few sentences.
        estimator: the steps of the original model.
        machine: what the figures were measured on.
        aim: what an int8 form had to be better at.
        accuracy_loss_max: the accuracy budget.
        absent: why forms do not exist, by their names.
        notes: what else the author should know about model and data.
        confusion_original: windows by true label (rows) and the original model's (columns); empty
            without a truth.
        confusion_converted: the same for the form in the bundle.
        class_flips: label flips of the form in the bundle, by the original's label.
        flips: the flips farthest from the border, at most :data:`FLIPS_SHOWN`.
        errors: largest score error of each window with the form in the bundle, by decades.
        profile: where the time of an answer goes.
    """

    name: str
    version: str
    task: Task
    summary: tuple[str, ...]
    estimator: str
    labels: tuple[str, ...]
    channels: tuple[str, ...]
    window: WindowSpec
    machine: str
    aim: str
    accuracy_loss_max: float
    variants: tuple[Variant, ...]
    absent: dict[str, str]
    notes: tuple[str, ...]
    confusion_original: tuple[tuple[int, ...], ...]
    confusion_converted: tuple[tuple[int, ...], ...]
    class_flips: tuple[ClassFlips, ...]
    flips: tuple[PlacedFlip, ...]
    errors: Histogram
    golden: Golden
    provenance: Provenance
    profile: Profile

    @property
    def chosen(self) -> Variant:
        """The variant in the bundle."""
        return next(variant for variant in self.variants if variant.chosen)

    @property
    def forecast(self) -> Forecast:
        """What the device's memory will hold."""
        agent, model = self.profile.agent_bytes, self.chosen.figures.rss_bytes
        trial = self.profile.engine_bytes + model
        return Forecast(
            agent=agent,
            model=model,
            running=agent + model,
            trial=trial,
            updating=agent + model + max(model, trial),
        )


def make_report(
    case: Case, outcome: Outcome, golden: Golden, source: Provenance, profile: Profile
) -> Report:
    """Collect everything that the report says."""
    recipe, original, converted = case.recipe, case.original, outcome.winner.answers
    changed = flips(original, converted, case.labels)
    count = len(case.labels)
    return Report(
        name=recipe.name,
        version=recipe.version,
        task=case.imported.task,
        summary=_summary(recipe, outcome.variants, case.imported.task),
        estimator=case.imported.estimator,
        labels=case.labels,
        channels=recipe.channel_names,
        window=recipe.window_spec,
        machine=outcome.machine,
        aim=recipe.quantize.aim,
        accuracy_loss_max=recipe.quantize.accuracy_loss_max,
        variants=outcome.variants,
        absent=dict(outcome.absent),
        notes=case.notes,
        confusion_original=_confusion(case.truth, original, count),
        confusion_converted=_confusion(case.truth, converted, count),
        class_flips=_class_flips(changed, original, case.labels),
        flips=tuple(_placed(flip, case.validation) for flip in changed[:FLIPS_SHOWN]),
        errors=_errors(original, converted),
        golden=golden,
        provenance=source,
        profile=profile,
    )


def _summary(recipe: Recipe, variants: tuple[Variant, ...], task: Task) -> tuple[str, ...]:
    """What a product owner must know."""
    chosen = next(variant for variant in variants if variant.chosen)
    parity, figures = chosen.parity, chosen.figures
    alike = (
        f"It gives the original model's label on every one of {parity.windows} validation windows."
        if parity.label_flips == 0
        else f"Its label differs from the original model's on {parity.label_flips} of "
        f"{parity.windows} validation windows."
    )
    if task == "regression":
        alike = (
            f"Its values differ from the original model's by at most {parity.score_error_max:.3g} "
            f"on {parity.windows} validation windows."
        )
    kept = (
        f"The {parity.metric} is {parity.converted:.4f}, that of the original model "
        f"{parity.original:.4f}; {recipe.quantize.accuracy_loss_max:g} may be lost."
    )
    cost = (
        f"On the machine below, one answer takes {figures.p50_us:.1f} µs (99 % of them less than "
        f"{figures.p99_us:.1f} µs) and the model {figures.rss_bytes / 2**20:.1f} MiB of memory."
    )
    return (
        f"{recipe.name} {recipe.version} holds the {chosen.name} form.",
        alike,
        kept,
        cost,
    )


def _confusion(truth: Truth, answers: Answers, count: int) -> tuple[tuple[int, ...], ...]:
    """Windows by true label and answered label; empty where there are no labels or no truth."""
    if truth is None or answers.labels is None:
        return ()
    cells = np.bincount(truth.astype(np.int64) * count + answers.labels, minlength=count * count)
    return tuple(tuple(row) for row in cells.reshape(count, count).tolist())


def _class_flips(
    changed: Sequence[Flip], original: Answers, labels: Sequence[str]
) -> tuple[ClassFlips, ...]:
    if original.labels is None:
        return ()
    distances: dict[str, list[float]] = {label: [] for label in labels}
    for flip in changed:
        distances[flip.original].append(flip.distance)
    counts = np.bincount(original.labels, minlength=len(labels)).tolist()
    return tuple(
        ClassFlips(
            label=label,
            windows=count,
            flips=len(distances[label]),
            distance_max=max(distances[label], default=0.0),
        )
        for label, count in zip(labels, counts, strict=True)
    )


def _placed(flip: Flip, validation: Validation) -> PlacedFlip:
    place = f"{validation.unit} {validation.ends[flip.window]}"
    return PlacedFlip(**msgspec.structs.asdict(flip), place=place)


def _errors(original: Answers, converted: Answers) -> Histogram:
    error = np.abs(original.scores - converted.scores).max(axis=1)
    edges = tuple(10.0**decade for decade in _DECADES)
    counts = np.bincount(np.searchsorted(edges, error, side="right"), minlength=len(edges) + 1)
    return Histogram(name="score error", edges=edges, counts=tuple(counts.tolist()))
