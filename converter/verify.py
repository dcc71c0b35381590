"""Check a finished bundle again, on whatever machine this is.

Digests and golden vectors; that manifest, report and model say the same; with data the answers;
and what loading and answering cost here. On the data that the bundle was built with, the answers
must be those that it states, within the accuracy budget of its recipe: another processor rounds
otherwise, which may move a window at a border.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from converter.data import read_validation
from converter.frontends import Answers
from converter.measure import figures_of, machine, measure
from converter.pack import opsets_of, require_golden
from converter.parity import answer_all, quality
from converter.recipe import DataRecipe
from converter.truth import Truth, true_classes, true_targets
from converter.turn import turn
from edge_agent.arrays import F32
from edge_agent.contract.bundle import Bundle, read_bundle
from edge_agent.contract.errors import BundleError, ConfigError
from edge_agent.contract.manifest import INPUT_NAME, Figures, Golden, Manifest, Variant
from edge_agent.contract.reference import Reference, decode_reference

_BOUNDS: Final = "the accuracy budget of the bundle's recipe"


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`verify` found in order.

    Attributes:
        sha256: of the bundle file.
        golden: golden vectors that were answered as the original model did.
        windows: windows of the data that was given; 0 without.
        same_data: these are the data that the bundle was built with.
        metric: ``accuracy`` or ``r2``; empty without a truth.
        value: of the metric on that data; 0 without a truth.
        stated_metric: what the bundle states of its own validation data; for anomaly
            ``agreement``, with the original model.
        stated: its value.
        moved: on the same data, at least so many windows get another label than when the bundle
            was built; 0 otherwise.
        machine: this one.
        figures: measured here.
        stated_machine: where the bundle's own figures come from.
        stated_figures: those.
    """

    name: str
    version: str
    sha256: str
    golden: int
    windows: int = 0
    same_data: bool = False
    metric: str = ""
    value: float = 0.0
    stated_metric: str
    stated: float
    moved: int = 0
    machine: str
    figures: Figures
    stated_machine: str
    stated_figures: Figures


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What of ``report.json`` is needed here."""

    machine: str
    accuracy_loss_max: float
    variants: tuple[Variant, ...]
    golden: Golden
    confusion_converted: tuple[tuple[int, ...], ...]


def verify(path: Path, data: DataRecipe | None = None) -> Verified:
    """Verify a bundle file.

    Args:
        path: of the bundle.
        data: recordings to measure the bundle's quality on, as the agent would answer them.

    Raises:
        BundleError: damaged, contradicting itself, not answering as the original model did, or
            not as it states on the data that it was built with.
        ConfigError: the data cannot be used.
        InferenceError: onnxruntime cannot run the model.
    """
    bundle = read_bundle(path)
    told, reference = _consistent(bundle)
    require_golden(bundle)
    manifest = bundle.manifest
    with np.load(io.BytesIO(bundle.golden), allow_pickle=False) as golden:
        figures = _measured(bundle, golden[INPUT_NAME])
    found = Verified(
        name=manifest.name,
        version=manifest.version,
        sha256=bundle.digest,
        golden=manifest.golden.count,
        stated_metric=manifest.chosen.parity.metric,
        stated=manifest.chosen.parity.converted,
        machine=machine(),
        figures=figures,
        stated_machine=told.machine,
        stated_figures=manifest.chosen.figures,
    )
    return found if data is None else _on_data(found, bundle, data, told, reference)


def _consistent(bundle: Bundle) -> tuple[_Told, Reference]:
    """Report and reference; they, the manifest and the model must not contradict each other."""
    manifest = bundle.manifest
    try:
        told = msgspec.json.decode(bundle.report, type=_Told)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BundleError(f"report.json: {exc}: build the bundle again") from exc
    if (told.variants, told.golden) != (manifest.variants, manifest.golden):
        raise BundleError("report.json and manifest.json state different figures: build it again")
    if (found := opsets_of(bundle.model)) != manifest.opsets:
        raise BundleError(f"the model needs the opsets {found}, the manifest says otherwise")
    return told, decode_reference(bundle.reference)


def _measured(bundle: Bundle, windows: F32) -> Figures:
    """What the model costs on this machine."""
    manifest = bundle.manifest
    with turn():
        found = measure(
            {manifest.name: bundle.model}, windows, manifest.outputs, states=manifest.states
        )
    return figures_of(found, bundle.model)


def _on_data(
    found: Verified, bundle: Bundle, data: DataRecipe, told: _Told, reference: Reference
) -> Verified:
    """The quality of a bundle's answers to recordings."""
    manifest = bundle.manifest
    validation = read_validation(data, manifest.channels, manifest.window)
    same = _digest(Path(data.path)) == manifest.provenance.data_sha256
    if same and len(validation.windows) != reference.windows:
        raise ConfigError(
            f"{data.path}: the bundle was built with {reference.windows} windows of this file, "
            f"this makes {len(validation.windows)}: give --recording as in its recipe"
        )
    answers = answer_all(
        bundle.model,
        validation.windows,
        manifest.outputs,
        manifest.task,
        states=manifest.states,
        begins=validation.begins,
    )
    found = msgspec.structs.replace(found, windows=len(validation.windows), same_data=same)
    truth: Truth = None
    if validation.truth is not None and manifest.task == "regression":
        truth = true_targets(validation, _targets(manifest))
    elif validation.truth is not None:
        truth = true_classes(validation, manifest.task, manifest.labels)
    if truth is not None:
        metric = "r2" if manifest.task == "regression" else "accuracy"
        value = round(quality(answers, truth), 6)
        found = msgspec.structs.replace(found, metric=metric, value=value)
    if not same:
        return found
    found = msgspec.structs.replace(found, moved=_moved(answers, truth, told, reference))
    _require_stated(found, manifest, told)
    return found


def _moved(answers: Answers, truth: Truth, told: _Told, reference: Reference) -> int:
    """At least so many windows get another label than the bundle states.

    With the truth against the stated confusion of this form, without it against the label counts
    of the original model.
    """
    if answers.labels is None:
        return 0
    count = len(reference.labels)
    if truth is not None and told.confusion_converted:
        cells = np.bincount(truth.astype(np.int64) * count + answers.labels, minlength=count**2)
        stated = np.asarray(told.confusion_converted, np.int64).ravel()
    else:
        cells = np.bincount(answers.labels, minlength=count)
        stated = np.asarray(list(reference.labels.values()), np.int64)
    return int(np.abs(cells - stated).sum()) // 2


def _require_stated(found: Verified, manifest: Manifest, told: _Told) -> None:
    """Refuse answers beyond the budget on the data that the bundle was built with.

    Raises:
        BundleError: they are.
    """
    parity, loss_max = manifest.chosen.parity, told.accuracy_loss_max
    if found.metric == parity.metric and (loss := parity.original - found.value) > loss_max:
        raise BundleError(
            f"on this machine the model has {found.metric} {found.value:g}, {loss:.4f} less than "
            f"the original one; {_BOUNDS} is {loss_max:g}"
        )
    if found.moved > max(loss_max * found.windows, parity.label_flips):
        raise BundleError(
            f"on this machine {found.moved} of {found.windows} windows get another label than when "
            f"the bundle was built; {_BOUNDS} is {loss_max:.1%}"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _targets(manifest: Manifest) -> int:
    return sum(output.width for output in manifest.outputs if output.role == "value")
