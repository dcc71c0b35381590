"""A second model in a crowd, which decides for some of the sensors. Used by one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter_ns

from edge_agent.answers import Answer
from edge_agent.batch import Batch
from edge_agent.config import DecideConfig
from edge_agent.contract.errors import InferenceError
from edge_agent.decide import Decider, resolve
from edge_agent.infer import Model

_Answers = list[Answer | InferenceError]


class Second:
    """One model beside that of a crowd.

    Args:
        model: with the window and the labels of the first, and without states.
        override: of the bundle's decision defaults.
        n_max: most windows in a batch.
        is_held: whether it decides for the sensor of a number; always the same answer.

    Attributes:
        version: of the bundle.
        decider: what that of a sensor begins as.
        took_ns: of the last run of each model, for a window: the first one's, and its own.
    """

    def __init__(
        self, model: Model, override: DecideConfig, n_max: int, is_held: Callable[[int], bool]
    ) -> None:
        manifest = model.manifest
        self.version = manifest.version
        self.decider = Decider(manifest.task, manifest.labels, resolve(manifest.decide, override))
        self.took_ns = (0, 0)
        self._model = model  # its engine runs in the batch
        self._batch = Batch(model.engine, manifest, n_max)
        self._is_held = is_held
        self._held: dict[int, bool] = {}  # by sensor

    def holds(self, number: int) -> bool:
        """Whether it decides for a sensor."""
        held = self._held.get(number)
        if held is None:
            held = self._held[number] = self._is_held(number)
        return held

    def answers(self, sensors: Sequence[int], batch: Batch) -> _Answers:
        """Decide the windows of a batch, each by the model of its sensor.

        Args:
            sensors: the numbers of their sensors.
            batch: of the first model; its windows are moved.
        """
        mine = [at for at, number in enumerate(sensors) if self.holds(number)]
        others = [at for at, number in enumerate(sensors) if not self.holds(number)]
        self._batch.windows[: len(mine)] = batch.windows[mine]
        batch.windows[: len(others)] = batch.windows[others]
        first, first_ns = _timed(batch, len(others))
        own, own_ns = _timed(self._batch, len(mine))
        self.took_ns = (first_ns, own_ns)
        found = dict(zip((*others, *mine), (*first, *own), strict=True))
        return [found[at] for at in range(len(sensors))]


def _timed(batch: Batch, count: int) -> tuple[_Answers, int]:
    """The answers, and how long each took."""
    if not count:
        return [], 0
    began_ns = perf_counter_ns()
    answers = batch.run(count)
    return answers, (perf_counter_ns() - began_ns) // count
