"""The way of one reading, ours against the script that people write, in one interleaved run.

Both sides get the same JSON bytes, decide on every reading (hop 1), use one thread, and run the
same model. Rounds alternate; figures are medians over all rounds. Ours is the agent's pipeline,
given one reading at a time; what the uplink's thread does later for each decision (encode, append
to the outbox in durable groups) is measured apart and added. What an agent costs a device besides
(:mod:`footprint`) stands beside them.

``p99_ratio_busy`` compares the service time of 1,000 readings a second at its 99th percentile,
while 100,000 records drain, with that over an empty outbox.

Usage: python benchmarks/hot_path.py [--readings N] [--rounds N] [--busy-rounds N]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Final

import footprint
import numpy as np
import onnxruntime as ort
from bench_models import CHANNELS, NAMES, bundle_of
from draining import draining

from edge_agent.arrays import F32
from edge_agent.clock import SystemClock
from edge_agent.config import PipelineConfig
from edge_agent.contract.bundle import Bundle
from edge_agent.contract.messages import Record
from edge_agent.infer import Model, engine_of
from edge_agent.outbox.items import Kept, item_of
from edge_agent.outbox.outbox import Outbox
from edge_agent.pipeline import Pipeline
from edge_agent.sources.json_rows import Row, RowDecoder, move
from edge_agent.sources.simulated import SimulatedConfig

MODELS: Final = ("logistic", "forest", "cnn")
_REPEATS: Final = 5
_GROUP_N: Final = 1_000  # records in a commit: 5 s at 200 a second, 0.2 s at 5,000
_OUTBOX_BYTES: Final = 64 * 1024 * 1024


class Lines:
    """A source that decodes one JSON line a read, as the jsonl source does with its pipe."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = iter(lines)
        self._decoder = RowDecoder(NAMES)
        self._rows: deque[Row] = deque()
        self.faults: dict[str, int] = {}

    def open(self) -> None:
        """Nothing to open."""

    def read(self, out: F32) -> int:
        """One reading."""
        line = next(self._lines, None)
        if line is None:
            raise EOFError
        row = self._decoder.row(line)
        if row is not None:
            self._rows.append(row)
        return move(self._rows, out)

    def close(self) -> None:
        """Nothing to close."""


def main() -> None:
    """Build the models, run the rounds, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readings", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--busy-rounds", type=int, default=3)
    given = parser.parse_args()
    figures: dict[str, object] = {**footprint.measure()}
    for name in MODELS:
        print(f"{name}: training and converting", file=sys.stderr)
        bundle = bundle_of(name)
        figures[name] = row = compare(bundle, lines_of(given.readings), given.rounds)
        with tempfile.TemporaryDirectory() as folder:
            busy = draining(Path(folder), bundle, given.busy_rounds)
        row |= {"p99_ratio_busy": busy["p99_ratio"], "p99_us_busy": busy["p99_us_busy"]}
        print(
            f"{name:10} ours {row['ours_us']:6.2f} us  of it uplink {row['uplink_us']:5.2f}  "
            f"bound call {row['bound_call_us']:6.2f}  script {row['script_us']:6.2f}  "
            f"ratio {row['ratio_vs_script']:.2f}  "
            f"added over the bound call {row['added_over_bound_call']:.2f}  "
            f"p99 while draining {row['p99_ratio_busy']:.2f}"
        )
    print("RESULT " + json.dumps(figures))


def compare(bundle: Bundle, lines: list[bytes], rounds: int) -> dict[str, float]:
    """Medians over interleaved rounds, in microseconds a reading."""
    gc.collect()
    gc.freeze()  # as the agent does; it spares both sides the training's objects
    ours, uplink, script, bound = [], [], [], []
    for _ in range(rounds):
        way, offered = run_ours(bundle, lines)
        uplink.append(run_uplink(offered))
        ours.append(way + uplink[-1])
        script.append(run_script(bundle, lines))
        bound.append(run_bound(bundle, lines))
    ratio = statistics.median(a / b for a, b in zip(ours, script, strict=True))
    added = statistics.median((a - b) / b for a, b in zip(ours, bound, strict=True))
    return {
        "ratio_vs_script": ratio,
        "added_over_bound_call": added,
        "ours_us": statistics.median(ours),
        "uplink_us": statistics.median(uplink),
        "script_us": statistics.median(script),
        "bound_call_us": statistics.median(bound),
    }


def run_ours(bundle: Bundle, lines: list[bytes]) -> tuple[float, list[Record]]:
    """The agent's pipeline: decode, check, window, infer, decide, count, offer."""
    offered: list[Record] = []
    config = PipelineConfig(
        name="bench", model=bundle.manifest.name, channels=NAMES, source=SimulatedConfig()
    )
    took: list[int] = []
    pipeline = Pipeline(
        config,
        Lines(lines),
        offer=_timed(offered.append, took),
        dispatch=lambda _: None,
        clock=SystemClock(),
        model=Model.load(bundle),
    )
    pipeline.run(threading.Event())
    assert len(offered) == len(lines) - bundle.manifest.window.length + 1
    return _between_us(took), offered


