"""What the file of a network leaves open, as the recipe says it: ``model_io``."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from edge_agent.contract.manifest import Task
from edge_agent.settings import Settings

Layout = Literal["readings_first", "channels_first"]
Numbers = float | tuple[float, ...]

ANOMALY_LABELS: Final = ("normal", "anomaly")


class ModelIO(Settings, frozen=True, kw_only=True):
    """How a window becomes the inputs of a network, and its output an answer.

    Needed for networks (ONNX, PyTorch) only, and there only where the file leaves something open:
    an error then says what to write.

    Attributes:
        task: what the network answers; by default classification where it ends in softmax or
            sigmoid, or the recipe has labels, and regression where it ends in a regressor.
        layout: how an input is filled with a window: ``readings_first`` is (length, channels),
            ``channels_first`` is (channels, length), then in the shape of the input. By default
            what the shape of the input allows; a flat input is filled reading after reading.
        inputs: by the name of an input, the channels that it takes; by default an input with the
            name of a channel takes that one, and a sole input takes all.
        shapes: by the name of an input or a state, its whole shape, the batch as 1, where the
            file leaves it open.
        constants: by the name of an input, the values that it always has: one number for all of
            it, or all of them, row by row.
        states: by the name of an input, the output whose value it takes from the window before;
            by default pairs such as ``h_in`` and ``h_out``. Zeros at the start of a recording,
            after an outage and with a new model. Windows that overlap are taken in twice: leave
            ``window.hop`` at its default.
        output: the output that is the answer; by default the only one that is no state.
        scores: what the output of a classification holds; by default as the network ends.
            ``logits`` go through softmax, a single one through sigmoid.
        anomaly_above: anomaly: an output above this is anomalous. Where the output has the shape
            of the input, as an autoencoder's has, the mean square of their difference counts.
        anomaly_below: anomaly: an output below this is anomalous.
    """

    task: Task | None = None
    layout: Layout | None = None
    inputs: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    constants: dict[str, Numbers] = msgspec.field(default_factory=dict)
    states: dict[str, str] = msgspec.field(default_factory=dict)
    output: str | None = None
    scores: Literal["probabilities", "logits"] | None = None
    anomaly_above: float | None = None
    anomaly_below: float | None = None

    def __post_init__(self) -> None:
        given = [self.anomaly_above, self.anomaly_below].count(None)
        if given == 0:
            raise ValueError("give anomaly_above or anomaly_below, not both")
        if given == 1 and self.task not in {None, "anomaly"}:
            raise ValueError(f"a border of anomalies does not fit the task {self.task}")
        if self.task == "anomaly" and given == 2:
            raise ValueError("the task anomaly needs anomaly_above or anomaly_below, the border")
        if self.scores is not None and self.task not in {None, "classification"}:
            raise ValueError(f"scores does not fit the task {self.task}")
        if any(axis < 1 for shape in self.shapes.values() for axis in shape):
            raise ValueError("every axis of shapes is at least 1; the batch is 1")

    def resolved(self, labels: tuple[str, ...] | None) -> ModelIO:
        """The same with the task that follows from the other fields and the recipe's labels."""
        if self.task is not None:
            return self
        if self.anomaly_above is not None or self.anomaly_below is not None:
            return msgspec.structs.replace(self, task="anomaly")
        if self.scores is not None or labels:
            return msgspec.structs.replace(self, task="classification")
        return self


NOTHING_SAID: Final = ModelIO()
