"""Estimators without an own form: skl2onnx's graph, cut to what is needed and checked.

The only importer of skl2onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType

from converter.lowering.graph import ML, OPSETS, Graph, as_model, needed
from converter.lowering.heads import Head, class_scores, score_method, task_of
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

_PROBES: Final = 96
_SCALES: Final = (0.3, 1.0, 10.0)
_TOLERANCE: Final = 1e-3
_AGREE_MIN: Final = 0.9


def foreign_transform(step: Any, graph: Graph, x: str) -> str:
    """A transformer of scikit-learn by skl2onnx.

    Raises:
        ConfigError: skl2onnx has no form of it, or one that computes something else.
    """
    model = _convert(step, {})
    name = model.graph.output[0].name
    _require_agreement(step, model, name, lambda rows: _dense(step.transform(rows)))
    return graph.embed(model, x, [name])[0]


def _dense(values: Any) -> NDArray[Any]:
    """An array, whether the transformer gives one or a sparse matrix."""
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values)


def foreign_head(estimator: Any, graph: Graph, x: str) -> Head:
    """A classifier, regressor or outlier detector of scikit-learn by skl2onnx.

    A classifier's label is kept as an output of its own: nothing proves here that it is the
    argmax of the scores.

    Raises:
        ConfigError: skl2onnx has no form of it, or one that computes something else.
    """
    note = (f"{type(estimator).__name__}: form by skl2onnx",)
    task = task_of(estimator)
    if task == "classification":
        return _foreign_classifier(estimator, graph, x, note)
    model = _convert(estimator, {})
    if task == "anomaly":
        scores = model.graph.output[1].name
        _require_agreement(estimator, model, scores, estimator.decision_function)
        decision = graph.embed(model, x, [scores])[0]
        return Head(_columns(graph, graph.add("Neg", decision), 1), notes=note)
    value = model.graph.output[0].name
    _require_agreement(estimator, model, value, estimator.predict)
    probe = np.zeros((1, estimator.n_features_in_), dtype=np.float32)
    width = np.asarray(estimator.predict(probe)).size
    return Head(_columns(graph, graph.embed(model, x, [value])[0], width), notes=note)


def _foreign_classifier(estimator: Any, graph: Graph, x: str, note: tuple[str, ...]) -> Head:
    method = score_method(estimator)
    if method == "predict":
        raise ConfigError(
            f"{type(estimator).__name__} gives neither probabilities nor decision values: "
            "wrap it in CalibratedClassifierCV, or use soft voting"
        )
    options = {} if method == "predict_proba" else {"raw_scores": True}
    model = _convert(estimator, options)
    label, scores = (output.name for output in model.graph.output)
    for node in model.graph.node:
        if node.op_type == "ZipMap" and node.output[0] == scores:
            scores = node.input[0]
    _require_agreement(estimator, model, scores, lambda rows: class_scores(estimator, rows))
    class_label, tensor = graph.embed(model, x, [label, scores])
    count = len(estimator.classes_)
    index = _class_index(graph, class_label, np.asarray(estimator.classes_))
    return Head(_columns(graph, tensor, count), index, note)


def _class_index(graph: Graph, label: str, classes: NDArray[Any]) -> str:
    """The index of a class label, int64 (N,)."""
    flat = graph.add("Reshape", label, graph.constant([-1], np.int64))
    # scikit-learn takes float classes only where they are whole numbers.
    whole = classes.dtype.kind in "iubf"
    if whole and np.array_equal(classes, np.arange(len(classes))):
        return graph.cast(flat, np.int64)
    numbers = list(range(len(classes)))
    if whole:
        keys: dict[str, Any] = {"keys_int64s": [int(value) for value in classes]}
        flat = graph.cast(flat, np.int64)
    else:
        keys = {"keys_strings": [str(value) for value in classes]}
    return graph.add(
        "LabelEncoder", flat, domain=ML, values_int64s=numbers, default_int64=-1, **keys
    )


def _columns(graph: Graph, tensor: str, width: int) -> str:
    """The tensor as (N, width)."""
    return graph.add("Reshape", tensor, graph.constant([-1, width], np.int64))


def _convert(estimator: Any, options: Mapping[str, object]) -> onnx.ModelProto:
    """skl2onnx's graph of one estimator, whatever fails named."""
    count = getattr(estimator, "n_features_in_", None)
    if count is None:
        raise ConfigError(
            f"{type(estimator).__name__} has no ONNX form here: it transforms labels, not readings"
        )
    try:
        model: onnx.ModelProto = to_onnx(
            estimator,
            initial_types=[("x", FloatTensorType([None, count]))],
            options={id(estimator): options} if options else None,
            target_opset=dict(OPSETS),
        )
    # skl2onnx raises whatever its converters happen to raise.
    except Exception as exc:
        raise ConfigError(
            f"{type(estimator).__name__} has no ONNX form: skl2onnx says {_short(exc)}; choose "
            "another estimator, or derive a class that defines onnx_form "
            "(see converter.lowering.lower)"
        ) from exc
    return model


