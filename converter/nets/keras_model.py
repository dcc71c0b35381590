"""A Keras model's description as a list of calls of layers, in the order in which they run.

Sequential and functional models, nested ones too, become the same flat list. Only layers of Keras
itself pass: a class of somebody's own, or a ``Lambda``, is code, which is refused and never run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from converter.nets.keras_file import KerasFile, layers_of, name_of
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

Shape = tuple[int | None, ...]

_MODELS: Final = frozenset({"Functional", "Model", "Sequential"})
_PACKAGES: Final = frozenset({"keras", "tf_keras"})
_FUNCTION: Final = ("builtins", "function")  # how Keras describes one, by its name
_FLOATS: Final = frozenset({
    "bfloat16", "float16", "float32", "float64", "mixed_bfloat16", "mixed_float16",
})  # fmt: skip
_DEPTH_MAX: Final = 64  # of models in models
_CALLS_MAX: Final = 10_000  # a model may call an inner one many times, and so on


@dataclass(frozen=True)
class Call:
    """One use of a layer.

    Attributes:
        kind: class of the layer, e.g. ``"Conv1D"``.
        name: of the layer, for messages.
        config: its settings.
        weights: its arrays, in Keras's order.
        inputs: names of the values that it takes.
        output: name of the value that it makes.
    """

    kind: str
    name: str
    config: Mapping[str, Any]
    weights: tuple[F32, ...]
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class KerasModel:
    """A model as calls.

    Attributes:
        inputs: by name, the shape without the batch; None where the file leaves an axis open.
        calls: each after those whose values it takes.
        outputs: by the name of the layer that makes it, the name of the value.
        version: see :class:`~converter.nets.keras_file.KerasFile`.
    """

    inputs: Mapping[str, Shape]
    calls: tuple[Call, ...]
    outputs: Mapping[str, str]
    version: str


def parse_model(file: KerasFile) -> KerasModel:
    """Understand a model's description.

    Raises:
        ConfigError: it holds code, or something that is not Keras's own, named in the message.
    """
    try:
        return _Parser(file).parse()
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as exc:
        raise ConfigError(
            f"its description is not one of Keras ({type(exc).__name__}: {exc}): save it again by "
            "model.save(...)"
        ) from exc


@contextmanager
def naming(call: Call) -> Iterator[None]:
    """Name the layer in whatever is wrong with its settings and weights.

    Raises:
        ConfigError: something is.
    """
    where = f"its layer {call.name!r} ({call.kind})"
    try:
        yield
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc}") from exc
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
        raise ConfigError(
            f"{where} has settings or weights that do not fit: {type(exc).__name__}: {exc}"
        ) from exc


def foreign_classes(file: KerasFile) -> list[str]:
    """Classes and functions outside of Keras that a file names anywhere, e.g. as a regularizer.

    The layers among them are refused by :func:`parse_model`.
    """
    found = set()
    waiting: list[Any] = [file.config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            module, kind = part.get("module"), part.get("class_name")
            own = str(module).partition(".")[0] in _PACKAGES or (module, kind) == _FUNCTION
            if module is not None and kind is not None and not own:
                found.add(f"{module}.{kind}")
            if part.get("registered_name") and ">" in str(part["registered_name"]):
                found.add(str(part["registered_name"]))
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return sorted(found)


@dataclass
class _Parser:
    file: KerasFile
    inputs: dict[str, Shape] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    def parse(self) -> KerasModel:
        model = self.file.config
        _require_own(model)
        made = self._model(model, (), None)
        if unknown := {name for call in self.calls for name in call.inputs} - self._known():
            raise ConfigError(f"does not describe its input {min(unknown)!r}")
        names = [output.rpartition("@")[0] for output in made]
        if len(set(names)) != len(names):
            names = made
        outputs = dict(zip(names, made, strict=True))
        return KerasModel(self.inputs, tuple(self.calls), outputs, self.file.version)

    def _known(self) -> set[str]:
        return {*self.inputs, *(call.output for call in self.calls)}

    def _model(
        self, model: Mapping[str, Any], path: tuple[str, ...], given: Sequence[str] | None
    ) -> list[str]:
        """Add the calls of a model and return its outputs.

        Args:
            model: its description.
            path: names of the models that it is in, and its own.
            given: values for its inputs; None for the outermost, which declares them.
        """
        if len(path) > _DEPTH_MAX:
            raise ConfigError("its models are nested too deeply")
        if model["class_name"] == "Sequential":
            return self._sequential(model, path, given)
        return self._functional(model, path, given)

    def _sequential(
        self, model: Mapping[str, Any], path: tuple[str, ...], given: Sequence[str] | None
    ) -> list[str]:
        layers = [layer for layer in layers_of(model) if layer["class_name"] != "InputLayer"]
        values = list(given) if given is not None else [self._declare_first(model)]
        for layer in layers:
            values = self._call(layer, path, values)
        return values

    def _declare_first(self, model: Mapping[str, Any]) -> str:
        """Declare the one input of a Sequential, whose shape may stand in several places."""
        first = layers_of(model)[0]
        build = [part.get("build_config") or {} for part in (model, first)]
        whole = model["config"] if isinstance(model["config"], dict) else {}
        shapes = (
            *(_input_shape(first["config"]),),
            whole.get("build_input_shape"),
            *(part.get("input_shape") for part in build),
        )
        shape = next((shape for shape in shapes if shape), None)
        if shape is None:
            raise ConfigError(
                "does not say the shape of its input: begin the model with keras.Input(shape)"
            )
        name = name_of(first) if first["class_name"] == "InputLayer" else "input"
        self.inputs[name] = _without_batch(shape)
        return name

    def _functional(
        self, model: Mapping[str, Any], path: tuple[str, ...], given: Sequence[str] | None
    ) -> list[str]:
        config = model["config"]
        names = [name for name, *_ in _references(config["input_layers"])]
        known = {(name, 0): [name] for name in names}
        if given is not None:
            known = {(name, 0): [value] for name, value in zip(names, given, strict=True)}
        waiting = []
        for layer in layers_of(model):
            if layer["class_name"] == "InputLayer":
                if given is None:
                    self.inputs[name_of(layer)] = _without_batch(_input_shape(layer["config"]))
                continue
            nodes = layer.get("inbound_nodes", ())
            waiting += [(layer, number, node) for number, node in enumerate(nodes)]
        while waiting:
            ready = [
                entry
                for entry in waiting
                if all((name, call) in known for name, call, _ in _references(entry[2]))
            ]
            if not ready:
                raise ConfigError(
                    f"its layer {name_of(waiting[0][0])!r} takes what no other layer makes"
                )
            for layer, number, node in ready:
                values = [known[name, call][place] for name, call, place in _references(node)]
                _require_plain(layer, node)
                known[name_of(layer), number] = self._call(layer, path, values)
            waiting = [entry for entry in waiting if entry not in ready]
        wanted = _references(config["output_layers"])
        return [known[name, call][place] for name, call, place in wanted]

    def _call(
        self, layer: Mapping[str, Any], path: tuple[str, ...], values: list[str]
    ) -> list[str]:
        """Add one call, or those of a whole model, and return the outputs."""
        _require_own(layer)
        here = (*path, name_of(layer))
        if layer["class_name"] in _MODELS:
            return self._model(layer, here, values)
        if not isinstance(layer["config"], dict):
            raise ConfigError(f"does not describe its layer {'/'.join(here)!r}")
        if len(self.calls) == _CALLS_MAX:
            raise ConfigError(f"has more than {_CALLS_MAX} layers")
        name = "/".join(here)
        output = f"{name}@{len(self.calls)}"
        weights = self.file.weights.get(here, ())
        kind = str(layer["class_name"])
        self.calls.append(Call(kind, name, layer["config"], weights, tuple(values), output))
        return [output]


def _require_plain(layer: Mapping[str, Any], node: Any) -> None:
    """Refuse what a call says beside its tensors, which would change what it computes."""
    arguments = dict(_keywords(node))
    changed = {
        name: value
        for name, value in arguments.items()
        if value is not None and value is not False and not _is_tensor(value)
    }
    if changed:
        raise ConfigError(
            f"its layer {name_of(layer)!r} is called with {', '.join(changed)}, which has no "
            "ONNX form here: build the model from layers only"
        )


def _input_shape(config: Mapping[str, Any]) -> Any:
    return config.get("batch_shape") or config.get("batch_input_shape")


def _without_batch(shape: Sequence[Any]) -> Shape:
    return tuple(None if axis is None else int(axis) for axis in shape[1:])


def _references(node: Any) -> Iterator[tuple[str, int, int]]:
    """The values that an entry of a description names: (layer, number of its call, place).

    Keras 3 wraps each into a ``__keras_tensor__``; Keras 2 has bare lists of name and numbers.
    """
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            name, call, place = node["config"]["keras_history"]
            yield str(name), int(call), int(place)
            return
        for part in node.values():
            yield from _references(part)
    elif isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
            yield node[0], node[1], int(node[2])
            return
        for part in node:
            yield from _references(part)


def _keywords(node: Any) -> Iterator[tuple[str, Any]]:
    """What a call is given beside its first argument."""
    if isinstance(node, dict):
        yield from node.get("kwargs", {}).items()
        for place, value in enumerate(node.get("args", ())):
            if not isinstance(value, (dict, list)):
                yield f"argument {place}", value
    elif isinstance(node, list):
        for part in node:
            if isinstance(part, list) and len(part) > 3 and isinstance(part[3], dict):
                yield from part[3].items()


def _is_tensor(value: Any) -> bool:
    return any(True for _ in _references(value))


def _require_own(layer: Mapping[str, Any]) -> None:
    """Refuse a layer that is code, or whose numbers are no floats.

    Raises:
        ConfigError: by the name of its class.
    """
    kind, module = str(layer["class_name"]), str(layer.get("module") or "keras")
    registered = layer.get("registered_name")
    if kind in {"Lambda", "TFOpLambda", "SlicingOpLambda"}:
        raise ConfigError(
            f"holds a {kind} layer, which is Python code: it is never run; replace it by layers of "
            "Keras"
        )
    own = module.partition(".")[0] in _PACKAGES and registered in {None, kind}
    if not own or ">" in kind:
        raise ConfigError(
            f"holds {registered or kind} of {module}, a class of somebody's own, whose code is "
            "never run here: build the model from layers of Keras"
        )
    config = layer["config"]
    policy = config.get("dtype", "float32") if isinstance(config, dict) else "float32"
    name = policy.get("config", {}).get("name", "") if isinstance(policy, dict) else policy
    if name not in {None, *_FLOATS}:
        raise ConfigError(
            f"its layer {layer.get('name') or kind} computes in {name}: save the float model; "
            "edge-convert quantizes by itself"
        )
