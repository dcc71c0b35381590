"""Many sensors of one kind, one model: what waits together is decided in one run.

As :mod:`edge_agent.pipeline`, with a window, checks and a state for each sensor. A block of
readings passes in *rounds*, each with one reading of a sensor at most, so that one call of numpy
serves all sensors of a round and the readings of each stay in order. A window that is due never
waits for readings that have not come; after a small block a short pause, within the bound that the
configuration states, lets the next one grow.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns
from typing import Final

import numpy as np

from edge_agent.answers import Answer
from edge_agent.arrays import F32
from edge_agent.batch import Batch
from edge_agent.chain import Chain
from edge_agent.clock import Clock
from edge_agent.config import DecideConfig, PipelineConfig, SensorsConfig
from edge_agent.contract.errors import InferenceError
from edge_agent.contract.messages import Decision, Record
from edge_agent.decide import Decider
from edge_agent.infer import Model, Tensor
from edge_agent.metrics import Counters
from edge_agent.pipeline import Pipeline
from edge_agent.rings import Numbers, Rings
from edge_agent.sources.base import SensorSource

_BLOCK_N: Final = 1_024  # most readings taken from the source at once
_NS_PER_MS: Final = 1_000_000
_NS_PER_S: Final = 1_000_000_000
_PAUSE: Final = 0.25  # of the bound, after a small block; the rest is for the batch itself

_Due = tuple[int, int]  # a window: the number of its sensor, and the reading that completed it


class Crowd(Chain):
    """A chain whose window, last good values and decider exist once for each sensor.

    Args:
        model: that fits.
        override: of the bundle's decision defaults.
        counters: of the pipeline.
        sensors: how many there may be, and how large a batch.

    Attributes:
        room_n: windows in a batch: as many as are decided within the bound, at least 1.
        wait_ns: how long a window may wait for the others of its batch.
    """

    def __init__(
        self, model: Model, override: DecideConfig, counters: Counters, sensors: SensorsConfig
    ) -> None:
        super().__init__(model, override, counters)
        count, width = sensors.sensors_n_max, len(model.manifest.channels)
        self.rings = Rings(count, self.window.length, self.window.hop, width)
        self.room_n = sensors.batch_n_max
        self.wait_ns = round(sensors.batch_wait_ms * _NS_PER_MS)
        self._batch = Batch(model.engine, model.manifest, sensors.batch_n_max)
        self._last = np.full((count, width), np.nan, np.float32)
        self._deciders: dict[int, Decider] = {}
        self._carried: dict[int, list[Tensor]] = {}  # by sensor, for a model with states

    def clean(self, block: F32, sensors: Numbers) -> Numbers:
        """Mend readings in place; which rows are to be used, in order.

        Args:
            block: float32 (readings, channels).
            sensors: the number of each row's sensor.
        """
        use = np.ones(len(block), np.bool_)
        begin = 0
        for at in self.quality.unclean(block):
            self._last[sensors[begin:at]] = block[begin:at]
            number, begin = sensors[at], at + 1
            last = self._last[number].tolist()
            use[at] = self.quality.mend(block[at], last)
            self._last[number] = last
        self._last[sensors[begin:]] = block[begin:]
        return np.flatnonzero(use)

    def gather(self, sensors: Numbers, at: int) -> None:
        """Put the newest windows of some sensors into the batch, from window ``at`` on."""
        self.rings.copy(sensors, self._batch.windows[at : at + len(sensors)])

    def answers(self, sensors: Sequence[int]) -> list[Answer | InferenceError]:
        """Decide the first windows of the batch.

        Args:
            sensors: the numbers of their sensors.

        Returns:
            For each window its answer, or why it has none.
        """
        began_ns = perf_counter_ns()
        if self.model.manifest.states:
            windows = zip(sensors, self._batch.windows, strict=False)  # a batch may be smaller
            answers = [self._answer_one(number, window) for number, window in windows]
        else:
            answers = self._batch.run(len(sensors))
        # The first window waits for the last: a slow model has small batches.
        each_ns = max(1, (perf_counter_ns() - began_ns) // len(sensors))
        self.room_n = max(1, min(len(self._batch.windows), self.wait_ns // each_ns))
        return answers

    def decider_of(self, number: int) -> Decider:
        """The decider of a sensor, made when it is first asked for."""
        found = self._deciders.get(number)
        if found is None:  # the chain's own never decides: it is what a new one begins as
            found = self._deciders[number] = copy.copy(self.decider)
        return found

    def continue_from(self, old: Chain) -> None:
        """Keep the readings, the last good values and the state of every sensor."""
        assert isinstance(old, Crowd), "a pipeline makes chains of one kind"
        self.rings = old.rings.resized(self.rings.length, self.rings.hop)
        self._last = old._last  # noqa: SLF001 (of its own kind)
        for number, decider in old._deciders.items():  # noqa: SLF001 (the same)
            self.decider_of(number).adopt(decider)

    def forget(self) -> None:
        """Drop the readings of all sensors. The states stay."""
        self.rings.clear()
        self._last[:] = math.nan
        self._carried.clear()

    def _answer_one(self, number: int, window: F32) -> Answer | InferenceError:
        """One window through a model with states, which go on from the sensor's window before."""
        before = self._carried.pop(number, None)
        for at, buffer in enumerate(self.model.engine.carried):
            buffer[...] = 0 if before is None else before[at]
        try:
            answer = self.model.answer(window)
        except InferenceError as exc:
            return exc
        self._carried[number] = [buffer.copy() for buffer in self.model.engine.carried]
        return answer