def _require_agreement(
    estimator: Any, model: onnx.ModelProto, tensor: str, original: Callable[[F32], Any]
) -> None:
    """Refuse a graph that answers differently on random rows of several scales.

    A guard against converters that compute something else, not a measure of precision: the build
    compares every validation window.
    """
    scales = np.repeat(_SCALES, _PROBES // len(_SCALES))[:, None]
    rows = np.random.default_rng(0).standard_normal((_PROBES, estimator.n_features_in_))
    probe = (rows * scales).astype(np.float32)
    try:
        want = np.asarray(original(probe), dtype=np.float64)
    except (ValueError, IndexError):  # some estimators take no negative values
        probe = np.abs(probe)
        want = _answers(estimator, original, probe)
    got = _run(estimator, model, tensor, probe).reshape(len(probe), -1)
    want = want.reshape(len(probe), -1)
    name = type(estimator).__name__
    if got.shape != want.shape:
        raise ConfigError(
            f"{name} has no right ONNX form: skl2onnx gives {got.shape[1]} columns, the model "
            f"{want.shape[1]}; choose another estimator"
        )
    error = np.max(np.abs(got - want) / (1.0 + np.abs(want)), axis=1)
    if np.mean(error < _TOLERANCE) < _AGREE_MIN:
        raise ConfigError(
            f"{name} has no right ONNX form: skl2onnx's answers differ by up to {error.max():.2g} "
            "from the model's; choose another estimator"
        )


def _answers(estimator: Any, original: Callable[[F32], Any], probe: F32) -> NDArray[np.float64]:
    """What the original says of rows that no value is negative in."""
    try:
        return np.asarray(original(probe), dtype=np.float64)
    except (ValueError, IndexError) as exc:
        raise ConfigError(
            f"{type(estimator).__name__} has no ONNX form here: it cannot answer random rows, so "
            f"that skl2onnx's form of it cannot be checked: {_short(exc)}"
        ) from exc


def _run(estimator: Any, model: onnx.ModelProto, tensor: str, probe: F32) -> NDArray[np.float64]:
    """One tensor of a model on the probe rows."""
    graph = Graph()
    name = graph.embed(model, "x", [tensor])[0]
    nodes = needed([*graph.nodes, helper.make_node("Identity", [name], ["y"])], ["y"])
    read = {name for node in nodes for name in node.input}
    alone = as_model(
        helper.make_graph(
            nodes,
            "probe",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", probe.shape[1]])],
            [helper.make_empty_tensor_value_info("y")],
            [constant for constant in graph.tensors if constant.name in read],
        )
    )
    try:
        session = ort.InferenceSession(
            alone.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run(["y"], {"x": probe})[0], dtype=np.float64)
    # onnxruntime's exceptions share no base but this.
    except Exception as exc:
        raise ConfigError(
            f"{type(estimator).__name__} has no working ONNX form: onnxruntime says {_short(exc)}; "
            "choose another estimator"
        ) from exc


def _short(exc: Exception) -> str:
    """The first line of a library's message, at most 200 characters."""
    text = str(exc).strip() or type(exc).__name__
    return repr(text.splitlines()[0][:200])
