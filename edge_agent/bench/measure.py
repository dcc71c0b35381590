"""Measures a bundle on this machine: every configuration in turns, each in fresh processes.

The rounds take turns, so that whatever else the machine does meanwhile meets all configurations.
How far the rounds of one differ is the noise that a comparison has to exceed.
"""

from __future__ import annotations

import hashlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent import __version__
from edge_agent.bench.child import Laboratory, Steady, Task
from edge_agent.bench.feed import feed_of
from edge_agent.bench.machine import read_conditions, read_machine, remarks, usable_cores
from edge_agent.contract.bench import (
    BenchResult,
    Init,
    Memory,
    Operator,
    Percentiles,
    Run,
    WarmUp,
    Way,
)
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.errors import ConfigError, InferenceError
from edge_agent.infer import CPU, providers

ROUNDS: Final = 3
RUNS_MAX: Final = 24
"""Configurations in one result, which is to fit a retained message."""
_TRACE_SHARE, _WAY_SHARE = 0.05, 0.1  # of the measuring time; the rest is for the steady state
_WAY_CHUNK_SHARE: Final = 0.1  # of the whole way's time: decided in one go
_WAY_WINDOWS_N_MAX: Final = 256
_THREADS_MAX: Final = 256
_PACKAGES: Final = ("onnxruntime", "numpy", "msgspec")

Config = tuple[str, int]  # provider, threads
Round = tuple[Steady, NDArray[np.int64]]


