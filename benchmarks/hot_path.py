"""The way of one reading, ours against the script that people write, in one interleaved run.

Both sides get the same JSON bytes, decide on every reading (hop 1), use one thread, and hand the
encoded decision to an in-memory list where ours hands it to the outbox's queue. Rounds of both
alternate; figures are medians over all rounds.

Usage: python benchmarks/hot_path.py [--readings N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import onnxruntime as ort
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converter import build
from edge_agent.arrays import F32
from edge_agent.clock import SystemClock
from edge_agent.config import PipelineConfig
from edge_agent.contract.bundle import Bundle, read_bundle
from edge_agent.contract.messages import Record
from edge_agent.infer import Model
from edge_agent.pipeline import Pipeline
from edge_agent.sources.json_rows import RowDecoder, move
from edge_agent.sources.simulated import SimulatedConfig

LENGTH, CHANNELS, CLASSES = 16, 6, 4
NAMES = tuple(f"c{number}" for number in range(CHANNELS))
MODELS: dict[str, Callable[[], object]] = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
    "forest": lambda: RandomForestClassifier(100, max_depth=10, random_state=0, n_jobs=1),
}


class Lines:
    """A source that decodes one JSON line a read, as the jsonl source does with its pipe."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = iter(lines)
        self._decoder = RowDecoder(NAMES)
        self._rows: deque[list[float | None]] = deque()
        self.faults: dict[str, int] = {}

    def open(self) -> None:
        """Nothing to open."""

    def read(self, out: F32) -> int:
        """One reading."""
        line = next(self._lines, None)
        if line is None:
            raise EOFError
        self._rows.extend(self._decoder.rows(line))
        return move(self._rows, out)

    def close(self) -> None:
        """Nothing to close."""


def main() -> None:
    """Build the models, run the rounds, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readings", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    figures = {}
    for name in MODELS:
        print(f"{name}: training and converting", file=sys.stderr)
        figures[name] = compare(bundle_of(name), lines_of(given.readings), given.rounds)
        row = figures[name]
        print(
            f"{name:10} ours {row['ours_us']:7.2f} us  script {row['script_us']:7.2f} us  "
            f"ratio {row['ratio_vs_script']:.2f}  "
            f"added over the bound call {row['added_over_bound_call']:.2f}"
        )
    print("RESULT " + json.dumps(figures))


def compare(bundle: Bundle, lines: list[bytes], rounds: int) -> dict[str, float]:
    """Medians over interleaved rounds, in microseconds a reading."""
    ours, script, bound = [], [], []
    for _ in range(rounds):
        ours.append(run_ours(bundle, lines))
        script.append(run_script(bundle, lines))
        bound.append(run_bound(bundle, len(lines)))
    per_reading = {
        "ours_us": statistics.median(ours),
        "script_us": statistics.median(script),
        "bound_call_us": statistics.median(bound),
    }
    ratio = statistics.median(a / b for a, b in zip(ours, script, strict=True))
    added = statistics.median((a - b) / b for a, b in zip(ours, bound, strict=True))
    return {**per_reading, "ratio_vs_script": ratio, "added_over_bound_call": added}


def run_ours(bundle: Bundle, lines: list[bytes]) -> float:
    """The agent's pipeline: decode, check, window, infer, decide, count, offer."""
    offered: deque[Record] = deque()
    config = PipelineConfig(
        name="bench", model=bundle.manifest.name, channels=NAMES, source=SimulatedConfig()
    )
    pipeline = Pipeline(
        config,
        Lines(lines),
        offer=offered.append,
        dispatch=lambda _: None,
        clock=SystemClock(),
        model=Model.load(bundle),
    )
    began = perf_counter_ns()
    pipeline.run(threading.Event())
    took = perf_counter_ns() - began
    assert len(offered) == len(lines) - LENGTH + 1
    return took / len(lines) / 1000


def run_script(bundle: Bundle, lines: list[bytes]) -> float:
    """What people write: json, np.roll, session.run(None, …), json.dumps."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(bundle.model, options, providers=["CPUExecutionProvider"])
    window = np.zeros((LENGTH, CHANNELS), np.float32)
    labels, sent = bundle.manifest.labels, []
    began = perf_counter_ns()
    for line in lines:
        reading = json.loads(line)
        window = np.roll(window, -1, axis=0)
        window[-1] = [reading[name] for name in NAMES]
        scores = session.run(None, {"window": window[np.newaxis]})[0][0]
        index = int(np.argmax(scores))
        sent.append(json.dumps({"label": labels[index], "score": float(scores[index])}))
    took = perf_counter_ns() - began
    assert len(sent) == len(lines)
    return took / len(lines) / 1000


def run_bound(bundle: Bundle, count: int) -> float:
    """Nothing but the model's call, on rotating windows."""
    model = Model.load(bundle)
    windows = np.random.default_rng(1).normal(size=(64, LENGTH, CHANNELS)).astype(np.float32)
    rotating = [windows[number % 64] for number in range(count)]
    began = perf_counter_ns()
    for window in rotating:
        model.answer(window)
    return (perf_counter_ns() - began) / count / 1000


def lines_of(count: int) -> list[bytes]:
    """Readings as JSON objects."""
    rows = np.random.default_rng(2).normal(size=(count, CHANNELS)).round(4)
    return [json.dumps(dict(zip(NAMES, row, strict=True))).encode() for row in rows.tolist()]


def bundle_of(name: str) -> Bundle:
    """Train on made-up data and convert: the latency does not depend on what it means."""
    chance = np.random.default_rng(0)
    windows = chance.normal(size=(1200, LENGTH, CHANNELS)).astype(np.float32)
    labels = (windows[:, :, :CLASSES].mean(axis=1) + chance.normal(size=(1200, CLASSES))).argmax(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = MODELS[name]()
        model.fit(windows.reshape(1200, -1), labels)  # type: ignore[attr-defined]
        skops.io.dump(model, path / "model.skops")
        np.savez(path / "validation.npz", windows=windows[:200], label=labels[:200])
        recipe = {
            "name": name,
            "version": "1.0.0",
            "model": "model.skops",
            "data": {"path": "validation.npz", "label": "label"},
            "rate_hz": 100,
            "window": {"length": LENGTH, "hop": 1},
            "channels": [{"name": channel} for channel in NAMES],
        }
        (path / "recipe.yaml").write_text(json.dumps(recipe))
        return read_bundle(build(path / "recipe.yaml").bundle)


if __name__ == "__main__":
    main()
