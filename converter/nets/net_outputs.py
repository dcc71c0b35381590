"""What the output of a network means: the task, and its scores as the agent understands them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from converter.model_io import ANOMALY_LABELS, ModelIO
from converter.nets.net_inputs import Feed, Inputs, Tensor
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Output, Task

F64 = NDArray[np.float64]
Add = Callable[..., str]  # operator, input names, attributes to the name of its output

_PASSING: Final = frozenset({
    "Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
_PROBABILITIES: Final = frozenset({
    "LinearClassifier", "Normalizer", "SVMClassifier", "Sigmoid", "Softmax",
    "TreeEnsembleClassifier", "ZipMap",
})  # fmt: skip
_LOGITS: Final = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Conv", "Gemm", "GlobalAveragePool", "LogSoftmax",
    "MatMul", "ReduceMean",
})  # fmt: skip
_REGRESSORS: Final = frozenset({"LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor"})


@dataclass(frozen=True)
class Answer:
    """How the output of a network becomes the answer of the bundle.

    Attributes:
        name: of the output.
        tensor: what holds its numbers: the output itself, or what ZipMap makes a map of.
        width: numbers in it for one window.
        task: what it answers.
        is_row: it is (N, width); else it has other axes of 1, or fewer.
        labels: the model's own names of the classes.
        logits: softmax, or the sigmoid of a single one, makes probabilities of it.
        border: anomaly: where it begins.
        sign: anomaly: 1 above the border, -1 below it.
        echo: anomaly: the input that the network makes again; the score is the mean square of
            the difference. None where its output is the score.
    """

    name: str
    tensor: str
    width: int
    task: Task
    is_row: bool
    labels: tuple[str, ...] = ()
    logits: bool = False
    border: float = 0.0
    sign: int = 1
    echo: Feed | None = None

    @property
    def output(self) -> Output:
        """The output tensor of the bundle's model."""
        if self.task == "regression":
            return Output(name="value", role="value", width=self.width)
        width = 1 if self.task == "anomaly" else len(self.labels)
        return Output(name="scores", role="scores", width=width)

    def scores(self, raw: Any, given: NDArray[Any] | None = None) -> F64:
        """The scores or values for what the network gave for one window, in float64.

        Args:
            raw: an array, or the list of one map from class to score that ZipMap makes.
            given: the value of ``echo``.
        """
        if isinstance(raw, list):
            by_label = {str(label): score for label, score in raw[0].items()}
            raw = [by_label[label] for label in self.labels]
        row = np.asarray(raw, np.float64).reshape(-1)
        if given is not None:
            row = np.mean((row - given.reshape(-1).astype(np.float64)) ** 2, keepdims=True)
        if self.task == "regression":
            return row
        if self.task == "anomaly":
            return self.sign * (row - np.float64(np.float32(self.border)))
        if self.width == 1:
            p = _sigmoid(np.array([-row[0], row[0]])) if self.logits else row[0]
            return p if self.logits else np.array([1 - row[0], row[0]])
        if not self.logits:
            return row
        powers = np.exp(row - row.max())
        scores: F64 = powers / powers.sum()
        return scores

    def write(self, add: Add, constant: Callable[[float], str], raw: str) -> str:
        """The same as nodes, on float32 (N, width).

        Args:
            add: adds a node.
            constant: the name of a float32 constant.
            raw: name of the tensor.
        """
        if self.task == "anomaly":
            border = constant(self.border)
            return add("Sub", raw, border) if self.sign == 1 else add("Sub", border, raw)
        if self.task == "regression":
            return raw
        if self.width == 1 and self.logits:
            both = add("Concat", add("Neg", raw), raw, axis=1)
            return add("Sigmoid", both)
        if self.width == 1:
            return add("Concat", add("Sub", constant(1.0), raw), raw, axis=1)
        return add("Softmax", raw, axis=1) if self.logits else raw


