"""Real, small bundles whose answers a test can work out by hand.

Every model looks only at ``m``, the mean of all values of a window plus ``bias``:

- classification: the label is the whole number nearest to ``m``, kept within the labels; its
  score is a softmax probability, near 1 close to that number and 0.5 half-way to the next.
- anomaly: the score is ``m - 1``, so a mean above 1 is anomalous.
- regression: target ``t`` (from 0) is ``m + t``.

The same arguments give the same bytes.
"""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge_agent.arrays import F32
from edge_agent.contract.bundle import pack_bundle
from edge_agent.contract.manifest import (
    INPUT_NAME,
    SCHEMA_VERSION,
    Channel,
    DecideSpec,
    Figures,
    Golden,
    Manifest,
    Output,
    Parity,
    Provenance,
    Role,
    Task,
    Variant,
    WindowSpec,
)

Metric = Literal["accuracy", "r2", "agreement"]

SHARPNESS = 8.0  # of the softmax
OPSET = 17
GOLDEN_N = 4
_ROLES: dict[Task, Role] = {"classification": "scores", "anomaly": "scores", "regression": "value"}
_METRICS: dict[Task, Metric] = {
    "classification": "accuracy",
    "anomaly": "agreement",
    "regression": "r2",
}


def make_bundle(
    *,
    name: str = "motion",
    version: str = "1.0.0",
    task: Task = "classification",
    length: int = 4,
    hop: int = 1,
    rate_hz: float = 10.0,
    channels: Sequence[str | Channel] = ("a", "b"),
    labels: Sequence[str] | None = None,
    targets: int = 1,
    bias: float = 0.0,
    decide: DecideSpec | None = None,
    label_output: bool = False,
    agent_min: str = "0.1.0",
    wrong_golden: bool = False,
    padding: int = 0,
) -> bytes:
    """The bytes of a bundle file.

    Args:
        labels: by default ("rest", "move"), ("normal", "anomaly") for anomaly, none for regression.
        targets: regression only: width of the value.
        label_output: also give the label as an output of its own.
        wrong_golden: the golden answers are not those of the model.
        padding: bytes to add, incompressible, so that a bundle has many different chunks.
    """
    if labels is None:
        labels = {"anomaly": ("normal", "anomaly"), "regression": ()}.get(task, ("rest", "move"))
    width = {"classification": len(labels), "anomaly": 1, "regression": targets}[task]
    weights, offsets = _linear(task, length * len(channels), width, bias)
    windows = _golden_windows(length, len(channels))
    answers: F32 = _answers(task, windows, weights, offsets)
    outputs = [Output(name=_ROLES[task], role=_ROLES[task], width=width)]
    golden: dict[str, NDArray[Any]] = {
        INPUT_NAME: windows,
        _ROLES[task]: answers + 1 if wrong_golden else answers,
    }
    if label_output:
        outputs.append(Output(name="label", role="label", width=1))
        golden["label"] = (
            (answers[:, 0] > 0).astype(np.int64) if task == "anomaly" else answers.argmax(axis=1)
        )
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        version=version,
        task=task,
        labels=tuple(labels),
        channels=tuple(Channel(name=c) if isinstance(c, str) else c for c in channels),
        window=WindowSpec(length=length, hop=hop, rate_hz=rate_hz),
        outputs=tuple(outputs),
        decide=decide or DecideSpec(),
        variants=(_variant(task),),
        golden=Golden(count=GOLDEN_N, atol=1e-5, rtol=1e-4),
        opsets={"": OPSET},
        agent_min=agent_min,
        provenance=Provenance(model_sha256="0" * 64, data_sha256="0" * 64, estimator="Linear"),
        files={},
    )
    members = {
        "model.onnx": _onnx(
            task, (length, len(channels)), weights, offsets, label_output=label_output
        ),
        "golden.npz": _npz(golden),
        "reference.json": b"{}",
        "report.json": msgspec.json.encode({"padding": random.Random(0).randbytes(padding)}),
    }
    return pack_bundle(manifest, members)


def _linear(task: Task, inputs: int, width: int, bias: float) -> tuple[F32, F32]:
    """Weights (inputs, width) and offsets (width,) of the rules in the module's docstring.

    For classification: of all k, ``k m - k^2 / 2`` is largest for the one nearest to ``m``.
    """
    steps = np.arange(width, dtype=np.float64)
    if task == "classification":
        slope, start = SHARPNESS * steps, SHARPNESS * (steps * bias - steps**2 / 2)
    else:
        slope = np.ones(width)
        start = steps + bias - (1.0 if task == "anomaly" else 0.0)
    weights = np.tile(slope / inputs, (inputs, 1))
    return weights.astype(np.float32), start.astype(np.float32)


def _golden_windows(length: int, channels: int) -> F32:
    return (
        np.random.default_rng(0).normal(0.7, 0.5, (GOLDEN_N, length, channels)).astype(np.float32)
    )


def _answers(task: Task, windows: F32, weights: F32, offsets: F32) -> F32:
    """What the model must give, worked out without the model."""
    linear = windows.reshape(len(windows), -1).astype(np.float64) @ weights + offsets
    if task != "classification":
        return linear.astype(np.float32)
    powers = np.exp(linear - linear.max(axis=1, keepdims=True))
    scores: F32 = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return scores


def _onnx(
    task: Task, window: tuple[int, int], weights: F32, offsets: F32, *, label_output: bool
) -> bytes:
    """The graph: flatten, multiply, add, and what the task asks for."""
    role = _ROLES[task]
    linear = "linear" if task == "classification" else role
    nodes = [
        helper.make_node("Flatten", [INPUT_NAME], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["product"]),
        helper.make_node("Add", ["product", "offsets"], [linear]),
    ]
    if task == "classification":
        nodes.append(helper.make_node("Softmax", [linear], [role], axis=1))
    outputs = [helper.make_tensor_value_info(role, TensorProto.FLOAT, ["N", weights.shape[1]])]
    constants: dict[str, NDArray[Any]] = {"weights": weights, "offsets": offsets}
    if label_output:
        outputs.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]))
        nodes += _label_nodes(task)
    if label_output and task == "anomaly":
        constants |= {"border": np.zeros(1, np.float32), "flat_shape": np.array([-1])}
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", *window])],
        outputs,
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    model: ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _label_nodes(task: Task) -> list[NodeProto]:
    """From ``scores`` to an int64 ``label`` of shape (N,)."""
    if task == "classification":
        return [helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0)]
    return [
        helper.make_node("Greater", ["scores", "border"], ["above"]),
        helper.make_node("Cast", ["above"], ["column"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["column", "flat_shape"], ["label"]),
    ]


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An NPZ file; numpy writes no time stamps, so the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _variant(task: Task) -> Variant:
    """A chosen variant with round figures; nothing was measured."""
    return Variant(
        name="float32",
        chosen=True,
        why="the only one",
        figures=Figures(file_bytes=500, load_ms=1.0, rss_bytes=100_000, p50_us=3.0, p99_us=9.0),
        parity=Parity(
            windows=GOLDEN_N,
            metric=_METRICS[task],
            original=1.0,
            converted=1.0,
            label_flips=0,
            score_error_max=0.0,
            score_error_mean=0.0,
        ),
    )
