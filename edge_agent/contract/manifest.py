"""The manifest of a bundle: everything that the device would otherwise have to decide.

Unknown fields are accepted, so that an older agent can read a newer manifest far enough to
refuse it with a reason (``schema_version``, ``agent_min``).
"""

from __future__ import annotations

import math
from typing import Final, Literal

import msgspec

from edge_agent.contract.errors import BundleError
from edge_agent.contract.names import is_sha256, name_fault, version_fault

SCHEMA_VERSION: Final = 1
INPUT_NAME: Final = "window"

STATE_BYTES_MAX: Final = 64 * 1024 * 1024  # of all states of a model
_STATE_ITEM_BYTES: Final = 8  # of the widest type

Task = Literal["classification", "regression", "anomaly"]
Role = Literal["scores", "label", "value"]
StateType = Literal["float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool"]


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a reading.

    Attributes:
        name: as the source and the recording call it.
        unit: as printed, e.g. ``"g"`` or ``"degC"``; for people, never converted.
        minimum: smallest plausible value in ``unit``; None for no bound.
        maximum: largest plausible value in ``unit``; None for no bound.
        on_missing: NaN or infinite: ``hold`` repeats the last good value (until there is one, the
            reading is skipped); ``skip`` leaves the whole reading out of the window.
        on_range: outside the bounds: ``keep`` uses it, ``clip`` moves it to the bound, ``missing``
            treats it as missing. It is counted in every case.
    """

    name: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    on_missing: Literal["hold", "skip"] = "hold"
    on_range: Literal["keep", "clip", "missing"] = "keep"


class WindowSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How readings become model inputs.

    Attributes:
        length: readings in a window; 1 means that every reading is decided alone.
        hop: readings between two windows.
        rate_hz: readings per second that the model was trained on.
    """

    length: int
    hop: int
    rate_hz: float


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One output tensor of ``model.onnx``; the first axis is the batch.

    Roles: ``scores`` float32 (N, classes) for classification, or float32 (N, 1) for anomaly, where
    above 0 is anomalous; ``label`` int64 (N,), an index into ``labels``, present only where it is
    not the argmax of ``scores`` (or, for anomaly, not ``scores > 0``); ``value`` float32
    (N, targets) for regression.
    """

    name: str
    role: Role
    width: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor that a recurrent model hands from one window to the next; zeros at the start.

    It is zeroed again whenever the next window does not follow the one before: after an outage of
    the source, with a new model, between two recordings, before the golden vectors.

    Attributes:
        input: name of the input tensor.
        output: name of the output tensor, whose value is the next window's input.
        shape: of both, every axis fixed; the model runs at batch 1.
        dtype: of both.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    dtype: StateType = "float32"


class DecideSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How scores become a stable state; see :mod:`edge_agent.decide` for the exact rules.

    Attributes:
        threshold: classification: the smallest score that a label needs; anomaly and regression:
            the border of the score or value.
        hysteresis: how far beyond the threshold the score must return before the state is left,
            in the unit of the score.
        debounce: windows in a row that must agree before the state changes.
        cooldown_s: seconds after a firing in which nothing fires again.
        direction: regression only: which side of the threshold is active.
        fire_on: states that fire actions; empty means every change of state.
    """

    threshold: float = 0.0
    hysteresis: float = 0.0
    debounce: int = 1
    cooldown_s: float = 0.0
    direction: Literal["above", "below"] = "above"
    fire_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.hysteresis < 0:
            raise ValueError("hysteresis must not be negative")
        if self.debounce < 1:
            raise ValueError("debounce must be at least 1 window")
        if self.cooldown_s < 0:
            raise ValueError("cooldown_s must not be negative")


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one variant on the building machine, in a child process.

    Attributes:
        file_bytes: size of the ONNX file.
        load_ms: time to create the session.
        rss_bytes: growth of resident memory from before loading to after the first inference.
        p50_us: median of one inference at batch 1, one thread, rotating windows.
        p99_us: 99th percentile of the same.
    """

    file_bytes: int
    load_ms: float
    rss_bytes: int
    p50_us: float
    p99_us: float


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """A variant against the original model on the validation windows.

    Attributes:
        windows: validation windows compared.
        metric: ``accuracy``, ``r2`` or, for anomaly, ``agreement``.
        original: the metric of the original model.
        converted: the metric of this variant.
        label_flips: windows on which the two labels differ.
        score_error_max: largest absolute difference of scores or values.
        score_error_mean: mean absolute difference of scores or values.
    """

    windows: int
    metric: Literal["accuracy", "r2", "agreement"]
    original: float
    converted: float
    label_flips: int
    score_error_max: float
    score_error_mean: float


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate form of the model, and why it was chosen or not."""

    name: str
    chosen: bool
    why: str
    figures: Figures
    parity: Parity


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """How ``golden.npz`` is to be compared: ``|got - want| <= atol + rtol * |want|``.

    Arrays: ``window`` float32 (count, length, channels), and one array for each output by its
    name, made by the *original* model. Labels must be equal. They are run in order; of a model
    with states they are consecutive windows of one recording, from its start.
    """

    count: int
    atol: float
    rtol: float


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bundle came from."""

    model_sha256: str
    data_sha256: str
    estimator: str
    packages: dict[str, str] = {}


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Size and digest of one member of the bundle."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest.json``: one model, ready to run. Units and meanings are in the parts' docs."""

    schema_version: int
    name: str
    version: str
    task: Task
    labels: tuple[str, ...] = ()
    channels: tuple[Channel, ...]
    window: WindowSpec
    outputs: tuple[Output, ...]
    states: tuple[State, ...] = ()
    decide: DecideSpec
    variants: tuple[Variant, ...]
    golden: Golden
    opsets: dict[str, int]
    agent_min: str
    provenance: Provenance
    files: dict[str, FileEntry]

    @property
    def chosen(self) -> Variant:
        """The variant that ``model.onnx`` holds; its figures are the memory and load forecast."""
        return next(variant for variant in self.variants if variant.chosen)

    def output(self, role: Role) -> Output | None:
        """The output tensor with this role, if the model has one."""
        return next((output for output in self.outputs if output.role == role), None)