def plan_answer(
    graph: onnx.GraphProto,
    made: Sequence[Tensor],
    raw: Mapping[str, Any],
    io: ModelIO,
    inputs: Inputs,
) -> Answer:
    """Say which output is the answer, and what it means.

    Args:
        graph: of the network; its last nodes tell what the output holds.
        made: the outputs that are no states.
        raw: what they are for one window.
        io: what the recipe says, see :meth:`~converter.model_io.ModelIO.resolved`.
        inputs: what the network takes.

    Raises:
        ConfigError: nothing says what the output means; says what to write.
    """
    tensor = _chosen(made, io)
    end = _end(graph, tensor.name)
    if end is not None and end.op_type == "ZipMap":
        return _zipped(end, tensor.name, io)
    value = np.asarray(raw[tensor.name])
    if io.task == "anomaly" and value.size > 1:
        return _echoed(tensor, value, io, inputs)
    if sum(axis > 1 for axis in value.shape) > 1:
        raise ConfigError(
            f"its output {tensor.name!r} is {list(value.shape)} for one window: add a layer that "
            "makes one row of scores or values of it, such as the last step or a mean"
        )
    kind = end.op_type if end is not None else "nothing"
    task = io.task or _task(tensor, kind)
    width, is_row = math.prod(value.shape), value.ndim == 2 and value.shape[0] == 1
    if task == "regression":
        return Answer(tensor.name, tensor.name, width, task, is_row)
    if task == "anomaly":
        return _anomaly(tensor, 1, io, is_row=is_row)
    labels = tuple(str(number) for number in range(max(2, width)))
    return Answer(
        tensor.name, tensor.name, width, task, is_row, labels, logits=_logits(tensor, kind, io)
    )


def _anomaly(
    tensor: Tensor, width: int, io: ModelIO, *, is_row: bool, echo: Feed | None = None
) -> Answer:
    above, below = io.anomaly_above, io.anomaly_below
    return Answer(
        name=tensor.name,
        tensor=tensor.name,
        width=width,
        task="anomaly",
        is_row=is_row,
        labels=ANOMALY_LABELS,
        border=above if above is not None else below or 0.0,
        sign=1 if above is not None else -1,
        echo=echo,
    )


def _echoed(tensor: Tensor, value: NDArray[Any], io: ModelIO, inputs: Inputs) -> Answer:
    """The answer of an autoencoder: how far it is from its input."""
    feeds = [feed for feed in inputs.feeds if feed.shape == value.shape]
    if len(feeds) != 1 or len(inputs.feeds) != 1:
        raise ConfigError(
            f"anomaly needs an output of one number or of the shape of the input; {tensor.name!r} "
            f"is {list(value.shape)}: add a layer that makes one number of it"
        )
    return _anomaly(tensor, value.size, io, is_row=value.ndim == 2, echo=feeds[0])


def _chosen(made: Sequence[Tensor], io: ModelIO) -> Tensor:
    """The output that is the answer."""
    if io.output is not None:
        return next(tensor for tensor in made if tensor.name == io.output)
    # A label beside scores says less than they do; maps and sequences are those of ZipMap.
    rich = [t for t in made if t.dtype is None or t.dtype.kind == "f"]
    if len(rich) == 1:
        return rich[0]
    if not rich:
        raise ConfigError(
            f"its outputs {', '.join(map(str, made))} hold no scores: export the scores from "
            "which they are made, without ArgMax"
        )
    raise ConfigError(
        f"it has the outputs {', '.join(map(str, rich))}: write 'output: NAME' under model_io for "
        "the one that is the answer"
    )


def _end(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """The last node that computes a tensor, before it is only reshaped."""
    makers = {output: node for node in graph.node for output in node.output}
    while (node := makers.get(name)) is not None and node.op_type in _PASSING:
        name = node.input[0]
    return node


def _task(tensor: Tensor, kind: str) -> Task:
    if kind in _REGRESSORS:
        return "regression"
    if kind in _PROBABILITIES or kind == "LogSoftmax":
        return "classification"
    raise ConfigError(
        f"its output {tensor.name!r} ends in {kind}, which does not tell what it answers: give "
        "'labels' in the recipe if they are scores of classes, else write under model_io 'task: "
        "regression', or 'anomaly_above: NUMBER'"
    )


def _logits(tensor: Tensor, kind: str, io: ModelIO) -> bool:
    if io.scores is not None:
        return io.scores == "logits"
    if kind in _PROBABILITIES or kind in _LOGITS:
        return kind in _LOGITS
    raise ConfigError(
        f"its output {tensor.name!r} ends in {kind}, which does not tell what it holds: write "
        "under model_io 'scores: probabilities' or 'scores: logits'"
    )


def _zipped(node: onnx.NodeProto, name: str, io: ModelIO) -> Answer:
    """Scores as a map from the names of the classes, as sklearn-onnx exports them."""
    if io.task not in {None, "classification"}:
        raise ConfigError(f"its output {name!r} holds scores of classes, the recipe says {io.task}")
    labels = tuple(_class_names(node))
    return Answer(name, node.input[0], len(labels), "classification", is_row=True, labels=labels)


def _class_names(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        for label in helper.get_attribute_value(attribute):
            yield label.decode() if isinstance(label, bytes) else str(label)


def _sigmoid(values: F64) -> F64:
    # exp of a large number is infinite, and 1 / infinity the right 0.
    with np.errstate(over="ignore"):
        result: F64 = 1 / (1 + np.exp(-values))
    return result
