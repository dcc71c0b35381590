"""A result for people to read. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edge_agent.contract.bench import BenchResult, Conditions, Run
from edge_agent.text import text_table

_MIB: Final = 2**20
_UNKNOWN: Final = "unknown"


def format_result(result: BenchResult) -> str:
    """The whole result as text."""
    return "\n".join(_lines(result))


def _lines(result: BenchResult) -> Iterator[str]:
    machine = result.machine
    board = f"{machine.board}, " if machine.board else ""
    yield f"{result.model} {result.version} ({result.form}, {result.file_bytes} bytes)"
    yield (
        f"on {board}{machine.cpu or _UNKNOWN}, {machine.arch}, {machine.cores} cores, "
        f"{machine.memory_bytes / _MIB:.0f} MiB"
    )
    yield machine.system
    yield ", ".join(f"{name} {version}" for name, version in result.versions.items())
    yield f"input: {result.input.windows} windows of {result.input.source}"
    yield f"before: {_conditions(result.before)}"
    yield f"after:  {_conditions(result.after)}"
    yield ""
    yield _starts(result.runs)
    yield ""
    yield "steady state, us"
    yield _steady(result.runs)
    for name, why in result.skipped.items():
        yield f"not measured: {name}: {why}"
    if result.operators:
        yield ""
        yield "by operator, us, the profiler's own time included"
        kinds = [(row.kind, str(row.nodes), f"{row.us:.1f}") for row in result.operators]
        yield text_table(("operator", "nodes", "us"), kinds)
    if result.way:
        yield ""
        yield (
            f"a reading's whole way, us; {result.way.readings_per_s:.0f} readings/s, "
            f"{result.way.rss_bytes / _MIB:.1f} MiB"
        )
        stages = result.way.latency_us.items()
        rows = [
            (name, str(took.n), *(f"{us:.1f}" for us in (took.p50, took.p99, took.p999, took.max)))
            for name, took in stages
        ]
        yield text_table(("stage", "n", "p50", "p99", "p99.9", "max"), rows)
    for remark in result.remarks:
        yield f"note: {remark}"


def _starts(runs: tuple[Run, ...]) -> str:
    header = (
        "init and warm-up",
        "read ms",
        "load ms",
        "first us",
        "warm-up us",
        "engine MiB",
        "load",
    )
    rows = [
        (
            run.name,
            f"{run.init.read_ms:.1f}",
            f"{run.init.load_ms:.1f}",
            f"{run.warm_up.first_us:.1f}",
            f"{run.warm_up.p50_us:.1f}",
            f"{run.rss_bytes.engine / _MIB:.1f}",
            f"{run.rss_bytes.load / _MIB:.1f}",
        )
        for run in runs
    ]
    return text_table(header, rows)


def _steady(runs: tuple[Run, ...]) -> str:
    header = ("engine", "n", "p50", "p90", "p99", "p99.9", "max", "rounds", "per s", "MiB")
    rows = []
    for run in runs:
        took = run.latency_us
        rounds = f"{min(run.rounds_p50_us):.1f} to {max(run.rounds_p50_us):.1f}"
        figures = (took.p50, took.p90, took.p99, took.p999, took.max)
        rows.append(
            (
                run.name,
                str(took.n),
                *(f"{us:.1f}" for us in figures),
                rounds,
                f"{run.per_s:.0f}",
                f"{run.rss_bytes.steady / _MIB:.1f}",
            )
        )
    return text_table(header, rows)


def _conditions(found: Conditions) -> str:
    clock = _UNKNOWN
    if found.clock_mhz:
        top = f" of {found.clock_mhz_max:.0f}" if found.clock_mhz_max else ""
        clock = f"{min(found.clock_mhz):.0f} to {max(found.clock_mhz):.0f}{top} MHz"
    zones = (found.temperature_c or {}).items()
    heat = ", ".join(f"{name} {value:.1f} °C" for name, value in zones)
    throttled = [
        *([] if found.pi_flags is None else [f"flags 0x{found.pi_flags:x}"]),
        *([] if found.throttle_events is None else [f"{found.throttle_events} events since start"]),
    ]
    return (
        f"governor {', '.join(found.governors or (_UNKNOWN,))}; clock {clock}; "
        f"temperature {heat or _UNKNOWN}; throttling {', '.join(throttled) or _UNKNOWN}"
    )