def bench(
    path: Path,
    *,
    recording: Path | None = None,
    array: str = "signal",
    threads: Sequence[int] = (),
    providers_wanted: Sequence[str] = (),
    seconds: float = 10.0,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchResult:
    """Measure a bundle.

    Args:
        path: of the bundle.
        recording: what it is fed, see :func:`edge_agent.bench.feed.feed_of`.
        array: of an NPZ: the readings.
        threads: to try; by default 1, 2, 4, … up to the cores that this process may use.
        providers_wanted: to try; by default all that onnxruntime has and the model can use.
        seconds: measuring time in all; starting processes comes on top.
        progress: told what is measured next.

    Raises:
        BundleError: the bundle cannot be used.
        ConfigError: threads or providers that do not exist here.
        InferenceError: it cannot be measured.
        SourceError: the recording has not what is asked for.
    """
    bundle = read_bundle(path)
    feed = feed_of(bundle, recording, array=array)
    wanted = _providers(providers_wanted)
    counts = _threads(threads)
    machine, before, began = read_machine(), read_conditions(), time.time()
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as folder:
        lab = Laboratory(Path(folder), feed.windows, feed.rows)
        progress("where the time goes")
        operators, usable, skipped = _trace(lab, path, wanted, _TRACE_SHARE * seconds)
        configs = [(name, n) for name in usable for n in (counts if name == CPU else [1])]
        steady_s = (1 - _TRACE_SHARE - _WAY_SHARE) * seconds
        runs = _in_turns(lab, path, configs, steady_s, progress)
        after = read_conditions()
        progress("a reading's whole way")
        way = _whole_way(lab, path, runs[0].latency_us.p50, _WAY_SHARE * seconds)
    manifest = bundle.manifest
    return BenchResult(
        t=began,
        seconds=seconds,
        model=manifest.name,
        version=manifest.version,
        form=manifest.chosen.name,
        sha256=bundle.digest,
        model_sha256=hashlib.sha256(bundle.model).hexdigest(),
        file_bytes=len(bundle.model),
        input=feed.said,
        machine=machine,
        before=before,
        after=after,
        versions=_versions(),
        runs=runs,
        skipped=skipped,
        operators=operators,
        way=way,
        remarks=remarks(before, after),
    )


def _versions() -> dict[str, str]:
    """What figures depend on, of this process."""
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {"edge-agent": __version__, "python": platform.python_version(), **packages}


def _trace(
    lab: Laboratory, path: Path, wanted: Sequence[str], seconds: float
) -> tuple[tuple[Operator, ...], list[str], dict[str, str]]:
    """The operators by the CPU or else the first that works; what is usable; why others are not."""
    usable: list[str] = []
    skipped: dict[str, str] = {}
    operators: tuple[Operator, ...] = ()
    for provider in wanted:
        task = Task(kind="trace", bundle=str(path), seconds=seconds, provider=provider)
        try:
            traced = lab.trace(task)
        except InferenceError as exc:
            skipped[provider] = str(exc)[:200]
            continue
        if provider in traced.providers:
            usable.append(provider)
            operators = operators or traced.operators
        else:
            skipped[provider] = "it executes no node of this model: the CPU does"
    if not usable:
        raise InferenceError("; ".join(f"{name}: {why}" for name, why in skipped.items()))
    return operators, usable, skipped


def _in_turns(
    lab: Laboratory,
    path: Path,
    configs: Sequence[Config],
    seconds: float,
    progress: Callable[[str], None],
) -> tuple[Run, ...]:
    """The steady state of every configuration, round after round."""
    if len(configs) > RUNS_MAX:
        raise ConfigError(f"{len(configs)} configurations are too many: {RUNS_MAX} at most")
    each_s = seconds / (ROUNDS * len(configs))
    rounds: dict[Config, list[Round]] = {config: [] for config in configs}
    for number in range(ROUNDS):
        for provider, n in configs:
            short = provider.removesuffix("ExecutionProvider")
            progress(f"{short} x{n} ({number + 1} of {ROUNDS})")
            task = Task(
                kind="steady", bundle=str(path), seconds=each_s, provider=provider, threads=n
            )
            rounds[provider, n].append(lab.steady(task))
    return tuple(_summary(config, found) for config, found in rounds.items())


def _whole_way(lab: Laboratory, path: Path, p50_us: float, seconds: float) -> Way:
    """A reading's way, in chunks that are short enough for a slow model to keep to the time."""
    fitting = int(_WAY_CHUNK_SHARE * seconds * 1e6 / max(p50_us, 1.0))
    chunk_n = min(max(fitting, 1), _WAY_WINDOWS_N_MAX)
    return lab.way(Task(kind="way", bundle=str(path), seconds=seconds, windows_n=chunk_n))


def _providers(wanted: Sequence[str]) -> list[str]:
    """The CPU first: it is what the agent uses."""
    here = sorted(providers(), key=lambda name: (name != CPU, name))
    if not wanted:
        return here
    names = {name.removesuffix("ExecutionProvider").lower(): name for name in here}
    try:
        chosen = {names[word.removesuffix("ExecutionProvider").lower()] for word in wanted}
    except KeyError as exc:
        raise ConfigError(
            f"--provider {exc.args[0]}: this onnxruntime has {', '.join(sorted(names))}"
        ) from None
    return [name for name in here if name in chosen]


def _threads(wanted: Sequence[int]) -> list[int]:
    """Rising; by default the powers of two below the number of cores, and that."""
    if wanted:
        if not all(1 <= n <= _THREADS_MAX for n in wanted):
            raise ConfigError(f"--threads: 1 to {_THREADS_MAX} are possible")
        return sorted(set(wanted))
    cores = len(usable_cores())
    return sorted({1 << power for power in range(cores.bit_length())} | {cores})


def _summary(config: Config, rounds: Sequence[Round]) -> Run:
    """All rounds of a configuration as one."""
    provider, threads = config
    seen = [steady for steady, _ in rounds]
    took_us = np.concatenate([took for _, took in rounds]) / 1e3
    p50, p90, p99, p999 = np.percentile(took_us, (50, 90, 99, 99.9)).tolist()
    return Run(
        provider=provider,
        threads=threads,
        init=Init(
            read_ms=_median([each.read_ns / 1e6 for each in seen]),
            load_ms=_median([each.load_ns / 1e6 for each in seen]),
        ),
        warm_up=WarmUp(
            first_us=_median([each.first_ns / 1e3 for each in seen]),
            n=min(each.warm_up_n for each in seen),
            p50_us=_median([each.warm_up_p50_ns / 1e3 for each in seen]),
        ),
        latency_us=Percentiles(
            n=len(took_us),
            p50=round(p50, 3),
            p90=round(p90, 3),
            p99=round(p99, 3),
            p999=round(p999, 3),
            max=round(float(took_us.max()), 3),
        ),
        rounds_p50_us=tuple(round(float(np.median(took)) / 1e3, 3) for _, took in rounds),
        per_s=round(len(took_us) * 1e9 / sum(each.elapsed_ns for each in seen), 1),
        rss_bytes=Memory(
            engine=max(each.rss[0] for each in seen),
            load=max(each.rss[1] for each in seen),
            steady=max(each.rss[2] for each in seen),
        ),
    )


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)
