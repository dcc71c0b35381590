"""The tensors of a TFLite file while its operators become nodes.

The first axis of a tensor is the batch where it is 1; a tensor without a batch, which TFLite makes
to have a matrix, keeps all of its axes behind one here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from numpy.typing import NDArray

from converter.nets.activations import relu_between
from converter.nets.layers import Layers, Value
from converter.nets.tflite_file import Op, TFLiteModel
from edge_agent.contract.errors import ConfigError

TANH: Final = 4  # the schema's number of that activation
_FUSED: Final[dict[int, Callable[[Layers, Value], Value]]] = {  # the schema's numbers
    0: lambda _, x: x,
    1: lambda layers, x: layers.unary("Relu", x),
    2: partial(relu_between, low=-1, high=1),
    3: partial(relu_between, low=0, high=6),
    TANH: lambda layers, x: layers.unary("Tanh", x),
}


@dataclass
class Lowering:
    """A graph under construction.

    Attributes:
        values: by the number of a tensor, what computes it.
        constants: by the number of a tensor, what was computed here.
    """

    model: TFLiteModel
    layers: Layers = field(default_factory=Layers)
    values: dict[int, Value] = field(default_factory=dict)
    constants: dict[int, NDArray[Any]] = field(default_factory=dict)

    def value(self, number: int) -> Value:
        """What computes a tensor.

        Raises:
            ConfigError: it is a constant, where one has no form here.
        """
        if number not in self.values:
            raise ConfigError(f"a constant, tensor {number}, stands where a window should")
        return self.values[number]

    def constant(self, number: int) -> NDArray[Any] | None:
        """The value of a constant; None for what is computed, or left out."""
        if number < 0:
            return None
        return self.constants.get(number, self.model.tensors[number].value)

    def required(self, op: Op, place: int) -> NDArray[Any]:
        """The constant that an operator has at a place.

        Raises:
            ConfigError: it is computed.
        """
        found = self.constant(op.inputs[place])
        if found is None:
            raise ConfigError(f"its input {place} must be a constant")
        return found

    def shape(self, number: int) -> tuple[int, ...]:
        """The shape of a tensor without its batch, which is there when its first axis is 1."""
        shape = self.model.tensors[number].shape
        return shape[1:] if shape[:1] == (1,) else shape

    def axis(self, number: int, axis: int) -> int:
        """An axis of a tensor without its batch.

        Raises:
            ConfigError: it is the batch.
        """
        shape = self.model.tensors[number].shape
        axis = axis % len(shape)
        if shape[0] != 1:
            return axis
        if axis == 0:
            raise ConfigError("works along the batch")
        return axis - 1

    def activated(self, x: Value, number: int) -> Value:
        """The activation that is part of an operator."""
        if number not in _FUSED:
            raise ConfigError(f"has the unknown activation {number}")
        return _FUSED[number](self.layers, x)

    def said(self, op: Op) -> str:
        """An operator, for a message."""
        return f"{op.kind} ({self.model.tensors[op.outputs[0]].name})"
