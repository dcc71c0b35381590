"""What draining does to readings: the time that one takes, with an outbox to drain and without.

The broker is in the same process and answers at once, so that the ratio is that of the outbox and
the uplink, without the client library.
"""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

import numpy as np
from bench_models import NAMES
from bench_records import append, opened, walk

from edge_agent.arrays import F32
from edge_agent.clock import SystemClock
from edge_agent.config import OutboxConfig, PipelineConfig, UplinkConfig
from edge_agent.contract.bundle import Bundle
from edge_agent.contract.topics import Topics
from edge_agent.infer import Model
from edge_agent.pipeline import Pipeline
from edge_agent.sources.simulated import SimulatedConfig
from edge_agent.testing.broker import SimulatedBroker
from edge_agent.uplink.uplink import Uplink


class Paced:
    """1,000 readings a second for some seconds; keeps the time that each took to be served."""

    def __init__(self, seconds: float) -> None:
        self.faults: dict[str, int] = {}
        self.service_ns: list[int] = []
        self._rows = np.random.default_rng(2).normal(size=(256, len(NAMES))).astype(np.float32)
        self._left = round(seconds * 1000)
        self._due_ns = self._given_ns = 0

    def open(self) -> None:
        """Begin to count."""
        self._due_ns = time.perf_counter_ns()

    def read(self, out: F32) -> int:
        """One reading, when it is due."""
        if self._given_ns:
            self.service_ns.append(time.perf_counter_ns() - self._given_ns)
        if not self._left:
            raise EOFError
        self._left -= 1
        self._due_ns += 1_000_000
        time.sleep(max(0, self._due_ns - time.perf_counter_ns()) / 1e9)
        self._given_ns = time.perf_counter_ns()
        out[0] = self._rows[self._left % 256]
        return 1

    def close(self) -> None:
        """Nothing to close."""


def draining(folder: Path, bundle: Bundle, rounds: int) -> dict[str, float]:
    """p99 of the service time while 100,000 records drain, and with nothing to drain."""
    busy_us, idle_us, drained = [], [], []
    for number in range(rounds):
        for waiting, into in ((100_000, busy_us), (0, idle_us)):
            path = folder / f"drain{number}-{waiting}"
            outbox = opened(path)
            append(outbox, walk(waiting))
            outbox.close()
            service_ns, sent = serve(path, Model.load(bundle), seconds=5.0)
            into.append(statistics.quantiles(service_ns, n=100)[98] / 1000)
            if waiting:
                drained.append(sent)
    ratios = [busy / idle for busy, idle in zip(busy_us, idle_us, strict=True)]
    return {
        "p99_ratio": statistics.median(ratios),
        "p99_us_busy": statistics.median(busy_us),
        "p99_us_empty": statistics.median(idle_us),
        "drained_messages": statistics.median(drained),
    }


def serve(folder: Path, model: Model, *, seconds: float) -> tuple[list[int], int]:
    """Run a pipeline over an uplink that sends what is in the folder's outbox."""
    clock, broker, stop = SystemClock(), SimulatedBroker(), threading.Event()
    uplink = Uplink(
        folder / "outbox.db",
        topics=Topics("edge"),
        device="bench",
        outbox=OutboxConfig(),
        uplink=UplinkConfig(),
        clock=clock,
    )
    link = broker.link("bench")
    uplink.attach(link.port("uplink"))
    sender = threading.Thread(target=uplink.run, args=(stop,))
    sender.start()
    link.start()
    source = Paced(seconds)
    config = PipelineConfig(
        name="bench", model=model.manifest.name, channels=NAMES, source=SimulatedConfig()
    )
    pipeline = Pipeline(
        config, source, offer=uplink.offer, dispatch=lambda _: None, clock=clock, model=model
    )
    pipeline.run(stop)
    stop.set()
    sender.join()
    uplink.close(0)
    return source.service_ns[10 * model.manifest.window.length :], len(broker.sent)
