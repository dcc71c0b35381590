"""One engine in this process, from nothing to the steady state: loaded, warmed up, measured.

Load time and memory can only be seen in a process that has loaded no model before.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.arrays import F32
from edge_agent.contract.manifest import Output
from edge_agent.infer import Engine
from edge_agent.metrics import rss_bytes

WARM_UP_N: Final = 50
RUN_N_MIN: Final = 20
RUN_N_MAX: Final = 200_000
_NS_PER_S: Final = 1_000_000_000
# An ONNX file (opset 18) of one node: window (N, 1, 1) > Flatten > value (N, 1).
_TINY: Final = (
    b'\x08\t:b\n%\n\x06window\x12\x05value"\x07Flatten*\x0b\n\x04axis\x18\x01\xa0\x01\x02\x12\x00'
    b"Z\x1d\n\x06window\x12\x13\n\x11\x08\x01\x12\r\n\x03\x12\x01N\n\x02\x08\x01\n\x02\x08\x01b\x18\n"
    b"\x05value\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01N\n\x02\x08\x01B\x04\n\x00\x10\x12"
)


class Runner(Protocol):
    """What is observed: an :class:`~edge_agent.infer.Engine`, or what it is compared with."""

    def run(self, window: F32, /) -> None:
        """Run one window, float32 (length, channels)."""
        ...


@dataclass(frozen=True)
class Seen:
    """What was seen of one engine.

    Attributes:
        load_ns: to create the session.
        first_ns: the first inference.
        warm_up_ns: each of those that followed it.
        took_ns: each of the steady state, int64.
        elapsed_ns: the whole of the steady state.
        rss: resident memory with onnxruntime ready and no model, after the first inference, at
            the end.
    """

    load_ns: int
    first_ns: int
    warm_up_ns: NDArray[np.int64]
    took_ns: NDArray[np.int64]
    elapsed_ns: int
    rss: tuple[int, int, int]


def observe(
    make: Callable[[], Runner],
    windows: F32,
    *,
    seconds: float,
    run_n_min: int = RUN_N_MIN,
    run_n_max: int = RUN_N_MAX,
) -> Seen:
    """Load an engine and run it.

    Args:
        make: loads it.
        windows: (n, length, channels), fed in turn; few that repeat would train the branch
            predictor.
        seconds: of the steady state; the warm-up takes a tenth of it at most.
        run_n_min: inferences in the steady state, whatever time they take.
        run_n_max: at most so many.

    Raises:
        InferenceError: it cannot be loaded or run.
    """
    _warm_up_onnxruntime()
    durations = array("q", bytes(8 * run_n_max))  # written once: no page of it is new later
    engine_rss = rss_bytes()
    start = perf_counter_ns()
    engine = make()
    load_ns = perf_counter_ns() - start
    _run(engine, windows[:1], durations, n_min=1, n_max=1, seconds=0.0)
    first_ns, load_rss = durations[0], rss_bytes()
    count, _ = _run(engine, windows, durations, n_min=1, n_max=WARM_UP_N, seconds=seconds / 10)
    warm_up_ns = np.array(durations[:count], np.int64)
    count, elapsed_ns = _run(
        engine, windows, durations, n_min=run_n_min, n_max=run_n_max, seconds=seconds
    )
    return Seen(
        load_ns=load_ns,
        first_ns=first_ns,
        warm_up_ns=warm_up_ns,
        rss=(engine_rss, load_rss, rss_bytes()),
        took_ns=np.array(durations[:count], np.int64),
        elapsed_ns=elapsed_ns,
    )


def _run(
    engine: Runner,
    windows: F32,
    durations: array[int],
    *,
    n_min: int,
    n_max: int,
    seconds: float,
) -> tuple[int, int]:
    """Run until the time is over; how many inferences, and how long all of it took."""
    run, count, n = engine.run, len(windows), 0
    began = perf_counter_ns()
    end = began + round(seconds * _NS_PER_S)
    done = began
    while n < n_max and (n < n_min or done < end):
        window = windows[n % count]
        start = perf_counter_ns()
        run(window)
        done = perf_counter_ns()
        durations[n] = done - start
        n += 1
    return n, done - began


def _warm_up_onnxruntime() -> None:
    """Run the smallest model there is: what onnxruntime itself needs is no model's memory."""
    output = Output(name="value", role="value", width=1)
    Engine(_TINY, length=1, channels=1, outputs=(output,)).run(np.zeros((1, 1), np.float32))
