"""What an agent costs a device: memory, the time until it decides, processor when little happens.

The agent is a process of its own with everything on: readings over MQTT from a real broker, the
outbox, metrics, records sent and confirmed. ``rss_mib`` is its resident memory after 10,000
readings at 1,000 a second, ``first_decision_s`` the median from the start of the process to its
first decision on readings that wait already, ``cpu_share_at_10`` the share of a core that it takes
at 10 readings a second.

Usage: python benchmarks/footprint.py [--readings N] [--starts N] [--idle-s S]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from bench_models import NAMES, bundle_file
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.demo.broker import KINDS, LocalBroker

TOPIC: Final = "bench/readings"
WAIT_S: Final = 60.0
AGENT: Final = (sys.executable, "-m", "edge_agent", "run")
_RATE: Final = 1_000.0  # readings a second while memory is measured
_CALM_S: Final = 2.0  # after the last reading: its records are sent, and the allocator rests
_MIB: Final = 2**20
_PAGE: Final = 4096


def main() -> None:
    """Build a small model and measure; prints RESULT."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--readings", type=int, default=10_000)
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--idle-s", type=float, default=30.0)
    given = parser.parse_args()
    figures = measure(readings=given.readings, starts=given.starts, idle_s=given.idle_s)
    print("RESULT " + json.dumps(figures))


def measure(*, readings: int = 10_000, starts: int = 7, idle_s: float = 30.0) -> dict[str, float]:
    """All figures, of the logistic regression; prints each.

    Args:
        readings: over MQTT, before memory is looked at.
        starts: of which the first decision is timed.
        idle_s: how long processor time is counted at 10 readings a second.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bundle = bundle_file("logistic", folder)
        firsts = [first_decision_s(folder / f"start{n}", bundle) for n in range(starts + 1)]
        figures = {"first_decision_s": statistics.median(firsts[1:])}  # the first one compiles
        broker = LocalBroker(folder, folder, KINDS)
        broker.start()
        try:
            figures |= steady(folder / "steady", bundle, broker.url, readings, idle_s)
        finally:
            broker.end()
    for name, value in figures.items():
        print(f"{name:20} {value:.4g}")
    return figures


def steady(folder: Path, bundle: Path, url: str, readings: int, idle_s: float) -> dict[str, float]:
    """Memory after so many readings over MQTT, then the processor's share at 10 a second."""
    config = write_config(folder, bundle, {"type": "mqtt", "topic": TOPIC}, url)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*AGENT, config], stderr=log)
    try:
        with publisher(url) as client:
            await_line(folder / "log", "data connection", process)
            give(client, readings, _RATE)
            time.sleep(_CALM_S)
            rss, before = rss_mib(process), cpu_s(process)
            give(client, round(10 * idle_s), 10.0)
            cpu = (cpu_s(process) - before) / idle_s
    finally:
        end(process)
    return {"rss_mib": rss, "cpu_share_at_10": cpu}


def first_decision_s(folder: Path, bundle: Path) -> float:
    """From starting the process to the line that its first decision writes into the log."""
    config = write_config(folder, bundle, {"type": "jsonl"}, None)
    row = np.random.default_rng(0).normal(size=len(NAMES)).round(4).tolist()
    (folder / "rows").write_text(f"{json.dumps(row)}\n" * 200)  # alike: the state is stable soon
    with (folder / "rows").open("rb") as waiting:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*AGENT, config], stdin=waiting, stderr=subprocess.PIPE, env=_environment()
        )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if b": state " in line:
                return time.perf_counter() - began
    finally:
        end(process)
    raise RuntimeError("the agent has ended without a decision")


def _environment() -> dict[str, str]:
    """Ours, but the code is compiled once, as pip does where it installs."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def write_config(folder: Path, bundle: Path, source: Mapping[str, Any], url: str | None) -> Path:
    """The configuration of an agent as it comes, in a folder that is made."""
    folder.mkdir()
    pipeline: dict[str, Any] = {
        "name": "bench",
        "model": "logistic",
        "bundle": str(bundle),
        "channels": NAMES,
        "source": source,
    }
    config: dict[str, Any] = {"device": "bench", "data_dir": "data", "pipelines": [pipeline]}
    if url is None:
        pipeline["actions"] = [{"type": "log"}]
    else:
        config |= {"broker": {"url": url}, "update": {"unsigned": True}}
    path = folder / "agent.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


@contextmanager
def publisher(url: str) -> Iterator[Client]:
    """A client that is connected."""
    host, port = url.removeprefix("mqtt://").split(":")
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(host, int(port))
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def give(client: Client, count: int, rate: float) -> None:
    """Publish readings at a steady rate, one a message."""
    rows = np.random.default_rng(1).normal(size=(count, len(NAMES))).round(4).tolist()
    began = time.monotonic()
    for number, row in enumerate(rows):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        client.publish(TOPIC, json.dumps(dict(zip(NAMES, row, strict=True))))


def await_line(log: Path, words: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a program has said something.

    Raises:
        RuntimeError: it has ended, or does not say it.
    """
    until = time.monotonic() + WAIT_S
    while words not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"no {words!r} in:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)


def rss_mib(process: subprocess.Popen[bytes]) -> float:
    """Resident memory."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * _PAGE / _MIB


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """CPU time of all threads, in seconds, to the nanosecond of the scheduler."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def end(process: subprocess.Popen[bytes]) -> None:
    """End it in order, or at all."""
    process.terminate()
    try:
        process.wait(WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
