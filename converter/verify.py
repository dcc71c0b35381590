"""Check a finished bundle again: its digests, its golden vectors, and its answers on other data."""

from __future__ import annotations

from pathlib import Path

import msgspec

from converter.data import read_validation
from converter.pack import require_golden
from converter.parity import answer_all, quality
from converter.recipe import DataRecipe
from converter.truth import Truth, true_classes, true_targets
from edge_agent.contract.bundle import Bundle, read_bundle
from edge_agent.contract.manifest import Manifest


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`verify` found in order.

    Attributes:
        sha256: of the bundle file.
        golden: golden vectors that were answered as the original model did.
        windows: windows of the data that was given; 0 without.
        metric: ``accuracy`` or ``r2``; empty without a truth.
        value: of the metric on that data; 0 without a truth.
        stated_metric: what the bundle states of its own validation data; for anomaly
            ``agreement``, with the original model.
        stated: its value.
    """

    name: str
    version: str
    sha256: str
    golden: int
    windows: int = 0
    metric: str = ""
    value: float = 0.0
    stated_metric: str
    stated: float


def verify(path: Path, data: DataRecipe | None = None) -> Verified:
    """Verify a bundle file.

    Args:
        path: of the bundle.
        data: recordings to measure the bundle's quality on, as the agent would answer them.

    Raises:
        BundleError: damaged, inconsistent, or not answering as the original model did.
        ConfigError: the data cannot be used.
        InferenceError: onnxruntime cannot run the model.
    """
    bundle = read_bundle(path)
    require_golden(bundle)
    manifest = bundle.manifest
    found = Verified(
        name=manifest.name,
        version=manifest.version,
        sha256=bundle.digest,
        golden=manifest.golden.count,
        stated_metric=manifest.chosen.parity.metric,
        stated=manifest.chosen.parity.converted,
    )
    return found if data is None else _on_data(found, bundle, data)


def _on_data(found: Verified, bundle: Bundle, data: DataRecipe) -> Verified:
    """The quality of a bundle's answers to other recordings."""
    manifest = bundle.manifest
    validation = read_validation(data, manifest.channels, manifest.window)
    found = msgspec.structs.replace(found, windows=len(validation.windows))
    answers = answer_all(
        bundle.model,
        validation.windows,
        manifest.outputs,
        manifest.task,
        states=manifest.states,
        begins=validation.begins,
    )
    if validation.truth is None:
        return found
    truth: Truth
    if manifest.task == "regression":
        truth = true_targets(validation, _targets(manifest))
    else:
        truth = true_classes(validation, manifest.task, manifest.labels)
    assert truth is not None
    return msgspec.structs.replace(
        found,
        metric="r2" if manifest.task == "regression" else "accuracy",
        value=round(quality(answers, truth), 6),
    )


def _targets(manifest: Manifest) -> int:
    return sum(output.width for output in manifest.outputs if output.role == "value")