def run_uplink(offered: list[Record]) -> float:
    """What the uplink's thread does for each decision: encode it, and commit it in a group."""
    with tempfile.TemporaryDirectory() as folder:
        outbox = Outbox.open(
            Path(folder) / "outbox.db", bytes_max=_OUTBOX_BYTES, agent="0", clock=SystemClock()
        )
        took: list[int] = []
        for _ in range(_REPEATS):  # a new file's first groups are dearer than all that follow
            for start in range(0, len(offered), _GROUP_N):
                group = offered[start : start + _GROUP_N]
                began = perf_counter_ns()
                items: list[Kept] = [item_of(record) for record in group]
                while items:
                    del items[: outbox.append(items)]
                took.append((perf_counter_ns() - began) // len(group))
        outbox.close()
    return statistics.median(took) / 1000


def run_script(bundle: Bundle, lines: list[bytes]) -> float:
    """What people write: json, np.roll, session.run(None, …), json.dumps."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(bundle.model, options, providers=["CPUExecutionProvider"])
    window = np.zeros((bundle.manifest.window.length, CHANNELS), np.float32)
    labels, sent = bundle.manifest.labels, []
    took: list[int] = []
    keep = _timed(sent.append, took)
    for line in lines:
        reading = json.loads(line)
        window = np.roll(window, -1, axis=0)
        window[-1] = [reading[name] for name in NAMES]
        scores = session.run(None, {"window": window[np.newaxis]})[0][0]
        index = int(np.argmax(scores))
        keep(json.dumps({"label": labels[index], "score": float(scores[index])}))
    assert len(sent) == len(lines)
    return _between_us(took)


def run_bound(bundle: Bundle, lines: list[bytes]) -> float:
    """Nothing but the bound call, the window's copy included, on the windows of these lines."""
    engine, length = engine_of(bundle), bundle.manifest.window.length
    rows = np.array([list(json.loads(line).values()) for line in lines], np.float32)
    windows = [rows[at : at + length] for at in range(len(rows) - length)]
    took: list[int] = []
    mark = _timed(id, took)
    for window in windows:
        engine.run(window)
        mark(None)
    return _between_us(took)


def lines_of(count: int) -> list[bytes]:
    """Readings as JSON objects."""
    rows = np.random.default_rng(2).normal(size=(count, CHANNELS)).round(4)
    return [json.dumps(dict(zip(NAMES, row, strict=True))).encode() for row in rows.tolist()]


def _timed(keep: Callable[[object], object], ends_ns: list[int]) -> Callable[[object], None]:
    """``keep``, noting when: from one call to the next is one reading's whole way, on any side."""

    def kept(thing: object) -> None:
        keep(thing)
        ends_ns.append(perf_counter_ns())

    return kept


def _between_us(ends_ns: list[int]) -> float:
    """The median from one end to the next, in microseconds."""
    return float(np.median(np.diff(ends_ns))) / 1000


if __name__ == "__main__":
    main()
