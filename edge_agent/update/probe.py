"""Try a bundle in a child process: golden vectors, within bounds of time and memory.

A model that crashes, eats the memory or never answers takes the child down, not the agent; and
checking long golden vectors in the agent's own process would slow its pipelines a hundredfold.
Run as ``python -m edge_agent.update.probe``, the module is that child.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.errors import BundleError, InferenceError
from edge_agent.infer import Engine, engine_of, golden_fault
from edge_agent.metrics import rss_bytes
from edge_agent.update.bounds import bound

_POLL_S: Final = 0.02
_ANSWER_BYTES_MAX: Final = 64 * 1024  # what a pipe holds, so the child never waits for a reader
_RUNS: Final = 100  # timed inferences
_MEMORY_SIGNS: Final = ("bad_alloc", "bad allocation", "allocate memory")  # of onnxruntime


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the child found.

    Attributes:
        ok: the model answers as the original did.
        reason: why not; empty when ok.
        load_ms: time to create the session on this machine.
        p50_us: median of one inference on random windows.
        rss_bytes: growth of resident memory from before loading to after the golden vectors.
    """

    ok: bool
    reason: str = ""
    load_ms: float = 0.0
    p50_us: float = 0.0
    rss_bytes: int = 0


class Probe:
    """A child at work on one bundle; ``poll`` until it gives the result. One thread.

    Args:
        path: the bundle.
        seconds: longest time.
        bytes_max: most memory that the child may take.
    """

    def __init__(self, path: Path, *, seconds: float, bytes_max: int) -> None:
        self._seconds = seconds
        self._deadline_s = time.monotonic() + seconds
        command = [sys.executable, "-m", __name__, str(path), str(seconds), str(bytes_max)]
        try:
            self._child: subprocess.Popen[bytes] | None = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
        except OSError as exc:
            self._child = None
            self._result = _refusal(f"the probe cannot be started: {exc.strerror}")

    def poll(self) -> ProbeResult | None:
        """The result, or None while the child is at work; kills it when its time is up."""
        child = self._child
        if child is None:
            return self._result
        if child.poll() is None and time.monotonic() < self._deadline_s:
            return None
        late = child.poll() is None
        answer = self._end(child)
        if late:
            self._result = _refusal(f"the model did not answer within {self._seconds:g} s")
        else:
            self._result = _judge(child.returncode, answer)
        return self._result

    def close(self) -> None:
        """End the child if it is still at work."""
        if self._child is not None:
            self._end(self._child)
            self._result = _refusal("the probe was called off")

    def _end(self, child: subprocess.Popen[bytes]) -> bytes:
        child.kill()
        child.wait()
        self._child = None
        if child.stdout is None:
            return b""
        with child.stdout as pipe:
            return pipe.read(_ANSWER_BYTES_MAX)


def run_probe(path: Path, *, seconds: float, bytes_max: int) -> ProbeResult:
    """Probe a bundle and wait for the result. Never raises because of the bundle."""
    probe = Probe(path, seconds=seconds, bytes_max=bytes_max)
    while (result := probe.poll()) is None:
        time.sleep(_POLL_S)
    return result


def _judge(status: int, answer: bytes) -> ProbeResult:
    """From how the child ended and what it said."""
    if status == -signal.SIGKILL:
        return _refusal("killed with signal 9, as the kernel does when memory is short")
    if status == -signal.SIGXCPU:
        return _refusal("the model took all the processor time that it may")
    if status < 0:
        return _refusal(f"crashed with signal {-status}")
    try:
        return msgspec.json.decode(answer, type=ProbeResult)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _refusal(f"the probe ended with status {status} and no answer: see the log")


def _refusal(reason: str) -> ProbeResult:
    return ProbeResult(ok=False, reason=reason)


# --- the child -----------------------------------------------------------------------------------


def main() -> None:
    """Probe the bundle that the command line names; print a :class:`ProbeResult` as JSON."""
    import argparse  # noqa: PLC0415 - the agent imports this module too, and needs no parser

    parser = argparse.ArgumentParser(prog="python -m edge_agent.update.probe")
    parser.add_argument("path", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("bytes_max", type=int)
    arguments = parser.parse_args()
    answer_to = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not stand in the answer
    bound(arguments.seconds, arguments.bytes_max)
    try:
        result = _probe(arguments.path)
    except (BundleError, InferenceError, MemoryError) as exc:
        text = str(exc)
        if isinstance(exc, MemoryError) or any(sign in text for sign in _MEMORY_SIGNS):
            text = f"it needs more memory than {arguments.bytes_max / 2**20:.0f} MiB"
        result = _refusal(text)
    os.write(answer_to, msgspec.json.encode(result))


def _probe(path: Path) -> ProbeResult:
    bundle = read_bundle(path)
    before = rss_bytes()
    start_ns = time.perf_counter_ns()
    engine = engine_of(bundle)
    load_ms = (time.perf_counter_ns() - start_ns) / 1e6
    if fault := golden_fault(bundle, engine):
        return _refusal(fault)
    return ProbeResult(
        ok=True, load_ms=load_ms, p50_us=_p50_us(engine), rss_bytes=rss_bytes() - before
    )


def _p50_us(engine: Engine) -> float:
    """On rotating windows: a repeated one would train the branch predictor of a forest."""
    windows = np.random.default_rng(0).normal(size=(_RUNS, *engine.input.shape[1:]))
    times_ns = []
    for window in windows.astype(np.float32):
        start_ns = time.perf_counter_ns()
        engine.run(window)
        times_ns.append(time.perf_counter_ns() - start_ns)
    return float(np.median(times_ns)) / 1e3


if __name__ == "__main__":
    main()
