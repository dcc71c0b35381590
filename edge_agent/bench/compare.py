"""Two results side by side: which is faster, and by how much beyond noise. Pure.

The noise of a configuration is the range of its rounds' medians. One is faster only if the ranges
keep apart by 2 %, which is what the same thing measured twice differs by; what lies between them
is the least that it is faster by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from edge_agent.contract.bench import BENCH_SCHEMA, BenchResult, Run
from edge_agent.contract.errors import ConfigError
from edge_agent.text import text_table

_APART: Final = 1.02
Faster = Literal["a", "b", "neither"]


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration that both results have; ratios are of B to A.

    Attributes:
        faster: by the median, beyond noise.
        at_least: by which factor at least; 1 for ``neither``.
    """

    name: str
    p50_us: tuple[float, float]
    p99_us: tuple[float, float]
    p50_ratio: float
    p99_ratio: float
    per_s_ratio: float
    load_ratio: float
    rss_ratio: float
    faster: Faster
    at_least: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two results.

    Attributes:
        same_input: whether both were fed the same values; else no figure can be trusted, because
            the time of trees depends on them.
        same_model: whether the ONNX files are the same.
        same_machine: whether processor and onnxruntime are the same.
        unmatched: configurations that only one has.
    """

    a: str
    b: str
    same_input: bool
    same_model: bool
    same_machine: bool
    pairs: tuple[Pair, ...]
    unmatched: tuple[str, ...]


def compare(a: BenchResult, b: BenchResult) -> Comparison:
    """Compare every configuration that both have."""
    of_a, of_b = ({run.name: run for run in result.runs} for result in (a, b))
    return Comparison(
        a=_title(a),
        b=_title(b),
        same_input=a.input.sha256 == b.input.sha256,
        same_model=a.model_sha256 == b.model_sha256,
        same_machine=a.measured_on == b.measured_on,
        pairs=tuple(_pair(run, of_b[name]) for name, run in of_a.items() if name in of_b),
        unmatched=tuple(sorted(set(of_a) ^ set(of_b))),
    )


def format_comparison(found: Comparison) -> str:
    """For people to read."""
    lines = [f"A  {found.a}", f"B  {found.b}"]
    if not found.same_input:
        lines.append("the inputs differ: no verdict; give both the same recording by --input")
    if not found.same_model:
        lines.append("the models differ")
    if not found.same_machine:
        lines.append("the machines or their onnxruntime differ")
    header = (
        "",
        "p50 A",
        "p50 B",
        "B/A",
        "p99 A",
        "p99 B",
        "B/A",
        "per s B/A",
        "load B/A",
        "rss B/A",
    )
    rows = [
        (
            pair.name,
            f"{pair.p50_us[0]:.1f}",
            f"{pair.p50_us[1]:.1f}",
            f"{pair.p50_ratio:.2f}",
            f"{pair.p99_us[0]:.1f}",
            f"{pair.p99_us[1]:.1f}",
            f"{pair.p99_ratio:.2f}",
            f"{pair.per_s_ratio:.2f}",
            f"{pair.load_ratio:.2f}",
            f"{pair.rss_ratio:.2f}",
        )
        for pair in found.pairs
    ]
    lines += ["", text_table(header, rows), ""]
    if found.same_input:
        lines += [f"{pair.name}: {verdict(pair)}" for pair in found.pairs]
    if not found.pairs:
        lines.append("no configuration is in both")
    if found.unmatched:
        lines.append(f"in one only: {', '.join(found.unmatched)}")
    return "\n".join(lines)


def verdict(pair: Pair) -> str:
    """Which is faster, in words."""
    if pair.faster == "neither":
        return "no difference beyond noise"
    ratio = pair.p50_ratio if pair.faster == "a" else 1 / pair.p50_ratio
    return (
        f"{pair.faster.upper()} is {ratio:.2f} times as fast by the median, "
        f"and at least {pair.at_least:.2f} times beyond noise"
    )


def read_result(path: Path) -> BenchResult:
    """Read what ``--json`` wrote.

    Raises:
        ConfigError: it is no such file, or newer than this program.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=BenchResult)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {exc}: give a file that 'edge-agent bench' wrote") from exc
    if found.schema > BENCH_SCHEMA:
        raise ConfigError(f"{path}: has schema {found.schema}: update edge-agent first")
    return found


def _pair(a: Run, b: Run) -> Pair:
    faster, at_least = _beyond_noise(a.rounds_p50_us, b.rounds_p50_us)
    return Pair(
        name=a.name,
        p50_us=(a.latency_us.p50, b.latency_us.p50),
        p99_us=(a.latency_us.p99, b.latency_us.p99),
        p50_ratio=_ratio(b.latency_us.p50, a.latency_us.p50),
        p99_ratio=_ratio(b.latency_us.p99, a.latency_us.p99),
        per_s_ratio=_ratio(b.per_s, a.per_s),
        load_ratio=_ratio(b.init.load_ms, a.init.load_ms),
        rss_ratio=_ratio(b.rss_bytes.steady, a.rss_bytes.steady),
        faster=faster,
        at_least=at_least,
    )


def _beyond_noise(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[Faster, float]:
    if min(b) > _APART * max(a):
        return "a", round(min(b) / max(a), 3)
    if min(a) > _APART * max(b):
        return "b", round(min(a) / max(b), 3)
    return "neither", 1.0


def _ratio(over: float, under: float) -> float:
    return round(over / under, 3) if under else 0.0


def _title(result: BenchResult) -> str:
    return (
        f"{result.model} {result.version} ({result.form}) on {result.measured_on}, "
        f"input {result.input.source}"
    )
