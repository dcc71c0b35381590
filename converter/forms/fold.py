"""A scaler folded into the linear layer behind it, for the float form only.

``((x - m) / s) W + b`` is ``x (W / s) + (b - (m / s) W)``: two to six nodes less on every reading.
The products are made in float64. An int8 form keeps the scaler apart, because weights of very
different size do not fit one integer scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

F64 = NDArray[np.float64]

_STEPS: Final = frozenset({"Sub", "Add", "Mul", "Div"})


def fold_scalers(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with scalers folded into the Gemm or MatMul behind them; itself without any.

    The sum of a large offset and its large counterpart loses digits: whoever takes the result
    must compare its answers.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    folder = _Folder(copy)
    layers = [node for node in copy.graph.node if node.op_type in {"Gemm", "MatMul"}]
    if not sum(folder.fold(layer) for layer in layers):
        return graph
    folder.sweep()
    onnx.checker.check_model(copy, full_check=True)
    return copy


class _Folder:
    """Folds into the layers of one graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = graph = model.graph
        self._constants: Mapping[str, NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
        self._types = {
            info.name: (info.type.tensor_type.elem_type, len(info.type.tensor_type.shape.dim))
            for info in inferred
        }
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers = Counter(name for node in graph.node for name in node.input)
        self._readers.update(output.name for output in graph.output)

    def fold(self, layer: onnx.NodeProto) -> bool:
        """Fold what stands before one layer; False when nothing does."""
        weights = self._weights(layer)
        if weights is None:
            return False
        steps, x = self._steps_before(layer.input[0])
        if not steps or self._types.get(x) != (TensorProto.FLOAT, 2):
            return False
        scale, offset = np.ones(len(weights)), np.zeros(len(weights))
        for op, value in steps:
            if value.size not in {1, len(weights)}:
                return False
            scale, offset = _after(op, value.ravel().astype(np.float64), scale, offset)
        bias = self._bias(layer, weights.shape[1])
        if bias is None:
            return False
        parts = (weights * scale[:, None], bias + offset @ weights)
        with np.errstate(over="ignore"):
            single = [part.astype(np.float32) for part in parts]
        if not all(np.isfinite(part).all() for part in single):
            return False
        names = [f"{layer.name}_weights", f"{layer.name}_bias"]
        for name, part in zip(names, single, strict=True):
            self._graph.initializer.append(numpy_helper.from_array(part, name))
        folded = helper.make_node("Gemm", [x, *names], list(layer.output), name=layer.name)
        layer.CopyFrom(folded)
        return True

    def sweep(self) -> None:
        """Remove the nodes and constants that nothing reads any more."""
        wanted = {output.name for output in self._graph.output}
        kept = []
        for node in reversed(self._graph.node):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        tensors = [tensor for tensor in self._graph.initializer if tensor.name in wanted]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(kept[::-1])
        self._graph.initializer.extend(tensors)

    def _steps_before(self, name: str) -> tuple[list[tuple[str, F64]], str]:
        """Elementwise steps with constants that lead to a tensor, in order, and their input."""
        steps: list[tuple[str, F64]] = []
        while (node := self._makers.get(name)) is not None and self._readers[name] == 1:
            if node.op_type == "Cast":
                name = node.input[0]
                continue
            value = self._constants.get(node.input[1]) if node.op_type in _STEPS else None
            if value is None:
                break
            steps.append((node.op_type, np.asarray(value, np.float64)))
            name = node.input[0]
        return steps[::-1], name

    def _weights(self, layer: onnx.NodeProto) -> F64 | None:
        """Weights (inputs, outputs) of a layer on rows; None for another product."""
        weights = self._constants.get(layer.input[1])
        settings = {entry.name: helper.get_attribute_value(entry) for entry in layer.attribute}
        plain = settings.get("alpha", 1) == settings.get("beta", 1) == 1
        if weights is None or weights.ndim != 2 or not plain or settings.get("transA"):
            return None
        weights = weights.T if settings.get("transB") else weights
        return weights.astype(np.float64)

    def _bias(self, layer: onnx.NodeProto, width: int) -> F64 | None:
        """The bias (outputs,) of a layer; None when it is computed or of another shape."""
        if len(layer.input) < 3 or not layer.input[2]:
            return np.zeros(width)
        bias = self._constants.get(layer.input[2])
        if bias is None or bias.size not in {1, width}:
            return None
        return np.broadcast_to(bias.ravel().astype(np.float64), (width,))


def _after(op: str, value: F64, scale: F64, offset: F64) -> tuple[F64, F64]:
    """``x * scale + offset`` after one more step."""
    if op == "Mul":
        return scale * value, offset * value
    if op == "Div":
        return scale / value, offset / value
    return scale, offset + value if op == "Add" else offset - value
