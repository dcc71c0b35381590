"""Where an answer's time goes, and what a device's memory will hold: seen in a child process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edge_agent.arrays import F32
from edge_agent.bench.operators import trace
from edge_agent.contract.bench import Operator
from edge_agent.contract.errors import InferenceError
from edge_agent.contract.manifest import Output, State
from edge_agent.infer import Engine
from edge_agent.metrics import rss_bytes

CHILD_S_MAX: Final = 120.0
_WINDOWS_N_MAX: Final = 256
_RUN_S_MAX: Final = 0.5


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one ONNX file.

    Attributes:
        engine_bytes: resident memory of a process with onnxruntime and no model, as the child
            that tries a new model has.
        agent_bytes: of one with all of the agent imported and no model.
        operators: those that take longest first, at most
            :data:`~edge_agent.bench.operators.OPERATORS_MAX`.
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

    agent_bytes = rss_bytes()
    _, length, channels = windows.shape
    traced = trace(
        lambda to: Engine(
            model,
            length=length,
            channels=channels,
            outputs=task.outputs,
            states=task.states,
            trace=to,
        ),
        windows,
        seconds=_RUN_S_MAX,
    )
    found = Profile(engine_bytes=engine_bytes, agent_bytes=agent_bytes, operators=traced.operators)
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
