"""The recipe: what a person says about a model that the model file cannot say itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from converter.model_io import NOTHING_SAID, ModelIO
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Channel, DecideSpec, WindowSpec
from edge_agent.contract.names import name_fault, version_fault
from edge_agent.settings import Fault, Settings, load_settings

AGENT_MIN: Final = "0.1.0"  # the first agent that reads schema 1
_MLFLOW: Final = ("models:/", "runs:/")
_AGENT_VERSION: Final = re.compile(r"\d{1,6}(\.\d{1,6}){0,2}")

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
Aim = Literal["latency", "size", "memory"]


class ChannelRecipe(Channel, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A channel as in the manifest; a misspelt field is an error here."""


class WindowRecipe(Settings, frozen=True, kw_only=True):
    """How readings become model inputs.

    Attributes:
        length: readings in a window; 1 decides every reading alone.
        hop: readings between two windows; by default as many as are in one.
    """

    length: Count = 1
    hop: Count | None = None


class FeaturesRecipe(Settings, frozen=True, kw_only=True):
    """Window features in front of a model that was trained on their output, outside a pipeline.

    Attributes:
        names: features of every channel, in the order of training.
        bands: frequency bands (low, high) in Hz whose energies follow them.
    """

    names: tuple[str, ...] = ()
    bands: tuple[tuple[float, float], ...] = ()


class DataRecipe(Settings, frozen=True, kw_only=True):
    """The validation data: recordings that the model has not been trained on.

    Attributes:
        path: ``.csv`` with a header line, or ``.npz``; relative to the recipe.
        label: column or array with the truth: the class, or the target of a regression (several
            for several targets). Anomaly detection does without.
        recording: CSV column whose value changes from one recording to the next; no window spans
            two recordings. Without it the file is one recording.
        signal: NPZ array (readings, channels).
        offsets: NPZ array (recordings + 1,): recording i is ``signal[offsets[i]:offsets[i + 1]]``.
        windows: NPZ array (windows, length, channels), used instead of ``signal`` when present.
        classes: NPZ array of class names that whole-number labels are an index into.
    """

    path: str
    label: str | tuple[str, ...] | None = None
    recording: str | None = None
    signal: str = "signal"
    offsets: str = "offsets"
    windows: str = "windows"
    classes: str = "classes"

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The label columns, none when there is no truth."""
        if self.label is None:
            return ()
        return (self.label,) if isinstance(self.label, str) else self.label


class QuantizeRecipe(Settings, frozen=True, kw_only=True):
    """Which form of the model goes into the bundle.

    Attributes:
        aim: what another form must be better at than float32 to be chosen.
        accuracy_loss_max: how much of the metric (1.0 is all) the converted model may lose on the
            validation data; of any form but float32 also the share of labels that may change.
        int8: False considers float32 only, and neither float16 nor thinner trees.
        build_s_max: seconds for building and comparing the other forms; the report names those
            that were not tried.
    """

    aim: Aim = "latency"
    accuracy_loss_max: Annotated[float, Meta(ge=0, le=1)] = 0.01
    int8: bool = True
    build_s_max: Positive = 600.0


class Recipe(Settings, frozen=True, kw_only=True):
    """The whole file. Relative paths start at the recipe's folder.

    Attributes:
        name: of the model, in topics and file names: letters, digits, ``-`` and ``_``.
        version: of the bundle, e.g. ``1.0.0``.
        model: the trained model: ``.skops``, or ``.joblib``/``.pkl`` with ``allow_pickle``; a file
            of XGBoost, LightGBM, CatBoost, PyTorch (``.pt2``), Keras, TFLite or ONNX; or in MLflow
            ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``runs:/ID/PATH``.
        data: validation data.
        channels: columns of a reading, in the model's order.
        rate_hz: readings per second.
        window: how readings become windows.
        features: window features in front of the model; None when its pipeline has them, or none.
        labels: names in the order of the model's classes, in place of its own.
        decide: decision defaults of the device.
        quantize: how the form of the model is chosen.
        model_io: inputs and outputs of a network, where its file leaves them open.
        trust: full names of further types that a ``.skops`` file may contain; loading it then runs
            the code of their modules.
        allow_pickle: consent to run whatever code a pickle file contains.
        output: folder for the bundle and its report.
        agent_min: oldest agent that may run the bundle.
    """

    name: str
    version: str
    model: str
    data: DataRecipe
    channels: Annotated[tuple[ChannelRecipe, ...], Meta(min_length=1)]
    rate_hz: Positive
    window: WindowRecipe = WindowRecipe()
    features: FeaturesRecipe | None = None
    labels: tuple[str, ...] | None = None
    decide: DecideSpec = DecideSpec()
    quantize: QuantizeRecipe = QuantizeRecipe()
    model_io: ModelIO = NOTHING_SAID
    trust: tuple[str, ...] = ()
    allow_pickle: bool = False
    output: str = "."
    agent_min: str = AGENT_MIN

    @property
    def in_mlflow(self) -> bool:
        """Whether the model is fetched from MLflow."""
        return self.model.startswith(_MLFLOW)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return tuple(channel.name for channel in self.channels)

    @property
    def window_spec(self) -> WindowSpec:
        """How readings become windows, as the manifest says it."""
        hop = self.window.hop or self.window.length
        return WindowSpec(length=self.window.length, hop=hop, rate_hz=self.rate_hz)

    @property
    def plain_channels(self) -> tuple[Channel, ...]:
        """The channels as the manifest holds them."""
        return tuple(Channel(**msgspec.structs.asdict(channel)) for channel in self.channels)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; its paths come back joined to its folder.

    Raises:
        ConfigError: ``FILE:LINE:COLUMN: FIELD: what is wrong``.
    """
    folder = path.parent
    recipe = load_settings(path, Recipe, lambda found: _faults(found, folder))
    return _rooted(recipe, folder)


