"""Where the time of an answer goes, and what a device's memory will hold: seen in a child process.

onnxruntime's profiler counts whole microseconds and itself takes some at every node: of small
operators it tells shares rather than times.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnxruntime as ort

from edge_agent.arrays import F32
from edge_agent.contract.errors import InferenceError
from edge_agent.contract.manifest import INPUT_NAME, Output, State
from edge_agent.metrics import rss_bytes

CHILD_S_MAX: Final = 120.0
OPERATORS_MAX: Final = 12
_WINDOWS_N_MAX: Final = 256
_RUN_N_MIN, _RUN_N_MAX = 20, 1_000
_RUN_S_MAX: Final = 0.5
_FATAL_ONLY: Final = 4


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes of one kind, as onnxruntime runs them.

    Attributes:
        kind: name of the operator; the last one may be ``other``.
        nodes: how many there are.
        us: microseconds that they take together with the profiler on, the mean over windows.
    """

    kind: str
    nodes: int
    us: float


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one ONNX file.

    Attributes:
        engine_bytes: resident memory of a process with onnxruntime and no model, as the child
            that tries a new model has.
        agent_bytes: of one with all of the agent imported and no model.
        operators: those that take longest first, at most :data:`OPERATORS_MAX`.
    """

    engine_bytes: int
    agent_bytes: int
    operators: tuple[Operator, ...]


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    outputs: tuple[Output, ...]
    states: tuple[State, ...]


def profile(
    model: bytes, windows: F32, outputs: Sequence[Output], states: Sequence[State]
) -> Profile:
    """Profile one model in a child process.

    Args:
        model: ONNX bytes.
        windows: (n, length, channels), fed in turn.
        outputs: the tensors that the agent binds.
        states: what it hands from one window to the next.

    Raises:
        InferenceError: the child fails.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="edge-convert-") as name:
            folder = Path(name)
            (folder / "model.onnx").write_bytes(model)
            task = _Task(outputs=tuple(outputs), states=tuple(states))
            (folder / "task.json").write_bytes(msgspec.json.encode(task))
            np.save(folder / "windows.npy", windows[:_WINDOWS_N_MAX])
            command = [sys.executable, "-m", "converter.profile", name]
            done = subprocess.run(command, capture_output=True, timeout=CHILD_S_MAX, check=True)
        return msgspec.json.decode(done.stdout, type=Profile)
    except subprocess.CalledProcessError as exc:
        last = exc.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InferenceError(f"the model cannot be profiled: {''.join(last)}") from exc
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as exc:
        raise InferenceError(f"the model cannot be profiled: {exc}") from exc


def main() -> None:
    """The child process: profile ``model.onnx`` in a folder, print the profile as JSON."""
    folder = Path(sys.argv[1])
    model = (folder / "model.onnx").read_bytes()
    windows: F32 = np.load(folder / "windows.npy", allow_pickle=False)
    task = msgspec.json.decode((folder / "task.json").read_bytes(), type=_Task)
    engine_bytes = rss_bytes()
    import edge_agent.agent  # noqa: F401, PLC0415 (only now, to see what it adds)

    found = Profile(
        engine_bytes=engine_bytes,
        agent_bytes=rss_bytes(),
        operators=_operators(_events(model, windows, task, folder)),
    )
    sys.stdout.buffer.write(msgspec.json.encode(found))


def _events(
    model: bytes, windows: F32, task: _Task, folder: Path
) -> tuple[list[dict[str, Any]], int]:
    """The profiler's events of a number of runs, and that number."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    options.add_free_dimension_override_by_name("N", 1)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in task.outputs] + [state.output for state in task.states]
    fed = {state.input: np.zeros(state.shape, state.dtype) for state in task.states}
    end = time.perf_counter() + _RUN_S_MAX
    runs = 0
    while runs < _RUN_N_MAX and (runs < _RUN_N_MIN or time.perf_counter() < end):
        session.run(names, {INPUT_NAME: windows[runs % len(windows)][None], **fed})
        runs += 1
    events = msgspec.json.decode(Path(session.end_profiling()).read_bytes(), type=list[Any])
    return [event for event in events if event.get("cat") == "Node"], runs


def _operators(found: tuple[list[dict[str, Any]], int]) -> tuple[Operator, ...]:
    """The kernels' time by kind of operator."""
    events, runs = found
    took: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if str(event["name"]).endswith("_kernel_time"):
            took[str(event["args"]["op_name"])].append(int(event["dur"]))
    rows = [
        Operator(kind=kind, nodes=len(each) // runs, us=round(sum(each) / runs, 2))
        for kind, each in took.items()
    ]
    rows.sort(key=lambda row: (-row.us, row.kind))
    if len(rows) <= OPERATORS_MAX:
        return tuple(rows)
    rest = rows[OPERATORS_MAX - 1 :]
    nodes, us = sum(row.nodes for row in rest), round(sum(row.us for row in rest), 2)
    return (*rows[: OPERATORS_MAX - 1], Operator(kind="other", nodes=nodes, us=us))


if __name__ == "__main__":
    main()
