"""The int8 forms of a float32 graph: the converter's only importer of onnxruntime's quantizer.

No form wins everywhere, so several are built. *Static* forms calibrate the range of every tensor
beforehand: from the smallest to the largest value, or narrower, by the entropy or by percentiles
of what was seen. *Dynamic* forms measure it in each inference. A weight has one scale a tensor, or
one a channel. *Mixed* keeps the layers in float that int8 harms most. Activations and weights are
signed, which is what onnxruntime's integer kernels take without a detour.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from converter.data import spread
from converter.forms.absent import AbsentForm
from edge_agent.arrays import F32
from edge_agent.contract.manifest import INPUT_NAME

CALIBRATION_N: Final = 256
MIXED_LAYERS_MAX: Final = 12
_MIXED_ERROR_SHARE: Final = 0.5
_OPERATORS: Final = ("MatMul", "Gemm", "Conv")
_KERNELS: Final = frozenset({
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "QGemm", "QLinearConv", "QLinearMatMul",
})  # fmt: skip
_TREES: Final = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})
_FATAL_ONLY: Final = 4


@dataclass(frozen=True)
class Layers:
    """What an int8 form may replace.

    Attributes:
        graph: the float32 model.
        names: of the matrix products and convolutions that may become int8.
        calibration: windows (n, length, channels) that stand for all.
    """

    graph: onnx.ModelProto
    names: tuple[str, ...]
    calibration: F32

    @classmethod
    def of(cls, graph: onnx.ModelProto, keep_float: Sequence[str], windows: F32) -> Layers:
        """The layers of a graph, but for the nodes that stay in float, such as scalers."""
        names = tuple(
            node.name
            for node in graph.graph.node
            if node.op_type in _OPERATORS and node.name not in keep_float
        )
        names = () if _carries_state(graph) else names
        return cls(graph, names, windows[spread(len(windows), CALIBRATION_N)])

    def why_none(self) -> str:
        """Why there is no int8 form, as a sentence; empty when there are layers."""
        if _carries_state(self.graph):
            return (
                "The model carries state from window to window, in which the errors of int8 "
                "would add up."
            )
        if self.names:
            return ""
        if any(node.op_type in _TREES for node in self.graph.graph.node):
            return (
                "The model is made of decision trees, which compare and add: int8 has no use there."
            )
        return "The model has no matrix product or convolution that int8 could speed up."


def int8_form(layers: Layers, form: str) -> bytes:
    """Build one int8 form.

    Args:
        layers: what may be replaced.
        form: a name out of :data:`INT8_FORMS`.

    Raises:
        AbsentForm: it cannot be built, or onnxruntime would compute in float all the same; the
            message is a sentence for the report.
    """
    try:
        model = INT8_FORMS[form](layers)
        integer = _integer_kernels(model)
    except AbsentForm:
        raise
    except Exception as exc:  # the quantizer raises whatever it meets
        first_line = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise AbsentForm(f"onnxruntime's quantizer failed on this graph: {first_line}") from exc
    if not integer:
        raise AbsentForm(
            "onnxruntime would compute in float all the same, so this form is no int8."
        )
    return model


def _static(layers: Layers, method: CalibrationMethod, *, per_channel: bool) -> bytes:
    def quantize(model: onnx.ModelProto, path: Path) -> None:
        quantize_static(
            model,
            path,
            _Reader(layers),
            nodes_to_quantize=list(layers.names),
            calibrate_method=method,
            per_channel=per_channel,
        )

    return _quantized(layers.graph, quantize)


def _dynamic(layers: Layers, *, per_channel: bool) -> bytes:
    # The quantizer first turns Gemm X into MatMul X_MatMul and Add X_Add.
    products = [f"{name}_MatMul" for name in layers.names]

    def quantize(model: onnx.ModelProto, path: Path) -> None:
        chosen = [*layers.names, *products]
        quantize_dynamic(model, path, nodes_to_quantize=chosen, per_channel=per_channel)

    return _quantized(layers.graph, quantize)


def _mixed(layers: Layers) -> bytes:
    """As few of the most sensitive layers in float as halve the error of int8."""
    if not 2 <= len(layers.names) <= MIXED_LAYERS_MAX:
        raise AbsentForm(
            f"It weighs the layers one by one; the model has {len(layers.names)} that int8 could "
            f"replace, between 2 and {MIXED_LAYERS_MAX} are tried."
        )
    wanted = _answers(layers.graph.SerializeToString(), layers)

    def error(names: Sequence[str]) -> float:
        some = replace(layers, names=tuple(names))
        got = _answers(_static(some, CalibrationMethod.MinMax, per_channel=True), some)
        return float(np.mean(np.abs(got - wanted)))

    alone = {name: error([name]) for name in layers.names}
    calm = sorted(alone, key=lambda name: alone[name])
    target = error(layers.names) * _MIXED_ERROR_SHARE
    for count in range(len(calm) - 1, 0, -1):
        if error(calm[:count]) <= target:
            chosen = replace(layers, names=tuple(calm[:count]))
            return _static(chosen, CalibrationMethod.MinMax, per_channel=True)
    raise AbsentForm("No choice of layers kept in float makes int8 markedly more exact.")


INT8_FORMS: Final[Mapping[str, Callable[[Layers], bytes]]] = {
    "int8-static": partial(_static, method=CalibrationMethod.MinMax, per_channel=False),
    "int8-dynamic": partial(_dynamic, per_channel=False),
    "int8-static-channel": partial(_static, method=CalibrationMethod.MinMax, per_channel=True),
    "int8-static-entropy": partial(_static, method=CalibrationMethod.Entropy, per_channel=True),
    "int8-static-percentile": partial(
        _static, method=CalibrationMethod.Percentile, per_channel=True
    ),
    "int8-dynamic-channel": partial(_dynamic, per_channel=True),
    "int8-mixed": _mixed,
}
"""Builders by the name of the form, the most promising first."""


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Feeds the calibration windows."""

    def __init__(self, layers: Layers) -> None:
        self._batches = iter([{INPUT_NAME: windows} for windows in _batches(layers)])

    def get_next(self) -> dict[str, F32] | None:
        """The next batch, or None when all are done."""
        return next(self._batches, None)


