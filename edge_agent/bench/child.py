"""One measurement in a process of its own, as ``python -m edge_agent.bench.child FOLDER TASK``.

The folder holds ``windows.npy`` and ``rows.npy``; the answer goes there as ``answer.json``, so that
nothing that a library prints can stand in it, and the durations as ``took.npy``.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Final, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.arrays import F32
from edge_agent.bench.operators import Traced, trace
from edge_agent.bench.steady import Seen, observe
from edge_agent.bench.way import walk
from edge_agent.contract.bench import Way
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.errors import EdgeError, InferenceError
from edge_agent.infer import CPU, Model, engine_of

START_S_MAX: Final = 300.0  # to start, load and warm up: a large forest on a small board
_ANSWER, _TOOK, _WINDOWS, _ROWS = "answer.json", "took.npy", "windows.npy", "rows.npy"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a child does.

    Attributes:
        kind: ``steady`` gives a :class:`Steady`, ``trace`` a
            :class:`~edge_agent.bench.operators.Traced`, ``way`` a
            :class:`~edge_agent.contract.bench.Way`.
        bundle: path of the file.
        seconds: how long it measures.
        threads: inside one operator.
        provider: onnxruntime's name of what executes the nodes.
        windows_n: of ``way``: decided in one go.
    """

    kind: Literal["steady", "trace", "way"]
    bundle: str
    seconds: float
    threads: int = 1
    provider: str = CPU
    windows_n: int = 1


class Steady(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one configuration; fields as of :class:`~edge_agent.bench.steady.Seen`."""

    read_ns: int
    load_ns: int
    first_ns: int
    warm_up_n: int
    warm_up_p50_ns: float
    elapsed_ns: int
    rss: tuple[int, int, int]


T = TypeVar("T")


class Laboratory:
    """Starts children on the same input, one after the other.

    Args:
        folder: of its own.
        windows: float32 (n, length, channels).
        rows: float32 (readings, channels).
    """

    def __init__(self, folder: Path, windows: F32, rows: F32) -> None:
        self._folder = folder
        np.save(folder / _WINDOWS, windows)
        np.save(folder / _ROWS, rows)

    def steady(self, task: Task) -> tuple[Steady, NDArray[np.int64]]:
        """Measure a configuration; its durations in nanoseconds are the second value.

        Raises:
            InferenceError: the child failed.
        """
        found = self._run(task, Steady)
        return found, np.load(self._folder / _TOOK, allow_pickle=False)

    def trace(self, task: Task) -> Traced:
        """Profile a configuration; raises as :meth:`steady`."""
        return self._run(task, Traced)

    def way(self, task: Task) -> Way:
        """Measure a reading's whole way; raises as :meth:`steady`."""
        return self._run(task, Way)

    def _run(self, task: Task, kind: type[T]) -> T:
        command = [sys.executable, "-m", __name__, str(self._folder)]
        try:
            subprocess.run(
                [*command, msgspec.json.encode(task).decode()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=START_S_MAX + task.seconds,
                check=True,
            )
            return msgspec.json.decode((self._folder / _ANSWER).read_bytes(), type=kind)
        except subprocess.CalledProcessError as exc:
            last = exc.stderr.decode(errors="replace").strip().splitlines()[-1:]
            why = "".join(last) or f"its process ended with status {exc.returncode}"
            raise InferenceError(f"the model cannot be measured: {why}") from exc
        except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as exc:
            raise InferenceError(f"the model cannot be measured: {exc}") from exc


def main() -> int:
    """The child process."""
    folder = Path(sys.argv[1])
    task = msgspec.json.decode(sys.argv[2], type=Task)
    work: dict[str, Callable[[Task, Path], Steady | Traced | Way]] = {
        "steady": _steady,
        "trace": _trace,
        "way": _way,
    }
    try:
        answer = work[task.kind](task, folder)
    except EdgeError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    (folder / _ANSWER).write_bytes(msgspec.json.encode(answer))
    return 0


def _steady(task: Task, folder: Path) -> Steady:
    start = perf_counter_ns()
    bundle = read_bundle(Path(task.bundle))
    read_ns = perf_counter_ns() - start
    seen: Seen = observe(
        lambda: engine_of(bundle, threads=task.threads, provider=task.provider),
        _array(folder / _WINDOWS),
        seconds=task.seconds,
    )
    np.save(folder / _TOOK, seen.took_ns)
    return Steady(
        read_ns=read_ns,
        load_ns=seen.load_ns,
        first_ns=seen.first_ns,
        warm_up_n=len(seen.warm_up_ns),
        warm_up_p50_ns=float(np.median(seen.warm_up_ns)),
        elapsed_ns=seen.elapsed_ns,
        rss=seen.rss,
    )


def _trace(task: Task, folder: Path) -> Traced:
    bundle = read_bundle(Path(task.bundle))
    return trace(
        lambda to: engine_of(bundle, threads=task.threads, provider=task.provider, trace=to),
        _array(folder / _WINDOWS),
        seconds=task.seconds,
    )


def _way(task: Task, folder: Path) -> Way:
    model, rows = Model.load(read_bundle(Path(task.bundle))), _array(folder / _ROWS)
    gc.collect()
    gc.freeze()  # as the agent does
    return walk(model, rows, seconds=task.seconds, windows_n=task.windows_n)


def _array(path: Path) -> F32:
    found: F32 = np.load(path, allow_pickle=False)
    return found


if __name__ == "__main__":
    sys.exit(main())
