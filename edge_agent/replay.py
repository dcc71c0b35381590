"""A recording through a bundle, by the pipeline that a device runs, without any broker.

Each recording is read one reading at a time, as from a sensor, and its clock is the recording's
own: a cooldown lasts as many readings as it would on the device. Latencies are real.
"""

from __future__ import annotations

import math
import threading
import time
from array import array as packed
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edge_agent.arrays import F32
from edge_agent.config import PipelineConfig
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.messages import Decision, Latency, Record
from edge_agent.infer import Model
from edge_agent.metrics import Meters
from edge_agent.pipeline import Pipeline
from edge_agent.recording import load_recording
from edge_agent.sources.simulated import SimulatedConfig

_NS_PER_S: Final = 1_000_000_000


class Replayed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decided window of a recording.

    Attributes:
        recording: number of the recording in the file, from 0.
        reading: last reading of the window, from 1 in each recording.
        t: seconds since the recording began, by the bundle's sampling rate.
        truth: label, or value for regression, of that reading; None where there is none.
        label: as in :class:`~edge_agent.contract.messages.Decision`, like the fields after it.
    """

    recording: int
    reading: int
    t: float
    truth: str | float | None = None
    label: str = ""
    score: float
    values: tuple[float, ...] = ()
    state: str = ""
    fired: bool = False


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a replay.

    Attributes:
        model: name and version of the bundle.
        sha256: of the bundle file.
        recording: path of the recording.
        recordings: separate recordings in the file; no window spans two of them.
        counts: totals, by the names of :class:`edge_agent.metrics.Counters` and the source's.
        labels: decided windows by the model's label; empty for regression.
        labelled: decided windows that have a truth.
        accuracy: share of them with the right label; None without truth, and for regression.
        state_accuracy: share of them with the right stable state; None as ``accuracy``.
        r2: regression: coefficient of determination of the first value; None where undefined.
        mae: regression: mean absolute error of the first value.
        latency_us: by stage, in microseconds.
        elapsed_s: how long the replay took.
    """

    model: str
    sha256: str
    recording: str
    recordings: int
    counts: dict[str, int]
    labels: dict[str, int]
    labelled: int
    accuracy: float | None = None
    state_accuracy: float | None = None
    r2: float | None = None
    mae: float | None = None
    latency_us: dict[str, Latency]
    elapsed_s: float


def replay(
    bundle: Path,
    recording: Path,
    *,
    labels: str | None = None,
    array: str = "signal",
    each: Callable[[Replayed], None] = lambda _: None,
) -> ReplayResult:
    """Run a recording through a bundle as fast as it goes.

    Args:
        bundle: path of a bundle file.
        recording: a CSV whose header names the bundle's channels, or an NPZ.
        labels: CSV column or NPZ array with the truth: one for each reading, or, in an NPZ with
            ``offsets``, one for each recording. Labels are the bundle's, by name, or else by
            index; empty and NaN mean that there is none. The truth of a window is that of its
            last reading.
        array: of an NPZ: the readings, shape (readings, channels). An array ``offsets``, shape
            (recordings + 1,), cuts them into separate recordings.
        each: is given every decision.

    Raises:
        BundleError: the bundle cannot be used.
        InferenceError: its model cannot be loaded.
        SourceError: the recording has not what is asked for.
    """
    loaded = read_bundle(bundle)
    model, manifest = Model.load(loaded), loaded.manifest
    tape = load_recording(recording, manifest, labels=labels, array=array)
    meters, score = Meters(), _Score(manifest)
    began = time.perf_counter()
    for number, (first, end) in enumerate(tape.spans):
        for decision in decide_rows(model, tape.rows[first:end], meters):
            # The meters go on from recording to recording, and so does the count of readings.
            truth = float(tape.truth[decision.reading - 1])
            each(score.take(number, first, decision, truth))
    return ReplayResult(
        model=f"{manifest.name} {manifest.version}",
        sha256=loaded.digest,
        recording=str(recording),
        recordings=len(tape.spans),
        counts=meters.counts() | tape.faults,
        labels=score.seen,
        labelled=score.labelled,
        accuracy=score.share(score.right),
        state_accuracy=score.share(score.right_state),
        r2=score.r2(),
        mae=score.mae(),
        latency_us=meters.latency_us(),
        elapsed_s=time.perf_counter() - began,
    )


def format_line(decision: Replayed) -> str:
    """One decision for people to read."""
    truth = "" if decision.truth is None else f"  truth {decision.truth}"
    fired = "  fired" if decision.fired else ""
    return (
        f"{decision.recording}:{decision.reading:<7} {decision.t:9.2f} s  "
        f"{decision.label} {decision.score:.4f}  state {decision.state or '-'}{truth}{fired}"
    )