class CrowdPipeline(Pipeline):
    """A pipeline over a source that gives readings of many sensors; see :class:`Pipeline`.

    Its stages ``window``, ``infer`` and ``decide`` are measured once a batch, ``total`` once a
    decision.
    """

    block_n = _BLOCK_N
    _source: SensorSource

    def __init__(
        self,
        config: PipelineConfig,
        source: SensorSource,
        *,
        offer: Callable[[Record], None],
        dispatch: Callable[[Decision], None],
        clock: Clock,
        model: Model | None,
        dispatch_all: bool = False,
    ) -> None:
        self._sensors = config.sensors or SensorsConfig()
        self._names: list[str] = []  # by number
        self._numbers: dict[str, int] = {}
        super().__init__(
            config,
            source,
            offer=offer,
            dispatch=dispatch,
            clock=clock,
            model=model,
            dispatch_all=dispatch_all,
        )

    def _take(self, block: F32, given_ns: int) -> None:
        """Put readings into the windows, and decide those that are due, batch by batch."""
        crowd, counters, wall = self._crowd, self.meters.counters, self._clock.wall()
        sensors, readings = self._known(self._source.sensors)
        block = block[readings]
        readings += counters.readings + 1
        counters.readings += len(self._source.sensors)
        waiting: list[_Due] = []
        since_ns = 0  # the first of those that wait was due
        for rows in _rounds(sensors, crowd.clean(block, sensors)):
            due = rows[crowd.rings.push(sensors[rows], block[rows])]
            while len(due):
                now_ns = perf_counter_ns()
                since_ns = since_ns if waiting else now_ns
                taken, due = np.split(due, [crowd.room_n - len(waiting)])
                crowd.gather(sensors[taken], len(waiting))
                waiting += zip(sensors[taken].tolist(), readings[taken].tolist(), strict=True)
                if len(waiting) == crowd.room_n or now_ns - since_ns >= crowd.wait_ns:
                    self._decide_all(crowd, waiting, wall, (given_ns, since_ns))
                    waiting.clear()
        if waiting:
            self._decide_all(crowd, waiting, wall, (given_ns, since_ns))
        if len(block) < self._sensors.batch_n_max:  # so few are dear: let the next ones gather
            time.sleep(crowd.wait_ns * _PAUSE / _NS_PER_S)

    def _decide_all(
        self, crowd: Crowd, waiting: list[_Due], wall: float, since_ns: tuple[int, int]
    ) -> None:
        """Decide the windows of the batch and hand the decisions on, oldest first."""
        self._beat()
        self.meters.counters.windows += len(waiting)
        given_ns, window_ns = since_ns
        read, window, infer, decide, _, total = self._record_stages
        run_ns = perf_counter_ns()
        answers = crowd.answers([number for number, _ in waiting])
        infer_ns = perf_counter_ns()
        for (number, reading), answer in zip(waiting, answers, strict=True):
            if isinstance(answer, InferenceError):
                self._complain(answer)
                continue
            index, score, values = answer
            state, fired = crowd.decider_of(number).step(index, score, self.beat_ns)
            decision = Decision(
                t=wall,
                synced=self._synced,
                pipeline=self._config.name,
                sensor=self._names[number],
                model=crowd.version,
                reading=reading,
                label=crowd.labels[index],
                score=score,
                values=values,
                state=state,
                fired=fired,
            )
            self._hand_on(decision)
            total(perf_counter_ns() - given_ns)
        read(window_ns - given_ns)
        window(run_ns - window_ns)
        infer(infer_ns - run_ns)
        decide(perf_counter_ns() - infer_ns)

    def _known(self, names: Sequence[str]) -> tuple[Numbers, Numbers]:
        """The numbers of the sensors, and which readings are of one that there is room for."""
        numbers = [self._number(name) for name in names]
        sensors = np.array(numbers, np.intp)
        readings = np.flatnonzero(sensors >= 0)
        self.meters.counters.crowded += len(numbers) - len(readings)
        return sensors[readings], readings

    def _number(self, name: str) -> int:
        """The number of a sensor, from its first reading on; -1 when there is no room for it."""
        number = self._numbers.get(name)
        if number is None:
            if len(self._names) >= self._sensors.sensors_n_max:
                return -1
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
        return number

    @property
    def _crowd(self) -> Crowd:
        assert isinstance(self._chain, Crowd), "a source is opened only when there is a model"
        return self._chain

    def _chain_of(self, model: Model) -> Crowd:
        return Crowd(model, self._config.decide, self.meters.counters, self._sensors)


def _rounds(sensors: Numbers, use: Numbers) -> Iterator[Numbers]:
    """Split rows into rounds: the first reading of each sensor, the second of each, and so on.

    Args:
        sensors: of each row.
        use: the rows that count, in order.
    """
    of = sensors[use]
    by_sensor = np.argsort(of, kind="stable")
    place = np.arange(len(use))
    starts = np.flatnonzero(np.diff(of[by_sensor], prepend=-1))
    rank = np.empty(len(use), np.intp)
    rank[by_sensor] = place - np.repeat(starts, np.diff(starts, append=len(use)))
    order = np.argsort(rank, kind="stable")
    yield from np.split(use[order], np.flatnonzero(np.diff(rank[order])) + 1)
