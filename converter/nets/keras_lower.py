"""A Keras model as ONNX: what is refused, and one layer after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import onnx

from converter.nets.activations import ACTIVATIONS, hard_sigmoid
from converter.nets.keras_layers import LAYERS
from converter.nets.keras_model import Call, KerasModel, naming
from converter.nets.keras_norm import folded_norms
from converter.nets.layers import Layers, Value
from edge_agent.contract.errors import ConfigError

_RECURRENT: Final = frozenset({"Bidirectional", "GRU", "LSTM", "SimpleRNN"})


def lower_model(model: KerasModel, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model as ONNX, its batch open.

    Args:
        model: as read.
        shapes: of the inputs, without the batch.

    Raises:
        ConfigError: a layer has no ONNX form here, or does not fit; names the layer.
    """
    layers = Layers()
    values = {name: layers.input(name, shape) for name, shape in shapes.items()}
    for call in folded_norms(model):
        given = [values[name] for name in call.inputs]
        with naming(call):
            values[call.output] = _lower(layers, call, given, model.version)
    outputs = [(name, values[value]) for name, value in model.outputs.items()]
    return layers.finish(outputs, "keras")


def require_known(model: KerasModel) -> None:
    """Refuse layers that have no form here, all of them by name.

    Raises:
        ConfigError: there are some.
    """
    if unknown := sorted({call.kind for call in model.calls} - LAYERS.keys()):
        raise ConfigError(
            f"holds layers that have no ONNX form here: {', '.join(unknown)}; convert it to ONNX "
            "by Keras itself, model.export('model.onnx', format='onnx'), or replace them"
        )


def _lower(layers: Layers, call: Call, given: Sequence[Value], version: str) -> Value:
    if not given:
        raise ConfigError("takes nothing")
    call = inside(call)
    value = LAYERS[call.kind](layers, call, given)
    if call.kind in _RECURRENT:
        return value  # its activation is inside
    return activated(layers, value, call.config.get("activation"), version)


def inside(call: Call) -> Call:
    """The layer in a TimeDistributed, which does at all times at once what it does at each.

    Raises:
        ConfigError: it looks at more than the last axis.
    """
    if call.kind != "TimeDistributed":
        return call
    inner = call.config["layer"]
    if inner["class_name"] not in {"Activation", "Dense", "Dropout"}:
        raise ConfigError(f"holds a {inner['class_name']}; only Dense is supported")
    return replace(call, kind=str(inner["class_name"]), config=inner["config"])


def activated(layers: Layers, x: Value, activation: Any, version: str) -> Value:
    """The activation that a layer's settings name.

    Args:
        layers: receives the nodes.
        x: before it.
        activation: a name, or how Keras describes a function or a layer.
        version: of Keras; hard_sigmoid became steeper with 3.

    Raises:
        ConfigError: it is unknown, or code.
    """
    if activation is None:
        return x
    if isinstance(activation, dict):
        inner = activation.get("config")
        if activation.get("class_name") in LAYERS and isinstance(inner, dict):
            call = Call(activation["class_name"], "activation", inner, (), (x.name,), "")
            return _lower(layers, call, [x], version)
        activation = inner if isinstance(inner, str) else activation.get("class_name")
    if activation == "hard_sigmoid" and version.startswith(("1.", "2.")):
        return hard_sigmoid(layers, x, 0.2)
    if activation not in ACTIVATIONS:
        raise ConfigError(f"the activation {activation!r} is not one of Keras that is known here")
    return ACTIVATIONS[activation](layers, x)