def format_text(result: ReplayResult) -> str:
    """The result for people to read."""
    counts = result.counts
    lines = [
        f"{result.model} on {result.recording}",
        f"  recordings {result.recordings}, readings {counts['readings']}",
        f"  windows {counts['windows']}, fired {counts['fired']}, in {result.elapsed_s:.2f} s",
    ]
    names = ("skipped", "missing", "out_of_range", "torn", "malformed", "infer_errors")
    if faults := [f"{name} {counts[name]}" for name in names if counts.get(name)]:
        lines.append(f"  faults: {', '.join(faults)}")
    if result.labels:
        lines.append("  labels: " + ", ".join(f"{k} {n}" for k, n in result.labels.items()))
    if result.accuracy is not None and result.state_accuracy is not None:
        lines.append(
            f"  accuracy {result.accuracy:.4f} (stable state {result.state_accuracy:.4f}) "
            f"on {result.labelled} labelled windows"
        )
    if result.mae is not None:
        r2 = "undefined" if result.r2 is None else f"{result.r2:.4f}"
        lines.append(f"  R2 {r2}, MAE {result.mae:.4g} on {result.labelled} windows with a truth")
    lines.append("  latency, us     p50      p99    p99.9      max")
    lines += [
        f"    {stage:9} {took.p50:9.1f} {took.p99:8.1f} {took.p999:8.1f} {took.max:8.1f}"
        for stage, took in result.latency_us.items()
    ]
    return "\n".join(lines)


def decide_rows(model: Model, rows: F32, meters: Meters) -> list[Decision]:
    """All decisions on one recording, by a pipeline of its own: nothing is left of the one before.

    They are collected first, so that what is done with them is in no latency.
    """
    manifest = model.manifest
    tape = _Tape(rows, manifest.window.rate_hz)
    offered: list[Record] = []
    config = PipelineConfig(
        name=manifest.name,
        model=manifest.name,
        channels=tuple(channel.name for channel in manifest.channels),
        source=SimulatedConfig(),  # says nothing here: the source is given
    )
    pipeline = Pipeline(
        config,
        tape,
        offer=offered.append,
        dispatch=lambda _: None,
        clock=tape,
        model=model,
        meters=meters,
    )
    pipeline.run(threading.Event())
    return [record for record in offered if isinstance(record, Decision)]


class _Tape:
    """A recording as the source of its readings, one at a time, and as the clock beside it.

    The time is that of the newest reading, by the sampling rate, in seconds from the first.
    """

    def __init__(self, rows: F32, rate_hz: float) -> None:
        self._rows = rows
        self._step_s = 1 / rate_hz
        self._given = 0
        self.faults: dict[str, int] = {}

    def open(self) -> None:
        """Nothing to get hold of."""

    def read(self, out: F32) -> int:
        """Give one reading, as a live source does."""
        if self._given == len(self._rows):
            raise EOFError
        out[0] = self._rows[self._given]
        self._given += 1
        return 1

    def close(self) -> None:
        """Nothing to let go of."""

    def wall(self) -> float:
        """Seconds from the first reading to the newest."""
        return max(0, self._given - 1) * self._step_s

    def monotonic_ns(self) -> int:
        """The same in nanoseconds."""
        return round(self.wall() * _NS_PER_S)

    def synced(self) -> bool:
        """A recording is always in step with itself."""
        return True


class _Score:
    """Decisions against the truth, and how often each label was given."""

    def __init__(self, manifest: Manifest) -> None:
        self._labels = manifest.labels
        self.seen = dict.fromkeys(manifest.labels, 0)
        self.labelled = self.right = self.right_state = 0
        self._truths, self._values = packed("d"), packed("d")  # regression

    def take(self, recording: int, first: int, decision: Decision, truth: float) -> Replayed:
        """Count one decision.

        Args:
            recording: its number.
            first: readings in the recordings before it.
            decision: as the pipeline made it.
            truth: index of the label, or the value; NaN for none.
        """
        meant: str | float | None = None
        if self._labels:
            self.seen[decision.label] += 1
        if not math.isnan(truth):
            self.labelled += 1
            meant = self._labels[int(truth)] if self._labels else truth
            self.right += decision.label == meant
            self.right_state += decision.state == meant
            if not self._labels:
                self._truths.append(truth)
                self._values.append(decision.score)
        return Replayed(
            recording=recording,
            reading=decision.reading - first,
            t=decision.t,
            truth=meant,
            label=decision.label,
            score=decision.score,
            values=decision.values,
            state=decision.state,
            fired=decision.fired,
        )

    def share(self, hits: int) -> float | None:
        """Hits among the labelled windows; None for regression and without labels."""
        return hits / self.labelled if self._labels and self.labelled else None

    def r2(self) -> float | None:
        """1 - (squared error) / (squared distance from the mean); None when that is 0."""
        truths, values = np.array(self._truths), np.array(self._values)
        spread = float(np.square(truths - truths.mean()).sum()) if truths.size else 0.0
        return 1 - float(np.square(values - truths).sum()) / spread if spread else None

    def mae(self) -> float | None:
        """Mean absolute error; None without values."""
        if not self._truths:
            return None
        return float(np.abs(np.array(self._values) - np.array(self._truths)).mean())
