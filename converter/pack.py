"""Put a bundle together, and prove that it answers as the original model before it is written."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from converter.case import Case
from converter.frontends import Imported
from converter.golden import choose_golden, pack_golden, shake
from converter.parity import Outcome, answer_all
from converter.profile import Profile
from converter.reports.report import Report, make_report
from edge_agent import __version__
from edge_agent.contract.bundle import Bundle, pack_bundle, parse_bundle
from edge_agent.contract.errors import BundleError, ConfigError
from edge_agent.contract.manifest import SCHEMA_VERSION, Manifest, Provenance
from edge_agent.contract.reference import Histogram, Reference, encode_reference
from edge_agent.infer import engine_of, golden_fault

FEATURES_MAX: Final = 1024
STATES_AGENT_MIN: Final = "0.2.0"  # the first agent that carries states
_PACKAGES: Final = ("numpy", "onnx", "onnxruntime", "scikit-learn", "scipy", "skl2onnx", "skops")
_BINS: Final = 10


@dataclass(frozen=True)
class Packed:
    """A bundle file, and what its members say."""

    data: bytes
    report: Report
    reference: Reference


def pack(case: Case, outcome: Outcome, profile: Profile) -> Packed:
    """A bundle around the chosen form.

    Args:
        case: the model and its validation data.
        outcome: the forms, one of them chosen.
        profile: of the chosen one.

    Raises:
        BundleError: too few validation windows can serve as golden vectors.
        ConfigError: a source file has become unreadable.
    """
    recipe, imported, winner = case.recipe, case.imported, outcome.winner
    shaken = answer_all(
        winner.model,
        shake(case.windows),
        imported.outputs,
        imported.task,
        states=imported.states,
        begins=case.validation.begins,
    )
    recording = case.longest_recording if imported.states else None
    chosen, atol = choose_golden(
        case.windows, case.original, winner.answers, shaken, recording=recording
    )
    vectors, golden = pack_golden(case.windows, case.original, imported.outputs, chosen, atol)
    source = _provenance(Path(recipe.model), Path(recipe.data.path), imported)
    report = make_report(case, outcome, golden, source, profile)
    reference = _reference(case)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=recipe.name,
        version=recipe.version,
        task=imported.task,
        labels=case.labels,
        channels=recipe.plain_channels,
        window=recipe.window_spec,
        outputs=imported.outputs,
        states=imported.states,
        decide=recipe.decide,
        variants=outcome.variants,
        golden=golden,
        opsets=opsets_of(winner.model),
        agent_min=_agent_min(case),
        provenance=source,
        files={},
    )
    members = {
        "model.onnx": winner.model,
        "golden.npz": vectors,
        "reference.json": encode_reference(reference),
        "report.json": msgspec.json.encode(report, order="sorted"),
    }
    return Packed(pack_bundle(manifest, members), report, reference)


def prove(data: bytes) -> Bundle:
    """Read a bundle back and run its golden vectors as the device will.

    Raises:
        BundleError: damaged, or it does not answer as the original model did.
        InferenceError: onnxruntime cannot run it.
    """
    bundle = parse_bundle(data)
    require_golden(bundle)
    return bundle


def require_golden(bundle: Bundle) -> None:
    """Run the golden vectors of a bundle.

    Raises:
        BundleError: it does not answer as the original model did.
        InferenceError: onnxruntime cannot run it.
    """
    if fault := golden_fault(bundle, engine_of(bundle)):
        raise BundleError(f"the bundle does not answer as the original model: {fault}")


def _agent_min(case: Case) -> str:
    """The oldest agent that the recipe allows, and that knows what the model needs."""
    said = case.recipe.agent_min
    if not case.imported.states:
        return said
    return max(said, STATES_AGENT_MIN, key=lambda text: tuple(map(int, text.split("."))))


def _provenance(model: Path, data: Path, imported: Imported) -> Provenance:
    """Digests of the source files and versions of everything that shapes the result.

    Raises:
        ConfigError: a file cannot be read.
    """
    packages = (*_PACKAGES, *imported.packages)
    return Provenance(
        model_sha256=_file_digest(model),
        data_sha256=_file_digest(data),
        estimator=imported.estimator,
        packages={
            "edge-agent": __version__,
            "python": platform.python_version(),
            **{name: found for name in packages if (found := _version(name))},
        },
    )


def opsets_of(model: bytes) -> dict[str, int]:
    """The operator sets that an ONNX file needs, by domain."""
    imports = onnx.load_from_string(model).opset_import
    return {entry.domain or "ai.onnx": entry.version for entry in imports}


def _reference(case: Case) -> Reference:
    """Deciles of readings, features and scores on the validation windows."""
    imported, original, windows = case.imported, case.original, case.windows
    width = original.scores.shape[1]
    scores = case.labels if width == len(case.labels) else [f"score[{at}]" for at in range(width)]
    names = imported.feature_names[:FEATURES_MAX]
    counts = {}
    if original.labels is not None:
        found = np.bincount(original.labels, minlength=len(case.labels))
        counts = dict(zip(case.labels, found.tolist(), strict=True))
    return Reference(
        windows=len(windows),
        channels=_histograms(case.recipe.channel_names, windows.reshape(-1, windows.shape[2])),
        features=_histograms(names, imported.features(windows)),
        scores=_histograms(scores, original.scores),
        labels=counts,
    )


def _histograms(
    names: Sequence[str], columns: NDArray[np.float32] | NDArray[np.float64]
) -> tuple[Histogram, ...]:
    """Deciles of each column; fewer bins where values repeat."""
    return tuple(_histogram(name, columns[:, at]) for at, name in enumerate(names))


def _histogram(name: str, values: NDArray[np.float32] | NDArray[np.float64]) -> Histogram:
    edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
    bins = np.searchsorted(edges, values, side="right")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    return Histogram(name=name, edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""  # it took no part, then
