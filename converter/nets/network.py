"""A network of any framework, as ONNX and as a function, to what every later step works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from converter.frontends import Answers, Context, Imported
from converter.nets.net_graph import (
    FATAL_ONLY,
    OPSET_MIN,
    first_line,
    folded,
    named,
    opset_of,
    upgraded,
    wrap,
)
from converter.nets.net_inputs import Inputs, Tensor, plan_inputs
from converter.nets.net_outputs import Answer, plan_answer
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError, InferenceError
from edge_agent.contract.manifest import State
from edge_agent.infer import Engine

Run = Callable[[dict[str, NDArray[Any]]], Mapping[str, Any]]

_PROBES: Final = 3  # windows that are run while the model is imported
_RTOL, _ATOL = 1e-3, 1e-4  # of the probes: far from this, a rewrite has gone wrong


def import_network(
    network: onnx.ModelProto,
    run: Run,
    context: Context,
    *,
    estimator: str,
    notes: tuple[str, ...] = (),
    packages: tuple[str, ...] = (),
) -> Imported:
    """Understand a network.

    Args:
        network: complete, without external data; its batch may be open, or 1.
        run: the original: one window's inputs by name to the outputs by name. Not the graph of
            ``network`` where that is itself a conversion.
        context: what the recipe says.
        estimator: readable, for the report.
        notes: what a reader of the report should know.
        packages: of the framework, for the provenance.

    Raises:
        ConfigError: something is left open, or the model cannot be run; says what to write.
    """
    if context.features is not None:
        raise ConfigError(
            "'features' in front of a network is not supported: put them into its graph"
        )
    given, made = tensors_of(network)
    count = len(context.channels)
    io = context.model_io.resolved(context.labels)
    inputs = plan_inputs(given, made, io, length=context.length, channels=context.channels)
    original = _Original(run, inputs)
    probes = _probes(inputs, context.length, count)
    raw = original.first(probes[0])
    _require_states(inputs.states, raw)
    carried = {state.output for state in inputs.states}
    rest = [tensor for tensor in made if tensor.name not in carried]
    answer = plan_answer(network.graph, rest, raw, io, inputs)
    form = _best_form(network, inputs, answer, probes, original)
    graph, keep_float = named(form.graph)
    names = _names(context)
    return Imported(
        graph=graph,
        task=answer.task,
        labels=answer.labels,
        outputs=(answer.output,),
        original=lambda windows: original.answers(windows, answer),
        estimator=estimator,
        feature_names=names,
        features=lambda windows: np.asarray(windows, np.float64).reshape(len(windows), -1),
        notes=(*notes, *form.notes),
        keep_float=keep_float,
        states=form.states,
        packages=packages,
    )


def tensors_of(network: onnx.ModelProto) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs, without those that only give a weight a name, and outputs."""
    weights = {tensor.name for tensor in network.graph.initializer}
    given = [_tensor(info) for info in network.graph.input if info.name not in weights]
    return given, [_tensor(info) for info in network.graph.output]


class _Original:
    """The original as a function of windows, which are given to it one after the other."""

    def __init__(self, run: Run, inputs: Inputs) -> None:
        self._run = run
        self._inputs = inputs

    def first(self, window: F32) -> Mapping[str, Any]:
        """All outputs for one window after nothing.

        Raises:
            ConfigError: the model cannot be run on it.
        """
        return next(self.rows(window[None]))

    def rows(self, windows: F32) -> Iterator[Mapping[str, Any]]:
        """All outputs for each window, the states carried from one to the next."""
        inputs = self._inputs
        state = {s.input: np.zeros(s.shape, s.dtype) for s in inputs.states}
        for window in windows:
            feeds = {feed.name: feed.array(window) for feed in inputs.feeds}
            try:
                outputs = self._run({**feeds, **inputs.constants, **state})
            except Exception as exc:
                raise ConfigError(
                    f"the model cannot answer a window of {len(window)} readings of "
                    f"{window.shape[1]} channels: {first_line(exc)}"
                ) from exc
            state = {s.input: outputs[s.output] for s in inputs.states}
            yield outputs

    def answers(self, windows: F32, answer: Answer) -> Answers:
        """Labels and scores of all windows."""
        pairs = zip(self.rows(windows), windows, strict=True)
        echo = answer.echo
        scores = np.stack(
            [
                answer.scores(outputs[answer.name], echo.array(window) if echo else None)
                for outputs, window in pairs
            ]
        )
        if answer.task == "regression":
            return Answers(None, scores)
        labels = scores[:, 0] > 0 if answer.task == "anomaly" else scores.argmax(axis=1)
        return Answers(labels.astype(np.int64), scores)


