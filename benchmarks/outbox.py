"""The outbox: speed, opening, bytes written, a week alone, and what draining does to readings.

The records are decisions as a device makes them: uneven stamps, varying scores, labels, states.
Every commit is durable. Draining goes to a broker in the same process that answers at once, so
its ratio is that of the outbox and the uplink, without the client library.

Usage: python benchmarks/outbox.py [--folder DIR] [--days N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from hot_path import LENGTH, NAMES, bundle_of

from edge_agent.arrays import F32
from edge_agent.clock import SystemClock
from edge_agent.config import OutboxConfig, PipelineConfig, UplinkConfig
from edge_agent.contract.messages import Decision, Latency, Metrics, Record
from edge_agent.contract.topics import Topics
from edge_agent.infer import Model
from edge_agent.outbox.items import item_of
from edge_agent.outbox.outbox import Outbox
from edge_agent.pipeline import Pipeline
from edge_agent.sources.simulated import SimulatedConfig
from edge_agent.testing.broker import SimulatedBroker
from edge_agent.testing.clock import FakeClock
from edge_agent.uplink.uplink import Uplink

GROUP_N = 1000
PER_S = 10
MIB = 1024 * 1024
CAP = OutboxConfig().bytes_max


def main() -> None:
    """Measure one thing after the other and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--days", type=float, default=7.0, help="without a broker; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fill", type=int, help=argparse.SUPPRESS)  # fill a file, then die
    given = parser.parse_args()
    if given.fill:
        fill_and_die(given.folder, given.fill)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        figures: dict[str, float] = speed(folder / "speed", given.rounds)
        figures |= opening(folder, 1_000_000)
        figures |= {"bytes_per_record": written_per_record(folder / "idle", group=2)}
        figures |= {"bytes_per_record_busy": written_per_record(folder / "busy", group=GROUP_N)}
        figures |= draining(folder, given.rounds)
        if given.days:
            figures |= alone(folder / "alone", given.days)
    for key, value in figures.items():
        print(f"{key:32} {value:12.4g}")
    print("RESULT " + json.dumps(figures))


def speed(folder: Path, rounds: int) -> dict[str, float]:
    """Records a second, encoding included, in durable groups."""
    records = list(walk(100_000))
    seconds = []
    for number in range(rounds):
        outbox = opened(folder / str(number))
        began = time.perf_counter()
        append(outbox, records)
        seconds.append(time.perf_counter() - began)
        outbox.close()
    return {"records_per_s": len(records) / statistics.median(seconds)}


def opening(folder: Path, count: int) -> dict[str, float]:
    """Seconds from opening to the first batch in hand, after a kill and after a clean stop."""
    subprocess.run(
        [sys.executable, __file__, "--folder", folder / "killed", "--fill", str(count)], check=False
    )
    killed, clean = [], []
    for number in range(5):
        copy = folder / f"copy{number}"
        shutil.copytree(folder / "killed", copy)
        assert (copy / "outbox.db-wal").stat().st_size, "the log was to be unfolded"
        killed.append(first_batch_s(copy))
        clean.append(first_batch_s(copy))
    after_kill, after_stop = statistics.median(killed), statistics.median(clean)
    return {
        "open_s_at_1m": max(after_kill, after_stop),
        "open_s_at_1m_killed": after_kill,
        "open_s_at_1m_clean": after_stop,
    }


def fill_and_die(folder: Path, count: int) -> None:
    """The child: append, and end without closing anything."""
    append(opened(folder), walk(count))
    os.kill(os.getpid(), 9)


def first_batch_s(folder: Path) -> float:
    """Open, read as the uplink does, close."""
    began = time.perf_counter()
    outbox = opened(folder)
    found = outbox.read(1, outbox.position, n_max=GROUP_N, bytes_max=32_000)
    took = time.perf_counter() - began
    assert found is not None
    outbox.close()
    return took


def written_per_record(folder: Path, *, group: int) -> float:
    """Bytes handed to the file system for each record, its later packing included."""
    outbox = opened(folder)
    records = list(walk(20_000))
    before = written()
    append(outbox, records, group=group)
    outbox.close()
    return (written() - before) / len(records)


def written() -> int:
    """Bytes that this process has written so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def alone(folder: Path, days: float) -> dict[str, float]:
    """Days without a broker at 10 decisions a second and metrics a minute, on the default cap."""
    outbox, decisions = opened(folder), walk(round(days * 86_400 * PER_S))
    count, peak = 0, 0
    while group := list(islice(decisions, 60 * PER_S)):
        append(outbox, [*group, minute(group[-1])])
        count += len(group) + 1
        peak = max(peak, outbox.file_bytes)
    figures = {
        "days_alone": days,
        "alone_mib": peak / MIB,
        "alone_dropped": float(outbox.dropped),
        "alone_kept": float(outbox.records - 1),  # but the agent's own first record
        "alone_bytes_on_disk_per_record": peak / count,
    }
    outbox.close()
    return figures


def minute(last: Decision) -> Metrics:
    """What a pipeline says of itself once a minute."""
    chance = random.Random(last.reading)
    stages = ("read", "window", "infer", "decide", "offer", "total")
    latency = {
        stage: Latency(
            n=last.reading,
            p50=chance.random() * 9,
            p99=chance.random() * 90,
            p999=chance.random() * 900,
            max=chance.random() * 9000,
        )
        for stage in stages
    }
    counts = dict.fromkeys(("readings", "windows", "recorded", "fired", "skipped"), last.reading)
    return Metrics(
        t=last.t, pipeline="motion", counts=counts, latency_us=latency, rss_bytes=70 * MIB
    )


# --- draining ------------------------------------------------------------------------------------


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


def draining(folder: Path, rounds: int) -> dict[str, float]:
    """p99 of the service time while 100,000 records drain, and with nothing to drain."""
    bundle = bundle_of("logistic")
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
        "p99_ratio_while_draining": statistics.median(ratios),
        "p99_us_draining": statistics.median(busy_us),
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
    return source.service_ns[10 * LENGTH :], len(broker.sent)


# --- records -------------------------------------------------------------------------------------


def opened(folder: Path) -> Outbox:
    """The outbox of a folder, with the default cap."""
    folder.mkdir(parents=True, exist_ok=True)
    return Outbox.open(folder / "outbox.db", bytes_max=CAP, agent="bench", clock=FakeClock())


def append(outbox: Outbox, records: Iterable[Record], *, group: int = GROUP_N) -> None:
    """Keep records in durable groups."""
    rest = iter(records)
    while items := [item_of(record) for record in islice(rest, group)]:
        while items:
            items = items[outbox.append(items) :]


def walk(count: int) -> Iterator[Decision]:
    """Decisions at 10 a second: stamps that jitter by half a millisecond, scores of a model."""
    chance = random.Random(1)
    t, label, state = 1_700_000_000.0, "walking", "walking"
    for number in range(1, count + 1):
        t += chance.gauss(1 / PER_S, 0.0005)
        if chance.random() < 0.05:
            label = chance.choice(("walking", "sitting", "running"))
        if chance.random() < 0.02:
            state = label
        (score,) = struct.unpack("f", struct.pack("f", 1 - 0.7 * chance.random() ** 3))
        yield Decision(
            t=t,
            pipeline="motion",
            model="1.0.0",
            reading=10 * number,
            label=label,
            score=score,
            state=state,
        )


if __name__ == "__main__":
    main()
