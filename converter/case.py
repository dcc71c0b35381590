"""A model together with its validation data and what is right for them: the input of every step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from converter.data import Validation, read_validation
from converter.features import WindowFeatures
from converter.frontends import Answers, Imported, import_model
from converter.recipe import Recipe
from converter.reports.remarks import remarks
from converter.truth import Truth, agreement, require_every, true_classes, true_targets
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

_REGRESSION_STATES: Final = ("inactive", "active")  # as in edge_agent.decide


@dataclass(frozen=True)
class Case:
    """One model on its validation data.

    Attributes:
        recipe: checked, its paths usable from here.
        imported: the model.
        labels: of the bundle: the recipe's, else the model's own.
        validation: the windows.
        original: what the original model answers on them.
        truth: what is right; None for anomaly detection without labels.
    """

    recipe: Recipe
    imported: Imported
    labels: tuple[str, ...]
    validation: Validation
    original: Answers
    truth: Truth

    @property
    def windows(self) -> F32:
        """Validation windows (n, length, channels)."""
        return self.validation.windows

    @property
    def longest_recording(self) -> slice:
        """Which windows are those of the recording that has most."""
        edges = np.append(self.validation.begins, len(self.windows))
        longest = int(np.diff(edges).argmax())
        return slice(int(edges[longest]), int(edges[longest + 1]))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the author should know about model and data."""
        return self.imported.notes + self.validation.notes + self._by_chance() + self._unvoted()

    def _by_chance(self) -> tuple[str, ...]:
        """A note when the original knows no more of the truth than chance does."""
        if self.imported.task != "classification" or self.truth is None:
            return ()
        right, chance = agreement(self.original.labels, self.truth, len(self.labels))
        if right > chance + 2 * (chance * (1 - chance) / len(self.truth)) ** 0.5:
            return ()
        note = (
            f"The original model is right on {right:.1%} of the windows, where chance is right on "
            f"{chance:.1%}: check that these data, their units and the order of the labels belong "
            "to this model."
        )
        return (note,)

    def _unvoted(self) -> tuple[str, ...]:
        """A note when the device would ignore answers that the model gives."""
        if self.imported.task != "classification":
            return ()
        best, threshold = self.original.scores.max(axis=1), self.recipe.decide.threshold
        if not (count := int((best < threshold).sum())):
            return ()
        note = (
            f"On {count} of {len(best)} windows the best score is below decide.threshold, "
            f"{threshold:g}: they will not change the device's state. The scores range from "
            f"{self.original.scores.min():.3g} to {self.original.scores.max():.3g}."
        )
        return (note,)


def open_case(recipe: Recipe, notes: tuple[str, ...] = ()) -> Case:
    """Read data and model, and ask the original model.

    Args:
        recipe: its paths are usable from here.
        notes: what is known of the model already.

    Raises:
        ConfigError: either cannot be used, or they do not fit each other.
    """
    validation = read_validation(recipe.data, recipe.plain_channels, recipe.window_spec)
    with remarks() as said:
        imported = _import(recipe)
    labels = _labels(recipe, imported)
    if imported.task == "regression":
        targets = sum(output.width for output in imported.outputs if output.role == "value")
        truth: Truth = true_targets(validation, targets)
    else:
        truth = true_classes(validation, imported.task, labels, own=imported.labels)
        if truth is not None and imported.task == "classification":
            require_every(truth, labels)
    with remarks() as answering:
        original = _ask(imported, validation)
    said = [text for text in dict.fromkeys(said + answering) if text not in imported.notes]
    imported = replace(imported, notes=(*notes, *imported.notes, *said))
    return Case(recipe, imported, labels, validation, original, truth)


def _ask(imported: Imported, validation: Validation) -> Answers:
    """What the original answers; a model with states begins anew with every recording."""
    if not imported.states:
        return imported.original(validation.windows)
    recordings = np.split(validation.windows, validation.begins[1:])
    parts = [imported.original(windows) for windows in recordings]
    scores = np.concatenate([part.scores for part in parts])
    if imported.task == "regression":
        return Answers(None, scores)
    return Answers(np.concatenate([p.labels for p in parts if p.labels is not None]), scores)


def _import(recipe: Recipe) -> Imported:
    features = None
    if recipe.features is not None:
        features = WindowFeatures(
            features=recipe.features.names, bands=recipe.features.bands, rate_hz=recipe.rate_hz
        )
    return import_model(
        Path(recipe.model),
        length=recipe.window.length,
        channels=recipe.channel_names,
        rate_hz=recipe.rate_hz,
        features=features,
        trust=recipe.trust,
        consent_pickle=recipe.allow_pickle,
        model_io=recipe.model_io.resolved(recipe.labels),
    )


def _labels(recipe: Recipe, imported: Imported) -> tuple[str, ...]:
    """The labels of the bundle; they and the states that fire must fit the model.

    The model is imported under its own labels, so that the validation data may use either.
    """
    labels = recipe.labels or imported.labels
    if len(labels) != len(imported.labels):
        raise ConfigError(
            f"labels: names {len(labels)} classes, the model has {len(imported.labels)}"
            + (f": {', '.join(imported.labels)}" if imported.labels else " (a regression)")
        )
    states = labels or _REGRESSION_STATES
    if unknown := [state for state in recipe.decide.fire_on if state not in states]:
        raise ConfigError(
            f"decide.fire_on: {unknown[0]!r} is no state of this model; those are "
            f"{', '.join(states)}"
        )
    return labels