def _carries_state(graph: onnx.ModelProto) -> bool:
    """The window is the only input of a graph without state."""
    return len(graph.graph.input) > 1


def _batches(layers: Layers) -> Sequence[F32]:
    """The calibration windows as the graph takes them: all at once, or one by one."""
    batch = layers.graph.graph.input[0].type.tensor_type.shape.dim[0]
    windows = layers.calibration
    return [windows] if batch.dim_param else np.split(windows, len(windows))


def _quantized(graph: onnx.ModelProto, quantize: Callable[[onnx.ModelProto, Path], None]) -> bytes:
    """Run one quantizer on a copy of the graph: it changes what it is given."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    add_pre_process_metadata(copy)  # it is lowered already; this spares a warning that it is not
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        path = Path(folder) / "model.onnx"
        with redirect_stdout(io.StringIO()):  # calibration prints what it does
            quantize(copy, path)
        return path.read_bytes()


def _integer_kernels(model: bytes) -> int:
    """How many of the operators that onnxruntime will run compute with integers.

    The file alone does not tell: a static form is float operators between QuantizeLinear and
    DequantizeLinear, which become integer kernels only where onnxruntime can fuse them.
    """
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        path = Path(folder) / "optimized.onnx"
        _session(model, path)
        optimized = onnx.load(path)
    return sum(node.op_type in _KERNELS for node in optimized.graph.node)


def _answers(model: bytes, layers: Layers) -> NDArray[np.float64]:
    """The scores or values of the calibration windows; a label has no distance."""
    session = _session(model)
    names = [node.name for node in session.get_outputs() if node.type == "tensor(float)"]
    rows = []
    for windows in _batches(layers):
        found = session.run(names, {INPUT_NAME: windows})
        rows.append(np.concatenate([np.asarray(part, np.float64) for part in found], axis=1))
    return np.concatenate(rows)


def _session(model: bytes, optimized: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = 1
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
