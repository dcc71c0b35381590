"""Figures from the machine that will run the model, brought back as a file.

On the workstation, a build leaves every form in a folder. On the device, which needs no converter
but this one and :mod:`converter.measure`, every one of them is measured::

    edge-convert build motion.yaml --forms forms
    scp -r forms pi: && ssh pi python -m converter.forms.target forms >pi.json
    edge-convert build motion.yaml --target pi.json

What ``edge-agent bench BUNDLE --json FILE`` wrote there is taken too, for the form in that bundle;
several files are one ``--target`` each.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from converter.measure import machine, measure
from edge_agent.arrays import F32
from edge_agent.contract.bench import BenchResult, Run
from edge_agent.contract.errors import ConfigError, EdgeError
from edge_agent.contract.manifest import Figures, Output, State
from edge_agent.infer import CPU

if TYPE_CHECKING:
    from converter.case import Case  # which imports scikit-learn; a device has none

_WINDOWS, _ENDS = "windows.npy", "ends.json"
_WINDOWS_N_MAX: Final = 256


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one ONNX file on one machine; fields as of Figures."""

    model_sha256: str
    p50_us: float
    p99_us: float
    load_ms: float
    rss_bytes: int
    machine: str


class Ends(msgspec.Struct, frozen=True, kw_only=True):
    """The tensors that the agent binds, as the manifest says them."""

    outputs: tuple[Output, ...]
    states: tuple[State, ...]


@dataclass(frozen=True)
class Target:
    """What was measured elsewhere.

    Attributes:
        machine: what the figures were measured on.
        rows: by the SHA-256 of the ONNX file.
    """

    machine: str
    rows: Mapping[str, Row]

    def figures_of(self, models: Mapping[str, bytes]) -> dict[str, Figures] | None:
        """Figures of every model by name; None unless all of them were measured."""
        if self.count(models) < len(models):
            return None
        rows = {name: self.rows[_digest(model)] for name, model in models.items()}
        return {
            name: Figures(
                file_bytes=len(models[name]),
                load_ms=row.load_ms,
                rss_bytes=row.rss_bytes,
                p50_us=row.p50_us,
                p99_us=row.p99_us,
            )
            for name, row in rows.items()
        }

    def count(self, models: Mapping[str, bytes]) -> int:
        """How many of the models were measured."""
        return sum(_digest(model) in self.rows for model in models.values())


def read_target(*paths: Path) -> Target:
    """Read files that :func:`main` printed, or ``edge-agent bench`` wrote; later ones win.

    Raises:
        ConfigError: one cannot be understood, or they come from no machine or several.
    """
    rows = [row for path in paths for row in _rows(path)]
    machines = sorted({row.machine for row in rows})
    if len(machines) != 1:
        names = ", ".join(str(path) for path in paths)
        raise ConfigError(
            f"{names}: figures of {len(machines)} machines ({', '.join(machines)}), not of one"
        )
    return Target(machines[0], {row.model_sha256: row for row in rows})


def _rows(path: Path) -> list[Row]:
    """What one file holds."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[Row] | BenchResult)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{path}: {exc}: measure on the target by python -m converter.forms.target"
        ) from exc
    if isinstance(found, list):
        return found
    own = [run for run in found.runs if (run.provider, run.threads) == (CPU, 1)]
    if not own:
        raise ConfigError(
            f"{path}: has no figures of one thread on the CPU, which is what a device runs: "
            "measure with --threads 1"
        )
    return [_row(found, own[0])]


def _row(result: BenchResult, run: Run) -> Row:
    return Row(
        model_sha256=result.model_sha256,
        p50_us=run.latency_us.p50,
        p99_us=run.latency_us.p99,
        load_ms=run.init.load_ms,
        rss_bytes=max(0, run.rss_bytes.load - run.rss_bytes.engine),
        machine=result.measured_on,
    )


def write_forms(folder: Path, models: Mapping[str, bytes], case: Case) -> None:
    """Write what a target needs to measure every form.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in models.items():
            (folder / f"{name}.onnx").write_bytes(model)
        ends = Ends(outputs=case.imported.outputs, states=case.imported.states)
        (folder / _ENDS).write_bytes(msgspec.json.encode(ends))
        np.save(folder / _WINDOWS, case.windows[:_WINDOWS_N_MAX])
    except OSError as exc:
        raise ConfigError(f"{folder}: {exc.strerror}") from exc


def bench(folder: Path) -> list[Row]:
    """Measure every form in a folder that :func:`write_forms` wrote.

    Raises:
        ConfigError: it is no such folder.
        InferenceError: a form cannot be run here.
    """
    try:
        models = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.onnx"))}
        ends = msgspec.json.decode((folder / _ENDS).read_bytes(), type=Ends)
        windows: F32 = np.load(folder / _WINDOWS, allow_pickle=False)
    except (OSError, ValueError, msgspec.DecodeError) as exc:
        raise ConfigError(f"{folder}: {exc}: give a folder of edge-convert build --forms") from exc
    found = measure(models, windows, ends.outputs, states=ends.states)
    return [
        Row(
            model_sha256=digest,
            p50_us=figures.p50_us,
            p99_us=figures.p99_us,
            load_ms=figures.load_ms,
            rss_bytes=figures.rss_bytes,
            machine=machine(),
        )
        for digest, figures in found.figures.items()
    ]


def main() -> int:
    """Measure a folder of forms and print the figures as JSON."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m converter.forms.target FOLDER >BENCH.json\n")
        return 2
    try:
        rows = bench(Path(sys.argv[1]))
    except EdgeError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
    return 0


def _digest(model: bytes) -> str:
    return hashlib.sha256(model).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
