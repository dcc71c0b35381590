"""A small builder for ONNX graphs: the only way in which this package writes nodes.

Every tensor is float32 unless said otherwise, and every first axis is the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike
from onnx import TensorProto, helper, numpy_helper

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import INPUT_NAME, Output

OPSETS: Final = {"": 18, "ai.onnx.ml": 3}
IR_VERSION: Final = 9
ML: Final = "ai.onnx.ml"
_OUTPUT_TYPES: Final = {
    "scores": TensorProto.FLOAT,
    "value": TensorProto.FLOAT,
    "label": TensorProto.INT64,
}


class Graph:
    """A graph under construction.

    Attributes:
        nodes: in topological order.
        dense: names of the nodes that an int8 form may replace (the layers of linear models and
            neural networks). Every other node must stay float.
        tensors: the constants.
        tensors: the constants.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.dense: set[str] = set()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.tensors: list[onnx.TensorProto] = []
        self._count = 0

    def constant(self, value: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        """The name of a constant tensor; equal constants are stored once.

        Raises:
            ConfigError: a finite value is too large for ``dtype``.
        """
        with np.errstate(over="ignore"):
            array = np.asarray(value).astype(dtype)
        if array.dtype.kind == "f" and not np.array_equal(np.isinf(array), np.isinf(value)):
            raise ConfigError(
                "a parameter of the model is beyond the range of float32: scale its inputs"
            )
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"c{len(self._constants)}"
            self.tensors.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def add(
        self, op: str, *inputs: str, domain: str = "", dense: bool = False, **attributes: Any
    ) -> str:
        """Add a node with one output and return the output's name.

        Args:
            op: operator type, e.g. ``"MatMul"``.
            inputs: names of tensors.
            domain: ``""`` or :data:`ML`.
            dense: an int8 form may replace this node.
            attributes: of the operator.
        """
        (name,) = self.add_all(op, *inputs, outputs=1, domain=domain, **attributes)
        if dense:
            self.dense.add(name)
        return name

    def add_all(
        self, op: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs; arguments as for :meth:`add`."""
        name = self.fresh(op.lower())
        names = [name, *(f"{name}_{place}" for place in range(1, outputs))]
        node = helper.make_node(op, inputs, names, name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return names

    def cast(self, x: str, dtype: DTypeLike) -> str:
        """``x`` as another element type."""
        return self.add("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def embed(self, model: onnx.ModelProto, x: str, wanted: Sequence[str]) -> list[str]:
        """Copy what another model needs to compute ``wanted`` from its one input.

        Args:
            model: a model with one input and the same opsets.
            x: takes the place of that input.
            wanted: tensors of ``model``.

        Returns:
            Their names in this graph, in the same order.
        """
        names = {"": "", model.graph.input[0].name: x}
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            names[tensor.name] = self.constant(array, array.dtype)
        for node in needed(model.graph.node, wanted):
            if node.op_type == "Identity":
                names[node.output[0]] = names[node.input[0]]
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = self.fresh(node.op_type.lower())
            copy.input[:] = [names[name] for name in node.input]
            for place, name in enumerate(node.output):
                names[name] = f"{copy.name}_{place}" if name else ""
            copy.output[:] = [names[name] for name in node.output]
            self.nodes.append(copy)
        return [names[name] for name in wanted]

    def fresh(self, stem: str) -> str:
        """A name that is not used yet."""
        self._count += 1
        return f"{stem}_{self._count}"

    def finish(
        self, outputs: Sequence[tuple[Output, str]], *, length: int, channels: int
    ) -> onnx.ModelProto:
        """The checked model.

        Args:
            outputs: each output with the tensor that it takes its value from.
            length: readings in a window.
            channels: values in a reading.

        Raises:
            ConfigError: a node is not valid; only an estimator's own ``onnx_form`` can do that.
        """
        ends = [
            helper.make_node("Identity", [tensor], [output.name], name=output.name)
            for output, tensor in outputs
        ]
        used = needed([*self.nodes, *ends], [output.name for output, _ in outputs])
        read = {name for node in used for name in node.input}
        window = helper.make_tensor_value_info(
            INPUT_NAME, TensorProto.FLOAT, ["N", length, channels]
        )
        graph = helper.make_graph(
            fuse_ends(used, {tensor: output.name for output, tensor in outputs}),
            "model",
            [window],
            [_value_info(output) for output, _ in outputs],
            [tensor for tensor in self.tensors if tensor.name in read],
        )
        model = as_model(graph)
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
            raise ConfigError(
                f"the model has no valid ONNX form: {exc}; correct onnx_form"
            ) from exc
        return model


def as_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """A model of this package's opsets."""
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def needed(nodes: Sequence[onnx.NodeProto], wanted: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that ``wanted`` depends on, in their order."""
    live = set(wanted)
    kept = []
    for node in reversed(nodes):
        if live.intersection(node.output):
            live.update(node.input)
            kept.append(node)
    return kept[::-1]


def fuse_ends(nodes: Sequence[onnx.NodeProto], ends: dict[str, str]) -> list[onnx.NodeProto]:
    """Let the last node write an output directly, instead of copying it there."""
    produced = {name for node in nodes if node.op_type != "Identity" for name in node.output}
    renamed = {tensor: end for tensor, end in ends.items() if tensor in produced}
    return list(_renamed(nodes, renamed))


def _renamed(nodes: Sequence[onnx.NodeProto], names: dict[str, str]) -> Iterator[onnx.NodeProto]:
    """Copies of the nodes with tensors renamed, without the copies that this makes idle."""
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [names.get(name, name) for name in node.input]
        copy.output[:] = [names.get(name, name) for name in node.output]
        if copy.op_type != "Identity" or list(copy.input) != list(copy.output):
            yield copy


def _value_info(output: Output) -> onnx.ValueInfoProto:
    shape: list[str | int | None] = ["N"] if output.role == "label" else ["N", output.width]
    return helper.make_tensor_value_info(output.name, _OUTPUT_TYPES[output.role], shape)
