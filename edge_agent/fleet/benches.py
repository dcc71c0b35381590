"""What devices measured of their models, as they published it, and as a table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from edge_agent.contract.bench import BENCH_SCHEMA, BenchResult, Run
from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import decode
from edge_agent.contract.names import name_fault
from edge_agent.contract.topics import Topics
from edge_agent.fleet.text import clean

BENCH_HEADER: Final = (
    "model",
    "version",
    "board",
    "device",
    "engine",
    "p50 µs",
    "p99 µs",
    "per s",
    "load ms",
    "MiB",
)


def read_benches(
    topics: Topics, answers: Mapping[str, bytes]
) -> tuple[list[BenchResult], list[str]]:
    """The results in what a broker answered, and what was wrong with the others.

    Returns:
        Results by model, version, board and device, so that like stands beside like; faults.
    """
    found: list[BenchResult] = []
    faults: list[str] = []
    for topic, payload in answers.items():
        if not payload:  # cleared
            continue
        try:
            found.append(_read(topics, topic, payload))
        except LinkError as exc:
            faults.append(f"{topic}: {exc}")
    found.sort(key=lambda each: (each.model, each.version, _board(each), each.device))
    return found, faults


def bench_rows(results: Iterable[BenchResult]) -> list[tuple[str, ...]]:
    """One row for each configuration, by :data:`BENCH_HEADER`."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        head = (result.model, result.version, _board(result), result.device)
        for run in result.runs:
            rows.append((*(clean(cell) for cell in head), *_cells(run)))
            head = ("", "", "", "")
    return rows


def bench_notes(results: Iterable[BenchResult]) -> list[str]:
    """What makes figures doubtful, device by device."""
    return [
        clean(f"{result.device}: {result.model}: {remark}")
        for result in results
        for remark in result.remarks
    ]


def _read(topics: Topics, topic: str, payload: bytes) -> BenchResult:
    device = topics.device_of(topic) or ""
    result = decode(payload, BenchResult)
    if result.schema > BENCH_SCHEMA:
        raise LinkError(f"figures of schema {result.schema}: update edge-fleet")
    if result.device != device or name_fault("device", device):
        raise LinkError(f"figures of device {result.device!r} came here")
    if topic != topics.bench(device, result.model) or name_fault("model", result.model):
        raise LinkError(f"figures of model {result.model!r} came here")
    return result


def _board(result: BenchResult) -> str:
    return result.machine.board or result.machine.name


def _cells(run: Run) -> tuple[str, ...]:
    return (
        clean(run.name),
        f"{run.latency_us.p50:.1f}",
        f"{run.latency_us.p99:.1f}",
        f"{run.per_s:.0f}",
        f"{run.init.load_ms:.1f}",
        f"{run.rss_bytes.steady / 2**20:.1f}",
    )
