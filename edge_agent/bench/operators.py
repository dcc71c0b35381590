"""Where the time of an answer goes, by kind of operator.

onnxruntime's profiler counts whole microseconds and itself takes some at every node: of small
operators it tells shares rather than times.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.arrays import F32
from edge_agent.contract.bench import Operator
from edge_agent.infer import Engine

OPERATORS_MAX: Final = 12
_RUN_N_MIN, _RUN_N_MAX = 20, 1_000


class Traced(msgspec.Struct, frozen=True, kw_only=True):
    """What the profiler saw.

    Attributes:
        operators: those that take longest first, at most :data:`OPERATORS_MAX`.
        providers: nodes by what executed them.
    """

    operators: tuple[Operator, ...]
    providers: dict[str, int]


def trace(make: Callable[[Path], Engine], windows: F32, *, seconds: float) -> Traced:
    """Run an engine with the profiler on.

    Args:
        make: loads it, given its argument ``trace``.
        windows: (n, length, channels), fed in turn.
        seconds: how long; 20 inferences at least, 1,000 at most.

    Raises:
        InferenceError: it cannot be loaded or run.
    """
    with tempfile.TemporaryDirectory(prefix="edge-trace-") as folder:
        engine = make(Path(folder) / "nodes")
        end, runs = time.perf_counter() + seconds, 0
        while runs < _RUN_N_MAX and (runs < _RUN_N_MIN or time.perf_counter() < end):
            engine.run(windows[runs % len(windows)])
            runs += 1
        events = msgspec.json.decode(engine.end_trace().read_bytes(), type=list[Any])
    kernels = [event for event in events if str(event.get("name")).endswith("_kernel_time")]
    return Traced(operators=_operators(kernels, runs), providers=_providers(kernels, runs))


def _operators(kernels: list[dict[str, Any]], runs: int) -> tuple[Operator, ...]:
    """The kernels' time by kind of operator; what is beyond the table is one row."""
    took: dict[str, list[int]] = defaultdict(list)
    for event in kernels:
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


def _providers(kernels: list[dict[str, Any]], runs: int) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for event in kernels:
        found[str(event["args"].get("provider", "unknown"))] += 1
    return {name: count // runs for name, count in sorted(found.items())}