def check_recipe(recipe: Recipe) -> None:
    """Check a recipe that was made in Python; its paths start at the working folder.

    Raises:
        ConfigError: ``FIELD: what is wrong``.
    """
    try:  # what a file would have been refused for
        msgspec.convert(msgspec.to_builtins(recipe), Recipe)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"recipe: {exc}") from exc
    for fault in _faults(recipe, Path()):
        raise ConfigError(f"{fault.path.removeprefix('$.')}: {fault.text}")


def _rooted(recipe: Recipe, folder: Path) -> Recipe:
    data = msgspec.structs.replace(recipe.data, path=str(folder / recipe.data.path))
    return msgspec.structs.replace(
        recipe,
        model=recipe.model if recipe.in_mlflow else str(folder / recipe.model),
        data=data,
        output=str(folder / recipe.output),
    )


def _faults(recipe: Recipe, folder: Path) -> Iterator[Fault]:
    """What is wrong beyond the types, the most telling first."""
    if text := name_fault("name", recipe.name):
        yield Fault("$.name", text)
    if text := version_fault(recipe.version):
        yield Fault("$.version", text)
    if not _AGENT_VERSION.fullmatch(recipe.agent_min):
        yield Fault("$.agent_min", f"{recipe.agent_min!r} is not a version such as {AGENT_MIN}")
    files = {"data.path": recipe.data.path}
    if not recipe.in_mlflow:
        files = {"model": recipe.model} | files
    for field, name in files.items():
        if not (folder / name).is_file():
            yield Fault(f"$.{field}", f"there is no file {folder / name}")
    if Path(recipe.data.path).suffix.lower() not in {".csv", ".npz"}:
        yield Fault("$.data.path", "validation data must be a .csv or an .npz file")
    yield from _channel_faults(recipe.channels)
    if recipe.labels is not None and len(set(recipe.labels)) != len(recipe.labels):
        yield Fault("$.labels", "a label appears twice")


def _channel_faults(channels: tuple[ChannelRecipe, ...]) -> Iterator[Fault]:
    seen: set[str] = set()
    for number, channel in enumerate(channels):
        at = f"$.channels[{number}]"
        if not channel.name.strip():
            yield Fault(f"{at}.name", "a channel needs a name")
        if channel.name in seen:
            yield Fault(f"{at}.name", f"{channel.name!r} appears twice")
        seen.add(channel.name)
        low, high = channel.minimum, channel.maximum
        if low is not None and high is not None and low >= high:
            yield Fault(f"{at}.minimum", f"{low:g} is not below the maximum, {high:g}")
