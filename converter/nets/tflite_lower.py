"""A TFLite model as ONNX: what is refused, and one operator after the other."""

from __future__ import annotations

from typing import Final

import onnx

from converter.nets.tflite_file import Op, TFLiteModel
from converter.nets.tflite_graph import Lowering
from converter.nets.tflite_ops import OPERATORS
from edge_agent.contract.errors import ConfigError

_STATEFUL: Final = frozenset({"ASSIGN_VARIABLE", "CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE"})


def require_known(model: TFLiteModel) -> None:
    """Refuse operators that have no form here, and numbers that are no floats, by name.

    Raises:
        ConfigError: there are some.
    """
    used = _needed(model)
    kinds = {op.kind for op in used} - OPERATORS.keys()
    if state := sorted(kind for kind in kinds if kind in _STATEFUL):
        raise ConfigError(
            f"keeps resource variables ({', '.join(state)}), which ONNX does not have: export the "
            "state as inputs and outputs"
        )
    if foreign := sorted(kind for kind in kinds if kind.startswith("custom ")):
        raise ConfigError(
            f"uses operators that are not TFLite's own: {', '.join(foreign)}; export it with "
            "TFLITE_BUILTINS only"
        )
    numbers = {t for op in used for t in (*op.inputs, *op.outputs) if t >= 0}
    numbers.update(model.inputs, model.outputs)
    integer = [model.tensors[number] for number in sorted(numbers)]
    quantized = [t.name for t in integer if t.kind in {"INT4", "INT8", "UINT8", "INT16"}]
    if quantized:
        raise ConfigError(
            f"is quantized ({len(quantized)} tensors, {quantized[0]!r} first): export the float "
            "model, without converter.optimizations; edge-convert quantizes by itself"
        )
    if kinds:
        raise ConfigError(f"uses operators that have no ONNX form here: {', '.join(sorted(kinds))}")


def lower_model(model: TFLiteModel) -> onnx.ModelProto:
    """The model as ONNX, its batch open.

    Raises:
        ConfigError: an operator does not fit its inputs; names it.
    """
    lowering = Lowering(model)
    for number in model.inputs:
        tensor = model.tensors[number]
        if tensor.kind != "FLOAT32":
            raise ConfigError(f"its input {tensor.name!r} takes {tensor.kind}, not FLOAT32")
        if any(place > 0 for place in tensor.open) or tensor.shape[:1] != (1,):
            raise ConfigError(
                f"its input {tensor.name!r} is {list(tensor.shape)} with open axes: export it for "
                "one window at a time, of a fixed length"
            )
        value = lowering.layers.input(tensor.name, tensor.shape[1:])
        lowering.values[number] = value
    for op in _needed(model):
        _lower(lowering, op)
    outputs = [(model.tensors[n].name, lowering.value(n)) for n in model.outputs]
    return lowering.layers.finish(outputs, "tflite")


def _needed(model: TFLiteModel) -> list[Op]:
    """The operators that the outputs depend on, without those that only compute a shape."""
    wanted = set(model.outputs)
    kept = []
    for op in reversed(model.ops):
        if wanted.intersection(op.outputs):
            kept.append(op)
            wanted.update(op.inputs[:1] if op.kind == "RESHAPE" else op.inputs)
    return kept[::-1]


def _lower(run: Lowering, op: Op) -> None:
    """Write one operator."""
    try:
        made = OPERATORS[op.kind](run, op)
    except ConfigError as exc:
        raise ConfigError(f"its operator {run.said(op)}: {exc}") from exc
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as exc:
        raise ConfigError(
            f"its operator {run.said(op)} has settings or inputs that do not fit: "
            f"{type(exc).__name__}: {exc}"
        ) from exc
    for number, value in zip(op.outputs, made, strict=False):
        tensor = run.model.tensors[number]
        fits = value.shape == run.shape(number)
        if not fits and not any(place > 0 for place in tensor.open):
            raise ConfigError(
                f"its operator {run.said(op)} makes {list(value.shape)}, the file says "
                f"{list(tensor.shape)}"
            )
        run.values[number] = value
