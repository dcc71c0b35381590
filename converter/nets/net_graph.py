"""A network's graph on the contract's terms: one window in, scores out, state beside them.

Only operators whose meaning is the same in all versions of the operator set are added, so that a
network may keep the version that its exporter wrote and tested.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper, version_converter

from converter.lowering.graph import IR_VERSION
from converter.nets.net_inputs import Feed, Inputs
from converter.nets.net_outputs import Answer
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import INPUT_NAME, State

OPSET_MIN: Final = 13  # the first in which every layer can be quantized
_NET: Final = "net/"  # begins the names of the network's own tensors
_EDGE: Final = "edge/"  # of those that are added here
FATAL_ONLY: Final = 4
_GROWTH_MAX: Final = 1.25  # of the file, by folding
_LAYERS: Final = frozenset({"Conv", "Gemm", "MatMul"})


def upgraded(network: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in an operator set in which it can be quantized.

    Raises:
        ConfigError: it cannot be; it may be run as it is.
    """
    try:
        return version_converter.convert_version(network, OPSET_MIN)
    # onnx's converter raises whatever its C++ meets, mostly RuntimeError.
    except Exception as exc:
        raise ConfigError(f"its operators cannot be upgraded: {exc}") from exc


def opset_of(network: onnx.ModelProto) -> int:
    """The version of the standard operator set that a network is written in."""
    return next((o.version for o in network.opset_import if o.domain in {"", "ai.onnx"}), 1)


def wrap(
    network: onnx.ModelProto, inputs: Inputs, answer: Answer, *, window: tuple[int, int]
) -> tuple[onnx.ModelProto, tuple[State, ...]]:
    """Put a network between the window and the outputs of a bundle.

    Args:
        network: complete, without external data.
        inputs: what its inputs take; the batch stays open where all of them allow it.
        answer: what its output means.
        window: (length, channels).

    Returns:
        The model, and the states under the names that they have in it.

    Raises:
        ConfigError: the result is no valid model.
    """
    inner = inliner.inline_local_functions(network)
    _prefix(inner.graph)
    states = tuple(
        State(input=_NET + s.input, output=_NET + s.output, shape=s.shape, dtype=s.dtype)
        for s in inputs.states
    )
    writer = _Writer({name: inputs.constants[name] for name in inputs.constants})
    for feed in inputs.feeds:
        _write_feed(writer, feed, window, batched=inputs.batched)
    writer.copy(node for node in inner.graph.node if node.op_type != "ZipMap")
    _write_answer(writer, answer)
    batch = "N" if inputs.batched else 1
    output = answer.output
    graph = helper.make_graph(
        writer.nodes,
        "model",
        [_info(INPUT_NAME, "float32", (batch, *window))]
        + [_info(state.input, state.dtype, state.shape) for state in states],
        [_info(output.name, "float32", (batch, output.width))]
        + [_info(state.output, state.dtype, state.shape) for state in states],
        [*inner.graph.initializer, *writer.constants],
        sparse_initializer=list(inner.graph.sparse_initializer),
    )
    model = helper.make_model(
        graph,
        opset_imports=list(inner.opset_import),
        ir_version=max(IR_VERSION, network.ir_version),
    )
    if len(_all_nodes(model.graph)) > len(model.graph.node):
        _require_loadable(model)
    return _checked(model), states


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with constants folded and BatchNormalization in the convolution before it.

    onnxruntime does the same when it loads a model; done once here, it shortens every start, and
    the quantizer sees the layers as they will run. Only standard operators come out.

    Raises:
        ConfigError: onnxruntime cannot load the model.
    """
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        options = ort.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder, "folded.onnx"))
        data = model.SerializeToString(deterministic=True)
        try:
            ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # onnxruntime's exceptions share no base class
            raise ConfigError(f"onnxruntime cannot load it: {first_line(exc)}") from exc
        result = onnx.load(options.optimized_model_filepath)
    used = {_domain(node.domain) for node in _all_nodes(result.graph)} | {""}
    kept = [entry for entry in result.opset_import if _domain(entry.domain) in used]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    del result.metadata_props[:]
    return result if result.ByteSize() <= _GROWTH_MAX * len(data) else model


def named(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Give every node a name; those that are no layers of the network with weights come back."""
    fixed = {t.name for t in model.graph.initializer if not t.name.startswith(_EDGE)}
    keep = []
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
        if node.op_type not in _LAYERS or not fixed.intersection(node.input[1:2]):
            keep.append(node.name)
    return model, tuple(keep)


def first_line(exc: Exception) -> str:
    """What a library's exception says, in one line."""
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__


