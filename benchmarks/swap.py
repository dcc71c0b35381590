"""A thousand models taken over while a source gives a thousand readings a second.

Phases with and without swaps alternate. In the former another bundle is read from the disk, loaded
and handed over all the time, and every twentieth is probed in a child process first. At the end
twenty come the whole signed way: ordered, verified, fetched from a folder, unpacked, probed, taken.
``missed``: readings that were not decided, in all of it. ``p999_ratio``: 99.9th percentile from
when a reading was due to its offered decision, with swaps against without; the median of the
phases' ratios. ``rss_growth``: resident memory after the last of the unsigned swaps against that
after the first tenth.

Usage: python benchmarks/swap.py [--swaps N] [--model NAME]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from bench_models import LENGTHS, NAMES, bundle_of

from edge_agent.arrays import F32
from edge_agent.clock import SystemClock
from edge_agent.config import FolderConfig, PipelineConfig, TrialConfig, UpdateConfig
from edge_agent.contract.bundle import pack_bundle, read_bundle
from edge_agent.contract.messages import Record
from edge_agent.contract.release import Choice, Order, device_path
from edge_agent.contract.topics import Topics
from edge_agent.fleet.export import export
from edge_agent.fleet.trust.keys import read_keys
from edge_agent.fleet.trust.release import make_release
from edge_agent.fleet.trust.repository import Repository
from edge_agent.infer import Model
from edge_agent.metrics import rss_bytes
from edge_agent.pipeline import Pipeline
from edge_agent.sources.simulated import SimulatedConfig
from edge_agent.update.probe import run_probe
from edge_agent.update.store import Store
from edge_agent.update.updater import Updater

RATE_HZ = 1000.0
PHASE_S = 4.0
PAUSE_S = 0.02  # between two swaps
PROBE_EVERY = 20
SIGNED = 20
CHECK_S = 0.5  # between two looks for another order
SIGNED_S = 60.0
SWITCH_S = 1e-4  # as the agent sets it
_NS = 1_000_000_000


class Due:
    """A source whose readings are due at absolute times; it knows when each was."""

    def __init__(self) -> None:
        self.due_ns: list[int] = []
        self.faults: dict[str, int] = {}
        self._step_ns = round(_NS / RATE_HZ)
        self._next_ns = 0
        self._row = np.linspace(-1, 1, len(NAMES)).astype(np.float32)

    def open(self) -> None:
        """Begin now."""
        self._next_ns = time.perf_counter_ns() + self._step_ns

    def read(self, out: F32) -> int:
        """The readings that are due; waits for one."""
        if (left := self._next_ns - time.perf_counter_ns()) > 0:
            time.sleep(left / _NS)
        count = 0
        while count < len(out) and self._next_ns <= time.perf_counter_ns():
            out[count] = self._row
            self.due_ns.append(self._next_ns)
            self._next_ns += self._step_ns
            count += 1
        return count

    def close(self) -> None:
        """Nothing to close."""


class Run:
    """One pipeline on its thread, and how late each decision was."""

    def __init__(self, length: int) -> None:
        self.source, self.late_ns = Due(), []
        self._length = length
        config = PipelineConfig(
            name="swap", model="swap", channels=NAMES, source=SimulatedConfig(), record="window"
        )
        self.pipeline = Pipeline(
            config,
            self.source,
            offer=self._take,
            dispatch=lambda _: None,
            clock=SystemClock(),
            model=None,
        )

    def _take(self, record: Record) -> None:
        due_ns = self.source.due_ns[record.reading - 1]  # type: ignore[union-attr]
        self.late_ns.append(time.perf_counter_ns() - due_ns)

    @property
    def missed(self) -> int:
        """Readings that completed a window and were not decided."""
        counters = self.pipeline.meters.counters
        return counters.readings - self._length + 1 - len(self.late_ns)


def main() -> int:
    """Swap and measure; prints RESULT."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--model", default="cnn", choices=list(LENGTHS))
    given = parser.parse_args()
    sys.setswitchinterval(SWITCH_S)
    with tempfile.TemporaryDirectory() as folder:
        paths = stage(Path(folder), given.model)
        print(f"RESULT {json.dumps(measure(Path(folder), paths, given.swaps))}")
    return 0


def stage(folder: Path, name: str) -> list[Path]:
    """Two bundles of one model under two versions."""
    bundle, paths = bundle_of(name), []
    members = {
        "model.onnx": bundle.model,
        "golden.npz": bundle.golden,
        "reference.json": bundle.reference,
        "report.json": bundle.report,
    }
    for version in ("1.0.0", "1.1.0"):
        manifest = msgspec.structs.replace(bundle.manifest, name="swap", version=version)
        path = folder / f"{version}.bundle"
        path.write_bytes(pack_bundle(manifest, members))
        paths.append(path)
    return paths


