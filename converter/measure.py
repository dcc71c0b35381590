"""Measure forms of a model on the agent's call path, each in fresh child processes.

Load time and memory can only be seen in a process that has loaded no model before. The forms take
turns, several times, so that whatever else the machine does meanwhile meets all of them.

Figures belong to a machine and an ONNX file and are kept beside the bundle: building again from
the same inputs then gives the same bundle, to the byte.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from converter.profile import Profile
from edge_agent.arrays import F32
from edge_agent.bench.machine import read_machine
from edge_agent.bench.steady import observe
from edge_agent.contract.bench import measured_on
from edge_agent.contract.errors import ConfigError, InferenceError
from edge_agent.contract.manifest import Figures, Output, State
from edge_agent.infer import Engine

ROUNDS: Final = 3
CHILD_S_MAX: Final = 120.0
_RUN_N_MIN, _RUN_N_MAX = 100, 5_000
_RUN_S_MAX: Final = 0.25
_WINDOWS_N_MAX: Final = 256


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept beside the bundle.

    Attributes:
        machine: what the figures were measured on.
        figures: by the SHA-256 of the ONNX file.
        untried: names of forms that time did not allow to build.
        profiles: of the form in the bundle, by the SHA-256 of the ONNX file.
    """

    machine: str
    figures: dict[str, Figures]
    untried: tuple[str, ...] = ()
    profiles: dict[str, Profile] = {}


def measure(
    models: Mapping[str, bytes],
    windows: F32,
    outputs: Sequence[Output],
    *,
    states: Sequence[State] = (),
    known: Measured | None = None,
    contenders: Callable[[Mapping[str, Figures]], Collection[str]] = lambda figures: figures,
    progress: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Measure every model that ``known`` has no figures of.

    Args:
        models: ONNX bytes by name.
        windows: (n, length, channels), fed in turn.
        outputs: the tensors that the agent binds.
        states: what it hands from one window to the next.
        known: earlier figures; those of another machine do not count.
        contenders: told the figures of the first round by name; names those for which it matters
            to measure them in the other rounds too.
        progress: told what is measured next.

    Raises:
        InferenceError: a model cannot be run in a child process.
    """
    here = machine()
    found = known.figures if known is not None and known.machine == here else {}
    wanted = {_digest(model): (name, model) for name, model in models.items()}
    rounds: dict[str, list[Figures]] = {key: [] for key in wanted if key not in found}
    again = set(rounds)
    for number in range(ROUNDS):
        for key in (key for key in rounds if key in again):
            name, model = wanted[key]
            progress(f"measuring {name} ({number + 1} of {ROUNDS})")
            rounds[key].append(_in_child(model, windows, outputs, states))
        if number == 0:
            first = found | {key: results[0] for key, results in rounds.items()}
            chosen = contenders({name: first[_digest(model)] for name, model in models.items()})
            again &= {_digest(models[name]) for name in chosen}
    fresh = {key: _quietest(results) for key, results in rounds.items()}
    return Measured(machine=here, figures={key: (found | fresh)[key] for key in sorted(wanted)})


def figures_of(measured: Measured, model: bytes) -> Figures:
    """The figures of one ONNX file."""
    return measured.figures[_digest(model)]


def read_measured(path: Path) -> Measured | None:
    """Earlier figures; None when there are none yet.

    Raises:
        ConfigError: the file cannot be understood.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Measured)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {exc}: delete it, or measure anew with --measure") from exc


def encode_measured(measured: Measured) -> bytes:
    """The file that :func:`read_measured` reads."""
    data = msgspec.json.encode(measured, order="sorted")
    return msgspec.json.format(data, indent=2) + b"\n"


def machine() -> str:
    """What figures depend on: processor, engine and its version."""
    return measured_on(read_machine(), metadata.version("onnxruntime"))


def main() -> None:
    """The child process: measure ``model.onnx`` in a folder, print the figures as JSON."""
    folder = Path(sys.argv[1])
    model = (folder / "model.onnx").read_bytes()
    windows: F32 = np.load(folder / "windows.npy", allow_pickle=False)
    outputs = msgspec.json.decode((folder / "outputs.json").read_bytes(), type=list[Output])
    states = msgspec.json.decode((folder / "states.json").read_bytes(), type=list[State])
    sys.stdout.buffer.write(msgspec.json.encode(_measure_here(model, windows, outputs, states)))


def _measure_here(
    model: bytes, windows: F32, outputs: Sequence[Output], states: Sequence[State]
) -> Figures:
    """Measure in this process, which must not have loaded a model before."""
    _, length, channels = windows.shape
    seen = observe(
        lambda: Engine(model, length=length, channels=channels, outputs=outputs, states=states),
        windows,
        seconds=_RUN_S_MAX,
        run_n_min=_RUN_N_MIN,
        run_n_max=_RUN_N_MAX,
    )
    p50, p99 = np.percentile(seen.took_ns, (50, 99)).tolist()
    return Figures(
        file_bytes=len(model),
        load_ms=round(seen.load_ns / 1e6, 3),
        rss_bytes=max(0, seen.rss[1] - seen.rss[0]),
        p50_us=round(p50 / 1e3, 2),
        p99_us=round(p99 / 1e3, 2),
    )


def _in_child(
    model: bytes, windows: F32, outputs: Sequence[Output], states: Sequence[State]
) -> Figures:
    try:
        with tempfile.TemporaryDirectory(prefix="edge-convert-") as name:
            folder = Path(name)
            (folder / "model.onnx").write_bytes(model)
            (folder / "outputs.json").write_bytes(msgspec.json.encode(list(outputs)))
            (folder / "states.json").write_bytes(msgspec.json.encode(list(states)))
            np.save(folder / "windows.npy", windows[:_WINDOWS_N_MAX])
            command = [sys.executable, "-m", "converter.measure", name]
            done = subprocess.run(command, capture_output=True, timeout=CHILD_S_MAX, check=True)
        return msgspec.json.decode(done.stdout, type=Figures)
    except subprocess.CalledProcessError as exc:
        last = exc.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InferenceError(f"the model cannot be measured: {''.join(last)}") from exc
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as exc:
        raise InferenceError(f"the model cannot be measured: {exc}") from exc


def _quietest(rounds: Sequence[Figures]) -> Figures:
    """The smallest of each figure: whatever else the machine does only ever adds to it."""
    return Figures(
        file_bytes=rounds[0].file_bytes,
        load_ms=min(figures.load_ms for figures in rounds),
        rss_bytes=min(figures.rss_bytes for figures in rounds),
        p50_us=min(figures.p50_us for figures in rounds),
        p99_us=min(figures.p99_us for figures in rounds),
    )


def _digest(model: bytes) -> str:
    return hashlib.sha256(model).hexdigest()


if __name__ == "__main__":
    main()