class _Writer:
    """The nodes of the whole model in their order.

    Args:
        constants: values of inputs of the network that never change.
    """

    def __init__(self, constants: Mapping[str, NDArray[Any]]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants = [
            numpy_helper.from_array(value, _NET + name) for name, value in constants.items()
        ]

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        name = f"{_EDGE}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def copy(self, nodes: Any) -> None:
        """Take over nodes as they are."""
        self.nodes.extend(nodes)

    def name(self, tensor: str, name: str) -> None:
        """Give a tensor a second name."""
        self.nodes.append(helper.make_node("Identity", [tensor], [name]))

    def number(self, value: float) -> str:
        """The name of a float32 constant."""
        return self._constant(np.array([value], np.float32))

    def mean(self, count: int) -> str:
        """The name of a column (count, 1) by which a product is the mean."""
        return self._constant(np.full((count, 1), 1 / count, np.float32))

    def integers(self, *values: int) -> str:
        """The name of an int64 vector."""
        return self._constant(np.array(values, np.int64))

    def reshape(self, tensor: str, *shape: int) -> str:
        """``tensor`` in another shape; 0 keeps an axis, -1 takes what is left."""
        return self.add("Reshape", tensor, self.integers(*shape))

    def cast(self, tensor: str, dtype: np.dtype[Any]) -> str:
        """``tensor`` as another element type."""
        return self.add("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(dtype))

    def _constant(self, value: NDArray[Any]) -> str:
        name = f"{_EDGE}c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _write_feed(writer: _Writer, feed: Feed, window: tuple[int, int], *, batched: bool) -> None:
    """From the window to one input, as :meth:`~converter.nets.net_inputs.Feed.array` does it."""
    tensor = INPUT_NAME
    shape: tuple[int, ...] = window
    if feed.channels is not None:
        tensor = writer.add("Gather", tensor, writer.integers(*feed.channels), axis=2)
        shape = (shape[0], len(feed.channels))
    if feed.layout == "channels_first":
        tensor = writer.add("Transpose", tensor, perm=[0, 2, 1])
        shape = shape[::-1]
    if feed.shape != (1, *shape):
        first = (0,) if batched else feed.shape[:1]
        tensor = writer.reshape(tensor, *first, *feed.shape[1:])
    if feed.dtype != np.float32:
        tensor = writer.cast(tensor, feed.dtype)
    writer.name(tensor, _NET + feed.name)


def _write_answer(writer: _Writer, answer: Answer) -> None:
    """From the network's output to that of the bundle."""
    tensor = writer.cast(_NET + answer.tensor, np.dtype(np.float32))
    if not answer.is_row:
        tensor = writer.reshape(tensor, -1, answer.width)
    if answer.echo is not None:
        given = writer.cast(_NET + answer.echo.name, np.dtype(np.float32))
        given = given if answer.is_row else writer.reshape(given, -1, answer.width)
        error = writer.add("Sub", tensor, given)
        # The mean as a product: ReduceMean names its axes differently from version to version.
        tensor = writer.add("MatMul", writer.add("Mul", error, error), writer.mean(answer.width))
    tensor = answer.write(writer.add, writer.number, tensor)
    writer.name(tensor, answer.output.name)


def _prefix(graph: onnx.GraphProto) -> None:
    """Put :data:`_NET` before every tensor's name; graphs in nodes use names of those around."""
    for node in graph.node:
        node.input[:] = [_NET + name if name else "" for name in node.input]
        node.output[:] = [_NET + name if name else "" for name in node.output]
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                _prefix(inner)
    for thing in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        thing.name = _NET + thing.name
    for sparse in graph.sparse_initializer:
        sparse.values.name = _NET + sparse.values.name


def _info(name: str, dtype: str, shape: tuple[int | str, ...]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """Refuse what is no valid model."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as exc:
        raise ConfigError(f"its graph is not valid: {first_line(exc)}") from exc
    return model


def _require_loadable(model: onnx.ModelProto) -> None:
    """Refuse a model with inner graphs on which onnxruntime itself dies, tried in a child process.

    Seen where a condition is constant and both of its branches carry a state.
    """
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model.SerializeToString())
        code = "import sys, onnxruntime as ort; ort.InferenceSession(sys.argv[1])"
        tried = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, check=False
        )
    if tried.returncode < 0:
        raise ConfigError(
            f"onnxruntime dies on its inner graphs (signal {-tried.returncode}): export it "
            "without If, for the one case that the device needs"
        )


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a graph and of the graphs in its nodes."""
    found = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found += _all_nodes(inner)
    return found


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
