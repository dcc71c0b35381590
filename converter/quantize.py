"""The int8 forms of a float32 graph: the converter's only importer of onnxruntime's quantizer.

Two forms are tried, for neither wins everywhere: *static* calibrates the range of every tensor
beforehand, *dynamic* measures it in each inference. The activations are signed, the weights
signed and one scale a tensor, which is what onnxruntime's integer kernels take without a detour.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from converter.data import spread
from edge_agent.arrays import F32
from edge_agent.contract.manifest import INPUT_NAME

CALIBRATION_N: Final = 256
_OPERATORS: Final = ("MatMul", "Gemm", "Conv")
_KERNELS: Final = frozenset({
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "QGemm", "QLinearConv", "QLinearMatMul",
})  # fmt: skip
_TREES: Final = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})
_FATAL_ONLY: Final = 4


@dataclass(frozen=True)
class Int8:
    """What became of quantization.

    Attributes:
        forms: ONNX bytes by the name of the form.
        absent: by the name of the form, a sentence that says why it does not exist.
    """

    forms: dict[str, bytes]
    absent: dict[str, str]


def int8_forms(graph: onnx.ModelProto, keep_float: tuple[str, ...], windows: F32) -> Int8:
    """Build the int8 forms of a graph. A form that cannot be built is a reason, never an error.

    Args:
        graph: the float32 model.
        keep_float: names of nodes that stay in float, such as features and scalers.
        windows: validation windows (n, length, channels); evenly spread ones of them calibrate.
    """
    names = [
        node.name
        for node in graph.graph.node
        if node.op_type in _OPERATORS and node.name not in keep_float
    ]
    if not names:
        return Int8({}, {"int8": _why_none(graph)})
    calibration = windows[spread(len(windows), CALIBRATION_N)]

    def static(model: onnx.ModelProto, path: Path) -> None:
        quantize_static(model, path, _Reader(calibration), nodes_to_quantize=names)

    def dynamic(model: onnx.ModelProto, path: Path) -> None:
        # The quantizer first turns Gemm X into MatMul X_MatMul and Add X_Add.
        products = [f"{name}_MatMul" for name in names]
        quantize_dynamic(model, path, nodes_to_quantize=names + products)

    forms: dict[str, bytes] = {}
    absent: dict[str, str] = {}
    for name, quantize in (("int8-static", static), ("int8-dynamic", dynamic)):
        try:
            forms[name] = _quantized(graph, quantize)
        except Exception as exc:  # noqa: BLE001 - the quantizer raises whatever it meets
            first_line = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
            absent[name] = f"onnxruntime's quantizer failed on this graph: {first_line}"
    for name in [name for name, model in forms.items() if not _integer_kernels(model)]:
        absent[name] = "onnxruntime would compute in float all the same, so this form is no int8."
        del forms[name]
    return Int8(forms, absent)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Feeds the calibration windows in one batch."""

    def __init__(self, windows: F32) -> None:
        self._batches = iter([{INPUT_NAME: windows}])

    def get_next(self) -> dict[str, F32] | None:
        """The next batch, or None when all are done."""
        return next(self._batches, None)


def _quantized(graph: onnx.ModelProto, quantize: Callable[[onnx.ModelProto, Path], None]) -> bytes:
    """Run one quantizer on a copy of the graph: it changes what it is given."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    add_pre_process_metadata(copy)  # it is lowered already; this spares a warning that it is not
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        path = Path(folder) / "model.onnx"
        quantize(copy, path)
        return path.read_bytes()


def _integer_kernels(model: bytes) -> int:
    """How many of the operators that onnxruntime will run compute with integers.

    The file alone does not tell: a static form is float operators between QuantizeLinear and
    DequantizeLinear, which become integer kernels only where onnxruntime can fuse them.
    """
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath)
    return sum(node.op_type in _KERNELS for node in optimized.graph.node)


def _why_none(graph: onnx.ModelProto) -> str:
    if any(node.op_type in _TREES for node in graph.graph.node):
        return "The model is made of decision trees, which compare and add: int8 has no use there."
    return "The model has no matrix product or convolution that int8 could speed up."
