"""From a trained model of some framework to a float graph on the contract's terms.

One file for each framework; :func:`import_model` chooses by the name of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.features import WindowFeatures
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Output, Task

FeatureSpec = tuple[str, ...] | WindowFeatures


@dataclass(frozen=True)
class Answers:
    """What the original model says about n windows.

    Attributes:
        labels: int64 (n,), indices into :attr:`Imported.labels`; None for regression.
        scores: float64 (n, K): class scores; anomaly (n, 1), above 0 anomalous; regression
            (n, targets).
    """

    labels: NDArray[np.int64] | None
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Imported:
    """A model that is understood.

    Attributes:
        graph: float32; input ``window`` (N, length, channels), outputs as in ``outputs``.
        task: what the model answers.
        labels: names of the classes, in the order of the scores; ("normal", "anomaly") for
            anomaly; empty for regression.
        outputs: the outputs of the graph.
        original: windows float32 (n, length, channels) to the answers of the original model.
        estimator: readable, e.g. ``"WindowFeatures > StandardScaler > RandomForestClassifier"``.
        feature_names: the inputs of the estimator proper, e.g. ``"ax.mean"`` or ``"ax[0]"``.
        features: windows to float64 (n, len(feature_names)), as the original computes them.
        notes: what a reader of the report should know.
        keep_float: names of the nodes that must never be quantized.
    """

    graph: onnx.ModelProto
    task: Task
    labels: tuple[str, ...]
    outputs: tuple[Output, ...]
    original: Callable[[F32], Answers]
    estimator: str
    feature_names: tuple[str, ...]
    features: Callable[[F32], NDArray[np.float64]]
    notes: tuple[str, ...]
    keep_float: tuple[str, ...]


def import_model(
    path: Path,
    *,
    length: int,
    channels: tuple[str, ...],
    rate_hz: float,
    features: FeatureSpec | None = None,
    labels: tuple[str, ...] | None = None,
    trust: tuple[str, ...] = (),
    consent_pickle: bool = False,
) -> Imported:
    """Read a trained model from a file.

    Args:
        path: ``.skops``, or ``.joblib`` / ``.pkl`` with consent.
        length: readings in a window.
        channels: names of the columns of a reading.
        rate_hz: readings per second.
        features: window features that the model was trained on outside of a pipeline.
        labels: names for the classes, in the model's order; default: the classes themselves.
        trust: classes beyond the reviewed list that a ``.skops`` file may name; loading one runs
            its module.
        consent_pickle: unpickling, which runs whatever the file says, is agreed to.

    Raises:
        ConfigError: an unreadable or untrusted file, or a model that does not fit; the message
            names the class.
    """
    # Here, because scikit-learn and skl2onnx need a second to import.
    from converter.frontends.files import load_estimator  # noqa: PLC0415
    from converter.frontends.sklearn import import_estimator  # noqa: PLC0415

    estimator, notes = load_estimator(path, trust=trust, consent_pickle=consent_pickle)
    try:
        return import_estimator(
            estimator,
            length=length,
            channels=channels,
            rate_hz=rate_hz,
            features=features,
            labels=labels,
            notes=notes,
        )
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
