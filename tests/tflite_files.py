"""TFLite files for tests, written operator by operator with the schema's own builders."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

KINDS = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
}


class Writer:
    """A model under construction; tensors are numbers."""

    def __init__(self):
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = b"Test"
        self.model.operatorCodes = []
        self.model.buffers = [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.model.subgraphs = [self.graph]

    def tensor(self, shape, kind=schema.TensorType.FLOAT32, *, variable=False, name=None):
        """A tensor that is computed."""
        made = schema.TensorT()
        made.name = (name or f"t{len(self.graph.tensors)}").encode()
        made.shape, made.type, made.isVariable = list(shape), kind, variable
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def constant(self, value):
        """A tensor with a value."""
        value = np.ascontiguousarray(value)
        number = self.tensor(value.shape, KINDS[value.dtype])
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(value.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors[number].buffer = len(self.model.buffers) - 1
        return number

    def input(self, *shape, name="window"):
        """An input of the model."""
        number = self.tensor((1, *shape), name=name)
        self.graph.tensors[number].shapeSignature = [-1, *shape]
        self.graph.inputs.append(number)
        return number

    def op(self, kind, inputs, *shapes, custom=None, **settings):
        """An operator with outputs of these shapes; its settings by the schema's names."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version, code.customCode = 1, custom
        self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = len(self.model.operatorCodes) - 1
        made.inputs = list(inputs)
        made.outputs = [self.tensor(shape) for shape in shapes]
        if name := settings.pop("options", None):
            made.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            made.builtinOptions = getattr(schema, f"{name}T")()
            for field, value in settings.items():
                assert hasattr(made.builtinOptions, field), field
                setattr(made.builtinOptions, field, value)
        self.graph.operators.append(made)
        return made.outputs[0] if len(made.outputs) == 1 else made.outputs

    def save(self, path, *outputs):
        """Write the file."""
        self.graph.outputs = list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path
