"""A thousand sensors at 50 Hz on one model: batches against one bound run each, and the wait.

``ratio_vs_one_each``: windows a second, gathered from the rings and run as batches, against one
bound run for each window; every sensor has other data; rounds alternate. ``live``: the agent's
own pipeline for many sensors at their pace, without a network; ``wait_p99_ms`` is from the
moment at which a reading comes into being to its decision being offered.

Usage: python benchmarks/scale.py [--sensors N] [--rounds N] [--seconds S]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import threading
import time
from time import perf_counter_ns
from typing import Final

import numpy as np
from bench_models import CHANNELS, NAMES, bundle_of

from edge_agent.arrays import F32
from edge_agent.batch import Batch
from edge_agent.clock import SystemClock
from edge_agent.config import PipelineConfig, SensorsConfig
from edge_agent.contract.bundle import Bundle
from edge_agent.contract.messages import Decision, Record
from edge_agent.crowd import CrowdPipeline
from edge_agent.infer import Model, engine_of
from edge_agent.rings import Rings
from edge_agent.sources.simulated import SimulatedConfig

MODELS: Final = ("logistic", "mlp", "forest")
RATE_HZ: Final = 50
_NAP_S: Final = 0.0005
_BATCH_N: Final = SensorsConfig().batch_n_max


class Paced:
    """A source of many sensors, each at its own phase: gives the readings that are due."""

    def __init__(self, sensors: int, seconds: float) -> None:
        self._rows = np.random.default_rng(3).normal(size=(4096, CHANNELS)).astype(np.float32)
        self._names = [f"sensor-{number}" for number in range(sensors)]
        self._per_s = sensors * RATE_HZ
        self._end = round(self._per_s * seconds)
        self._given = 0
        self.sensors: list[str] = []
        self.faults: dict[str, int] = {}

    def open(self) -> None:
        """Begin to count the time."""
        self._began_ns = perf_counter_ns()

    def read(self, out: F32) -> int:
        """What has become due since the last time."""
        if self._given >= self._end:
            raise EOFError
        due = (perf_counter_ns() - self._began_ns) * self._per_s // 1_000_000_000
        count = min(due - self._given, self._end - self._given, len(out))
        if not count:
            time.sleep(_NAP_S)
        numbers = range(self._given, self._given + count)
        out[:count] = self._rows[np.arange(self._given, self._given + count) % len(self._rows)]
        self.sensors = [self._names[number % len(self._names)] for number in numbers]
        self._given += count
        return count

    def due_ns(self, reading: int) -> int:
        """When a reading, counted from 1, came into being."""
        return self._began_ns + reading * 1_000_000_000 // self._per_s

    def close(self) -> None:
        """Nothing to close."""


def main() -> None:
    """Build the models, run the rounds, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sensors", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    figures: dict[str, object] = {"sensors": given.sensors}
    for name in MODELS:
        print(f"{name}: training and converting", file=sys.stderr)
        bundle = bundle_of(name)
        gc.collect()
        gc.freeze()
        ratio = ratio_vs_one_each(bundle, given.sensors, given.rounds)
        figures[name] = row = {"ratio_vs_one_each": ratio, "live": live(bundle, given)}
        print(f"{name:10} {ratio:5.1f} x one run each; live {row['live']}")
    print("RESULT " + json.dumps(figures))


def ratio_vs_one_each(bundle: Bundle, sensors: int, rounds: int) -> float:
    """How many times as many windows a second; the median over interleaved rounds."""
    engine, length = engine_of(bundle), bundle.manifest.window.length
    rings, batch = Rings(sensors, length, 1, CHANNELS), Batch(engine, bundle.manifest, _BATCH_N)
    every = np.arange(sensors)
    data = np.random.default_rng(4).normal(size=(length, sensors, CHANNELS)).astype(np.float32)
    for rows in data:
        rings.push(every, rows)
    windows = [np.ascontiguousarray(data[:, number]) for number in range(sensors)]
    ratios = []
    for _ in range(rounds):
        began = perf_counter_ns()
        for window in windows:
            engine.run(window)
        middle = perf_counter_ns()
        for at in range(0, sensors, _BATCH_N):
            due = every[at : at + _BATCH_N]
            rings.copy(due, batch.windows[: len(due)])
            batch.run_only(len(due))
        ratios.append((middle - began) / (perf_counter_ns() - middle))
    return statistics.median(ratios)


def live(bundle: Bundle, given: argparse.Namespace) -> dict[str, float]:
    """All sensors at their pace through the agent's pipeline."""
    source, waits_ns = Paced(given.sensors, given.seconds), []

    def offer(record: Record) -> None:
        assert isinstance(record, Decision)
        waits_ns.append(perf_counter_ns() - source.due_ns(record.reading))

    config = PipelineConfig(
        name="bench",
        model=bundle.manifest.name,
        channels=NAMES,
        source=SimulatedConfig(),
        sensors=SensorsConfig(sensors_n_max=given.sensors),
    )
    pipeline = CrowdPipeline(
        config,
        source,
        offer=offer,
        dispatch=lambda _: None,
        clock=SystemClock(),
        model=Model.load(bundle),
    )
    cpu_s, began_s = time.process_time(), time.perf_counter()
    pipeline.run(threading.Event())
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    p50, p99 = np.percentile(waits_ns, (50, 99)) / 1e6
    return {
        "readings_per_s": round(pipeline.meters.counters.readings / took_s),
        "decisions": len(waits_ns),
        "cpu_share": round(cpu_s / took_s, 3),
        "wait_p50_ms": round(float(p50), 3),
        "wait_p99_ms": round(float(p99), 3),
    }


if __name__ == "__main__":
    main()
