"""What ``edge-agent bench`` does with its options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import click

from edge_agent.contract.bench import BenchResult
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import encode

_CONNECT_S: Final = 30.0


def measure(
    bundle: Path,
    *,
    recording: Path | None,
    array: str,
    threads: Sequence[int],
    providers: Sequence[str],
    seconds: float,
) -> BenchResult:
    """Measure and print the result; raises as :func:`edge_agent.bench.measure.bench`."""
    from edge_agent.bench.measure import bench
    from edge_agent.bench.report import format_result

    result = bench(
        bundle,
        recording=recording,
        array=array,
        threads=threads,
        providers_wanted=providers,
        seconds=seconds,
        progress=_progress,
    )
    click.echo(format_result(result))
    return result


def keep(result: BenchResult, *, json_file: Path | None, plot_file: Path | None) -> None:
    """Write the files that were asked for.

    Raises:
        ConfigError: one cannot be written.
    """
    from edge_agent.bench.plot import plot

    if json_file:
        _write(json_file, lambda: encode(result) + b"\n")
    if plot_file:
        _write(plot_file, lambda: plot([result]).encode())


def send(result: BenchResult, config: Path) -> str:
    """Publish a result by the broker of an agent's configuration; returns the topic.

    Raises:
        ConfigError: the configuration is wrong, or names no broker.
        LinkError: the broker cannot be reached or refuses it.
    """
    from edge_agent.bench.publish import publish
    from edge_agent.config import load_config

    loaded = load_config(config)
    if loaded.broker is None:
        raise ConfigError(f"{config}: has no broker to publish to: add broker: {{url: ...}}")
    return publish(loaded.broker, loaded.device, result, seconds=_CONNECT_S)


def compare_files(a: Path, b: Path, *, json_file: Path | None, plot_file: Path | None) -> int:
    """Print two results side by side; the exit code is 1 when they cannot be compared."""
    from edge_agent.bench.compare import compare, format_comparison, read_result
    from edge_agent.bench.plot import plot

    results = [read_result(path) for path in (a, b)]
    found = compare(*results)
    click.echo(format_comparison(found))
    if json_file:
        _write(json_file, lambda: encode(found) + b"\n")
    if plot_file:
        _write(plot_file, lambda: plot(results).encode())
    return 0 if found.same_input and found.pairs else 1


def _progress(step: str) -> None:
    """Say what is measured next, where a person is watching."""
    if sys.stderr.isatty():
        click.echo(f"… {step}", err=True)


def _write(path: Path, content: Callable[[], bytes]) -> None:
    try:
        path.write_bytes(content())
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}: name another file") from exc
