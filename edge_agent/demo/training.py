"""The two versions of the model, and the recipes that turn them into bundles.

The features are the converter's: they become part of the bundle, so training and device cannot
differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from converter.features import WindowFeatures  # the demo is also the operator, see __init__.py
from edge_agent.demo.recording import CHANNELS, RATE_HZ, Take
from edge_agent.demo.tape import cut

MODEL: Final = "motion"
LENGTH: Final = 100  # readings in a window: 2 s
HOP: Final = 10  # readings between two decisions: five a second
_TRAINING_HOP: Final = 25  # neighbouring windows teach little
_SEED: Final = 7

_BANDS_HZ: Final = ((0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 12.0))


class Version(msgspec.Struct, frozen=True):
    """One version of the model, not fitted yet.

    Attributes:
        number: such as ``1.0.0``.
        about: what it is, for people.
        estimator: a scikit-learn pipeline that takes windows.
    """

    number: str
    about: str
    estimator: Any

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return f"{MODEL}-{self.number}"


def versions() -> tuple[Version, Version]:
    """A first version, and one that sees more and is less simple."""
    first = _pipeline(
        WindowFeatures(features=("mean", "std")),
        LogisticRegression(max_iter=1000),
    )
    second = _pipeline(
        WindowFeatures(
            features=("mean", "std", "min", "max", "zero_crossings"),
            bands=_BANDS_HZ,
            rate_hz=RATE_HZ,
        ),
        MLPClassifier((64,), max_iter=60, early_stopping=True, random_state=_SEED),
    )
    return (
        Version("1.0.0", "logistic regression on means and deviations", first),
        Version("1.1.0", "neural network on more features, frequency bands among them", second),
    )


def train(version: Version, takes: Sequence[Take]) -> float:
    """Fit a version; the same recordings give the same model.

    Returns:
        The accuracy on the windows that it was trained on.
    """
    windows, names = cut(takes, LENGTH, _TRAINING_HOP)
    version.estimator.fit(windows, names)
    return float(version.estimator.score(windows, names))


def save(version: Version, folder: Path, *, validation: str) -> Path:
    """Write the fitted model as ``.skops`` and its recipe beside it.

    Args:
        version: fitted.
        folder: where.
        validation: name of the file with validation data in that folder.

    Returns:
        The recipe.
    """
    skops.io.dump(version.estimator, folder / f"{version.stem}.skops")
    recipe = folder / f"{version.stem}.yaml"
    recipe.write_text(_recipe(version, validation), encoding="utf-8")
    return recipe


def _pipeline(features: WindowFeatures, classifier: Any) -> Pipeline:
    return Pipeline(
        [("features", features), ("scaler", StandardScaler()), ("classifier", classifier)]
    )


def _recipe(version: Version, validation: str) -> str:
    """What the model file cannot say itself."""
    ranges = {
        "a": "unit: g, minimum: -16, maximum: 16",
        "w": "unit: rad/s, minimum: -35, maximum: 35",
    }
    channels = "\n".join(f"  - {{name: {name}, {ranges[name[0]]}}}" for name in CHANNELS)
    return f"""\
# {version.number}: {version.about}. Build it:
#   edge-convert build {version.stem}.yaml
name: {MODEL}
version: {version.number}
model: {version.stem}.skops
data: {{path: {validation}, label: label}}
channels:
{channels}
rate_hz: {RATE_HZ:g}
window: {{length: {LENGTH}, hop: {HOP}}}
decide: {{debounce: 3}}
"""