def measure(folder: Path, paths: list[Path], swaps: int) -> dict[str, Any]:
    """Phases of both kinds in turn until all swaps are done."""
    first = Model.load(read_bundle(paths[0]))
    run, stop = Run(first.manifest.window.length), threading.Event()
    run.pipeline.swap(first)
    thread = threading.Thread(target=run.pipeline.run, args=(stop,))
    thread.start()
    time.sleep(1.0)
    gc.collect()
    gc.freeze()
    ratios, lates, done, early = [], [], 0, 0
    numbers = iter(range(swaps))
    try:
        phase(run, lambda: time.sleep(PAUSE_S))  # what the start has cost is not asked
        while done < swaps:
            without = phase(run, lambda: time.sleep(PAUSE_S))[0]
            with_swaps, count = phase(run, lambda: swap_next(run, paths, next(numbers, None)))
            done += count
            ratios.append(with_swaps / without)
            lates.append((without, with_swaps))
            early = early or (rss_bytes() if done >= swaps / 10 else 0)
            print(f"{done} swaps, p99.9 {without:.0f} us without, {with_swaps:.0f} with")
        rss_end = rss_bytes()
        signed = take_signed(folder, paths, run.pipeline)
        print(f"{signed} more the signed way")
    finally:
        stop.set()
        thread.join()
    return {
        "swaps": run.pipeline.meters.counters.swaps,
        "missed": run.missed,
        "p999_ratio": round(statistics.median(ratios), 2),
        "signed": signed,
        "rss_growth": round(rss_end / early - 1, 4),
        "readings": run.pipeline.meters.counters.readings,
        "p999_us_without": round(statistics.median(without for without, _ in lates), 1),
        "p999_us_with": round(statistics.median(with_swaps for _, with_swaps in lates), 1),
    }


def phase(run: Run, work: Any) -> tuple[float, int]:
    """Work for a while: 99.9th percentile of the lateness in it, in microseconds; turns made."""
    begin, turns, end = len(run.late_ns), 0, time.monotonic() + PHASE_S
    while time.monotonic() < end:
        if work() is False:
            break
        turns += 1
    late = np.array(run.late_ns[begin:])
    return float(np.quantile(late, 0.999)) / 1000, turns


def swap_next(run: Run, paths: list[Path], number: int | None) -> bool:
    """Take one staged bundle over as the updater does; False when there is none left."""
    if number is None:
        return False
    path = paths[(number + 1) % 2]
    if number % PROBE_EVERY == 0:
        assert run_probe(path, seconds=60.0, bytes_max=2**30).ok
    run.pipeline.swap(Model.load(read_bundle(path))).wait()
    time.sleep(PAUSE_S)
    return True


def take_signed(folder: Path, paths: list[Path], pipeline: Pipeline) -> int:
    """Order one bundle after the other; how many the updater has committed."""
    repository = Repository.create(folder / "fleet", folder / "keys", None)
    root = folder / "root.json"
    root.write_bytes(repository.files()["1.root.json"])
    signers, stick = read_keys(folder / "keys", "targets", None), folder / "stick"
    releases = [make_release(path, {}) for path in paths]
    for release in releases:
        repository.approve(release, signers)
    updater = Updater(
        store=Store(folder / "store"),
        trust=folder / "trust",
        port=None,
        topics=Topics(),
        device="bench",
        groups=(),
        targets={pipeline.model_name: [pipeline]},
        report=lambda _: None,
        config=UpdateConfig(
            root_file=str(root),
            ways=(FolderConfig(path=str(stick)),),
            check_s=CHECK_S,
            trial=TrialConfig(seconds=0, windows_min=0),
        ),
        clock=SystemClock(),
    )
    stop = threading.Event()
    thread = threading.Thread(target=updater.run, args=(stop,))
    thread.start()
    committed = 0
    for number in range(SIGNED):
        release = releases[number % 2]
        revision = repository.next_revision()
        choice = Choice(sha256=release.sha256, version=release.manifest.version)
        order = Order(revision=revision, model=pipeline.model_name, choice=choice)
        repository.order(device_path("bench", pipeline.model_name), order)
        export(repository, stick)
        end = time.monotonic() + SIGNED_S
        while time.monotonic() < end and not settled(updater, revision):
            time.sleep(PAUSE_S)
        committed += [report.state for report in updater.reports()] == ["committed"]
    stop.set()
    thread.join()
    return committed


def settled(updater: Updater, revision: int) -> bool:
    """Whether the updater is through with an order."""
    ends = ("committed", "refused", "rolled_back")
    return any(r.revision == revision and r.state in ends for r in updater.reports())


if __name__ == "__main__":
    sys.exit(main())