@dataclass(frozen=True)
class _Form:
    """A graph that answers the probes as the original does."""

    graph: onnx.ModelProto
    states: tuple[State, ...]
    notes: tuple[str, ...]


def _best_form(
    network: onnx.ModelProto, inputs: Inputs, answer: Answer, probes: F32, original: _Original
) -> _Form:
    """The first form that answers as the original: upgraded and folded, or less of both.

    A converter of operators, and one of constants, may fail on what it does not know; the network
    as it is then still works.

    Raises:
        ConfigError: no form does.
    """
    wanted = original.answers(probes, answer).scores
    old = opset_of(network)
    faults = []
    for opset, batched, fold in _attempts(old, batched=inputs.batched):
        plan = inputs if batched else inputs.one_by_one()
        try:
            base = upgraded(network) if opset != old else network
            graph, states = wrap(base, plan, answer, window=probes.shape[1:])
            graph = folded(graph) if fold else graph
            _require_alike(graph, states, answer, probes, wanted)
        except (ConfigError, InferenceError) as exc:
            faults.append(str(exc))
            continue
        notes: tuple[str, ...] = ()
        if old < OPSET_MIN and opset == old:
            notes = (f"Its operator set {old} is kept: {faults[0]}; it cannot be quantized.",)
        return _Form(graph, states, notes)
    raise ConfigError(f"it has no form that a device can run: {faults[-1]}")


def _attempts(opset: int, *, batched: bool) -> Iterator[tuple[int, bool, bool]]:
    """Operator set, open batch and folding of each form, the best first."""
    for version in dict.fromkeys((max(opset, OPSET_MIN), opset)):
        for several in dict.fromkeys((batched, False)):
            for fold in (True, False):
                yield version, several, fold


def _require_alike(
    graph: onnx.ModelProto,
    states: tuple[State, ...],
    answer: Answer,
    probes: F32,
    wanted: NDArray[np.float64],
) -> None:
    """Run a form as the device does, and all windows at once where it says that it can.

    Raises:
        ConfigError: it answers otherwise.
        InferenceError: it cannot be run.
    """
    data = graph.SerializeToString(deterministic=True)
    _, length, channels = probes.shape
    output = answer.output
    engine = Engine(data, length=length, channels=channels, outputs=[output], states=states)
    rows = []
    for window in probes:
        engine.run(window)
        rows.append(engine.outputs[output.name][0].copy())
    _require_close(np.stack(rows), wanted)
    if graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        options = ort.SessionOptions()
        options.log_severity_level = FATAL_ONLY  # a refusal is no failure of the build
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        try:
            (together,) = session.run([output.name], {"window": probes})
        except Exception as exc:
            raise ConfigError(f"it does not take several windows: {first_line(exc)}") from exc
        _require_close(together, wanted)


def _require_close(got: NDArray[Any], wanted: NDArray[np.float64]) -> None:
    if got.shape != wanted.shape or not np.allclose(got, wanted, rtol=_RTOL, atol=_ATOL):
        raise ConfigError("its converted form answers otherwise")


def _require_states(states: tuple[State, ...], raw: Mapping[str, Any]) -> None:
    """A state comes out in the shape in which it goes in."""
    for state in states:
        made = np.asarray(raw[state.output]).shape
        if made != state.shape:
            raise ConfigError(
                f"the state {state.input!r} goes in as {list(state.shape)} and comes out as "
                f"{list(made)}: write its shape under model_io.shapes; a state that grows cannot "
                "be carried"
            )


def _probes(inputs: Inputs, length: int, channels: int) -> F32:
    """Windows to try a model with; whole numbers where an input takes such, as of a table."""
    probes = np.zeros((_PROBES, length, channels), np.float32)
    if all(feed.dtype.kind == "f" for feed in inputs.feeds):
        probes[1:] = np.random.default_rng(0).normal(size=probes[1:].shape)
    return probes


def _tensor(info: onnx.ValueInfoProto) -> Tensor:
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not kind.elem_type:
        return Tensor(info.name, None, None)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if not kind.HasField("shape"):
        return Tensor(info.name, dtype, None)
    # Some exporters write 0 or -1 where they leave an axis open.
    axes = tuple(axis.dim_value if axis.dim_value > 0 else None for axis in kind.shape.dim)
    return Tensor(info.name, dtype, axes)


def _names(context: Context) -> tuple[str, ...]:
    """The readings of a window, by channel and place."""
    if context.length == 1:
        return context.channels
    return tuple(f"{c}[{t}]" for t in range(context.length) for c in context.channels)
