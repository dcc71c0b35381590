"""From a trained model of some framework to a float graph on the contract's terms.

One file for each framework, one line for it in :data:`FRONTENDS`; :func:`import_model` chooses by
the name of the file, and by its first bytes where several frameworks use that name. Such a file
has one function::

    def import_file(path: Path, context: Context) -> Imported: ...

which raises ConfigError for a file that it cannot use.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.features import WindowFeatures
from converter.model_io import NOTHING_SAID, ModelIO
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Output, State, Task

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
        states: what the graph hands from one window to the next; ``original`` then takes its
            windows as consecutive ones, from a state of zeros.
        packages: of the framework, whose versions shape the result.
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
    states: tuple[State, ...] = ()
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Context:
    """What is known of a model beyond its file; fields as in :func:`import_model`."""

    length: int
    channels: tuple[str, ...]
    rate_hz: float
    features: FeatureSpec | None = None
    labels: tuple[str, ...] | None = None
    trust: tuple[str, ...] = ()
    consent_pickle: bool = False
    model_io: ModelIO = NOTHING_SAID


@dataclass(frozen=True)
class Frontend:
    """How the files of a framework are recognised.

    Attributes:
        suffixes: of its files, in lower case.
        begins: matches the first KiB of its files; needed where another framework has one of the
            suffixes too.
    """

    suffixes: tuple[str, ...]
    begins: re.Pattern[bytes] = re.compile(b"")


FRONTENDS: Final = {  # the name is that of the module here
    "sklearn": Frontend((".skops", ".joblib", ".pkl", ".pickle")),
    "xgboost": Frontend(
        (".json", ".ubj", ".model", ".bin"), re.compile(rb'\{(\s*"|[iUIlL]\0*\x07)learner')
    ),
    "lightgbm": Frontend((".txt", ".model"), re.compile(rb"tree\r?\nversion=")),
    "catboost": Frontend(
        (".cbm", ".json", ".model", ".bin"),
        re.compile(rb'CBM1|\{\s*"(ctr_data|features_info|model_info|oblivious_trees|trees)"'),
    ),
    "onnx_file": Frontend((".onnx",)),
    "keras": Frontend((".keras", ".h5", ".hdf5")),
    "tflite": Frontend((".tflite",)),
    "torch": Frontend((".pt2", ".pt", ".pth")),
}
_HEAD_BYTES: Final = 1024


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
    model_io: ModelIO = NOTHING_SAID,
) -> Imported:
    """Read a trained model from a file.

    Args:
        path: a file of one of :data:`FRONTENDS`; ``.joblib`` and ``.pkl`` need consent.
        length: readings in a window.
        channels: names of the columns of a reading.
        rate_hz: readings per second.
        features: window features that the model was trained on outside of a pipeline.
        labels: names for the classes, in the model's order; default: the classes themselves.
        trust: classes beyond the reviewed list that a ``.skops`` file may name; loading one runs
            its module.
        consent_pickle: unpickling, which runs whatever the file says, is agreed to.
        model_io: what the file of a network leaves open.

    Raises:
        ConfigError: an unreadable or untrusted file, a framework that is not installed, or a
            model that does not fit; the message names the class.
    """
    context = Context(
        length=length,
        channels=channels,
        rate_hz=rate_hz,
        features=features,
        labels=labels,
        trust=trust,
        consent_pickle=consent_pickle,
        model_io=model_io,
    )
    # Only now, because the frameworks need seconds to import.
    frontend = importlib.import_module(f"converter.frontends.{frontend_of(path)}")
    try:
        imported: Imported = frontend.import_file(path, context)
    except ConfigError as exc:
        if str(exc).startswith(str(path)):
            raise
        raise ConfigError(f"{path}: {exc}") from exc
    return imported


def frontend_of(path: Path) -> str:
    """The key in :data:`FRONTENDS` of the framework that a model file belongs to.

    Raises:
        ConfigError: there is no such file, or it is of no framework that is known here.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError as exc:
        raise ConfigError(f"{path}: there is no such model file") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    suffix = path.suffix.lower()
    named = [name for name, frontend in FRONTENDS.items() if suffix in frontend.suffixes]
    if not named:
        known = sorted({suffix for frontend in FRONTENDS.values() for suffix in frontend.suffixes})
        raise ConfigError(
            f"{path}: models are .skops files (skops.io.dump(model, 'model.skops')) or other files "
            f"that end in one of {', '.join(known)}"
        )
    if found := [name for name in named if FRONTENDS[name].begins.match(head)]:
        return found[0]
    raise ConfigError(
        f"{path}: does not begin as a {suffix} file of {' or '.join(named)}: save it again by the "
        "framework's save_model"
    )


def require_package(name: str, extra: str) -> ModuleType:
    """Import the package of a framework.

    Args:
        name: what to import.
        extra: the extra of this distribution that installs it.

    Raises:
        ConfigError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise ConfigError(
            f"this model needs the package {name}: pip install 'edge-agent[{extra}]' ({exc})"
        ) from exc
