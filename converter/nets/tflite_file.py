"""What is in a TFLite file: one graph of operators, its tensors, and nothing run.

The layout of the file is FlatBuffers by TFLite's schema, which comes with LiteRT's package.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.frontends import require_package
from edge_agent.contract.errors import ConfigError

BYTES_MAX: Final = 2**31 - 1  # FlatBuffers' own limit
_IDENTIFIER: Final = b"TFL3"
_DTYPES: Final = {
    "BOOL": np.bool_, "FLOAT16": np.float16, "FLOAT32": np.float32, "FLOAT64": np.float64,
    "INT32": np.int32, "INT64": np.int64,
}  # fmt: skip
_CODES_OLD_MAX: Final = 127  # of operators, in the field that came first


@dataclass(frozen=True)
class TensorInfo:
    """A tensor.

    Attributes:
        name: of the tensor.
        kind: its element type as the schema names it, e.g. ``"FLOAT32"``.
        shape: with the batch; an axis that may be of any size is 1.
        open: places of such axes.
        value: of a constant.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    open: tuple[int, ...]
    value: NDArray[Any] | None


@dataclass(frozen=True)
class Op:
    """An operator.

    Attributes:
        kind: as the schema names it, e.g. ``"CONV_2D"``; ``"custom NAME"`` of a custom one.
        inputs: numbers of tensors; -1 where an optional one is left out.
        outputs: numbers of tensors.
        options: its settings; None without any.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


@dataclass(frozen=True)
class TFLiteModel:
    """The main graph of a file.

    Attributes:
        tensors: all of them.
        ops: in the order in which they run.
        inputs: numbers of tensors.
        outputs: numbers of tensors.
        description: what the converter wrote about itself.
    """

    tensors: Sequence[TensorInfo]
    ops: Sequence[Op]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    description: str


def read_tflite(path: Path) -> TFLiteModel:
    """Read a ``.tflite`` file.

    Raises:
        ConfigError: LiteRT is not installed; it is no such file, damaged or too large.
    """
    schema = require_package("ai_edge_litert.schema_py_generated", "tflite")
    if path.stat().st_size > BYTES_MAX:
        raise ConfigError("is larger than 2 GiB: no device of this kind would load it")
    data = path.read_bytes()
    if data[4:8] != _IDENTIFIER:
        raise ConfigError("is no TFLite file: export it again")
    try:
        return _read(data, schema)
    # What reading beyond the end, or a number in place of an offset, comes to.
    except (
        AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, struct.error,
    ) as exc:  # fmt: skip
        raise ConfigError(f"is damaged ({type(exc).__name__}: {exc}): export it again") from exc


def _read(data: bytes, schema: Any) -> TFLiteModel:
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    graph = model.subgraphs[0]
    types, names = _names(schema.TensorType), _names(schema.BuiltinOperator)
    buffers = [_buffer(data, buffer) for buffer in model.buffers]
    tensors = [_tensor(tensor, types, buffers) for tensor in graph.tensors]
    kinds = [_kind(code, names) for code in model.operatorCodes]
    ops = [
        Op(kinds[op.opcodeIndex], _ints(op.inputs), _ints(op.outputs), op.builtinOptions)
        for op in graph.operators or ()
    ]
    given, made = _ints(graph.inputs), _ints(graph.outputs)
    _require_tensors((*given, *made), range(len(tensors)), "graph")
    for op in ops:
        _require_tensors((*op.inputs, *op.outputs), range(-1, len(tensors)), f"operator {op.kind}")
    text = model.description or b""
    return TFLiteModel(
        tensors=tensors,
        ops=ops,
        inputs=given,
        outputs=made,
        description=text.decode(errors="replace") if isinstance(text, bytes) else str(text),
    )


def _require_tensors(numbers: Sequence[int], known: range, what: str) -> None:
    if any(number not in known for number in numbers):
        raise ConfigError(f"is damaged: its {what} names tensors that do not exist")


def _buffer(data: bytes, buffer: Any) -> bytes:
    """The content of a buffer, which may lie behind the schema's part of the file."""
    if buffer.offset > 1:
        if buffer.offset + buffer.size > len(data):
            raise ConfigError("is damaged: a weight lies behind its end")
        return data[buffer.offset : buffer.offset + buffer.size]
    return b"" if buffer.data is None else bytes(buffer.data)


def _tensor(tensor: Any, types: Mapping[int, str], buffers: Sequence[bytes]) -> TensorInfo:
    name = tensor.name.decode(errors="replace") if tensor.name else ""
    shape, signature = _ints(tensor.shape), _ints(tensor.shapeSignature)
    kind = types[tensor.type]
    data, value = buffers[tensor.buffer], None
    if data and kind in _DTYPES:
        value = np.frombuffer(data, np.dtype(_DTYPES[kind]).newbyteorder("<")).reshape(shape)
    opened = tuple(place for place, axis in enumerate(signature) if axis < 0)
    return TensorInfo(name, kind, shape, opened, value)


def _kind(code: Any, names: Mapping[int, str]) -> str:
    number = code.builtinCode if code.builtinCode > _CODES_OLD_MAX else code.deprecatedBuiltinCode
    kind = names.get(max(number, code.builtinCode), f"operator {number}")
    if kind != "CUSTOM":
        return kind
    return f"custom {(code.customCode or b'?').decode(errors='replace')}"


def _names(enum: Any) -> dict[int, str]:
    """The names of an enumeration of the schema by their numbers."""
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


def _ints(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)