class _Schema(msgspec.Struct):
    schema_version: int


def decode_manifest(data: bytes) -> Manifest:
    """Read ``manifest.json`` and check what the types cannot say.

    Raises:
        BundleError: not a manifest, of a newer schema, or contradicting itself.
    """
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema_version
        if schema > SCHEMA_VERSION:
            raise BundleError(
                f"the bundle has schema {schema}, this version reads up to {SCHEMA_VERSION}: "
                "update the agent first"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BundleError(f"manifest.json: {exc}") from exc
    if fault := _fault(manifest):
        raise BundleError(f"manifest.json: {fault}")
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """Write ``manifest.json``: indented, keys sorted, the same bytes for the same values.

    Raises:
        BundleError: the manifest contradicts itself.
    """
    if fault := _fault(manifest):
        raise BundleError(f"manifest.json: {fault}")
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"


def _fault(manifest: Manifest) -> str | None:
    """The first contradiction in a manifest, or None."""
    spec = manifest.window
    names = [channel.name for channel in manifest.channels]
    checks = (
        (name_fault("name", manifest.name), None),
        (version_fault(manifest.version), None),
        (not names, "there are no channels"),
        (len(set(names)) != len(names), "a channel name appears twice"),
        (spec.length < 1, "window.length must be at least 1 reading"),
        (spec.hop < 1, "window.hop must be at least 1 reading"),
        (not spec.rate_hz > 0, "window.rate_hz must be above 0"),
        (sum(variant.chosen for variant in manifest.variants) != 1, "not one variant is chosen"),
        (
            not all(is_sha256(f.sha256) for f in manifest.files.values()),
            "a file digest is malformed",
        ),
        (_task_fault(manifest), None),
        (_state_fault(manifest), None),
    )
    for found, text in checks:
        if found:
            return text or str(found)
    return None


def _task_fault(manifest: Manifest) -> str | None:
    """What contradicts the task: labels and outputs must fit it."""
    scores, value = manifest.output("scores"), manifest.output("value")
    if manifest.task == "regression":
        return None if value and not manifest.labels else "regression needs a value and no labels"
    if scores is None:
        return f"{manifest.task} needs an output with the role 'scores'"
    if manifest.task == "anomaly":
        fits = len(manifest.labels) == 2 and scores.width == 1
        return None if fits else "anomaly needs 2 labels (normal first) and 1 score"
    fits = len(manifest.labels) == scores.width >= 2
    return None if fits else "classification needs one score for each of at least 2 labels"


def _state_fault(manifest: Manifest) -> str | None:
    """What is wrong with the states: each is a pair of its own, of a bounded size."""
    states = manifest.states
    names = [name for state in states for name in (state.input, state.output)]
    names += [INPUT_NAME, *(output.name for output in manifest.outputs)]
    if len(set(names)) != len(names):
        return "a tensor has two roles: each state needs an input and an output of its own"
    if any(axis < 1 for state in states for axis in state.shape):
        return "an axis of a state is not at least 1"
    total = sum(math.prod(state.shape) * _STATE_ITEM_BYTES for state in states)
    if total > STATE_BYTES_MAX:
        return f"the states take up to {total} bytes, {STATE_BYTES_MAX} are allowed"
    return None
