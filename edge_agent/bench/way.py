"""A reading's whole way: through the device's pipeline, given one by one, decision by decision."""

from __future__ import annotations

from time import perf_counter_ns

from edge_agent.arrays import F32
from edge_agent.contract.bench import Way
from edge_agent.infer import Model
from edge_agent.metrics import Meters, rss_bytes
from edge_agent.replay import decide_rows

_NS_PER_S = 1_000_000_000


def walk(model: Model, rows: F32, *, seconds: float, windows_n: int) -> Way:
    """Give readings to a pipeline until the time is over.

    Args:
        model: of the bundle.
        rows: float32 (readings, channels), at least one window of them.
        seconds: how long; what was begun is finished.
        windows_n: decided in one go, by a pipeline that begins anew: what is kept in memory.
    """
    spec = model.manifest.window
    chunk_n = spec.length + (windows_n - 1) * spec.hop
    starts = range(0, max(1, len(rows) - chunk_n + 1), max(1, chunk_n - spec.length + spec.hop))
    decide_rows(model, rows[:chunk_n], Meters())  # warm: not what is measured
    meters, given, passes = Meters(), 0, 0
    began = now = perf_counter_ns()
    while not passes or now - began < seconds * _NS_PER_S:
        first = starts[passes % len(starts)]
        chunk = rows[first : first + chunk_n]
        decide_rows(model, chunk, meters)
        given, passes, now = given + len(chunk), passes + 1, perf_counter_ns()
    return Way(
        latency_us=meters.latency_us(),
        readings_per_s=round(given / (now - began) * _NS_PER_S, 1),
        rss_bytes=rss_bytes(),
    )
