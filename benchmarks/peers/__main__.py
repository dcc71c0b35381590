"""Readings over MQTT on one core: the agent against what people use.

Contenders get one core; broker, load and subscriber the other. Each gets one JSON reading a message
at QoS 0, decides on every reading, and sends every decision at QoS 0; all are timed here. Rounds of
all contenders alternate; figures are medians over rounds, ratios medians of the rounds' ratios.
``readings_per_s`` is the highest rate tried that was sustained for ``--seconds`` with a backlog
that did not grow and no decision lost; ``other_core_busy`` shows that load and broker were not the
limit. ``records_dropped`` is what the agent's outbox dropped, and said so in its ledger.

Usage: python -m benchmarks.peers [--seconds N] [--rounds N] [--only NAME …]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.peers.cnn import LENGTH, NAMES, write_bundle
from benchmarks.peers.load import Load
from benchmarks.peers.stage import (
    CONTENDERS,
    TOPIC_IN,
    TOPIC_OUT,
    Broker,
    Contender,
    command_of,
    install,
)

TOOLS = Path(__file__).resolve().parent.parent.parent / ".peers"
CORE, OTHER_CORE = 1, 0
AHEAD = 100  # readings that wait while the capacity is estimated
STEPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)  # of the estimate, until one is sustained
LATE_S = 0.2  # a backlog of so many seconds is no sustained rate
Figures = dict[str, float]


def main() -> None:
    """Install the peers, run the rounds, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="a measurement lasts so long")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="these contenders alone")
    given = parser.parse_args()
    able = install(TOOLS)
    names = [name for name in able if not given.only or name in given.only]
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.sched_setaffinity(0, {OTHER_CORE})
    rounds: list[dict[str, Figures]] = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder))
        for number in range(given.rounds):
            rounds.append({})
            for name in names:
                with tempfile.TemporaryDirectory() as place:
                    figures = measure(name, bundle, Path(place), given.seconds)
                rounds[-1][name] = figures
                said = "  ".join(f"{key} {value:,.1f}" for key, value in figures.items())
                print(f"round {number + 1} {name:18} {said}", flush=True)
    result = {name: medians([each[name] for each in rounds]) for name in names}
    print("RESULT " + json.dumps({**result, **ratios(rounds)}))


def measure(name: str, bundle: Path, folder: Path, seconds: float) -> Figures:
    """One contender, from its start to its end."""
    broker = Broker(folder, OTHER_CORE)
    contender = Contender(
        command_of(name, broker.port, bundle, folder, TOOLS), CORE, folder / "log"
    )
    load = Load(broker.port, TOPIC_IN, TOPIC_OUT, NAMES, LENGTH)
    try:
        broker.await_subscriber(TOPIC_IN)
        warm_up(load)
        cpu_50, _ = at(load, contender, 50, seconds)
        cpu_1000, p50 = at(load, contender, 1000, seconds)
        rate, busy = sustained(load, broker, seconds)
        figures = {
            "readings_per_s": rate,
            "cpu_us_at_50": cpu_50,
            "cpu_us_at_1000": cpu_1000,
            "p50_us_at_1000": p50,
            "rss_mib": contender.rss_mib(),
            "other_core_busy": busy,
        }
    except BaseException:
        print((folder / "log").read_text(), file=sys.stderr)
        raise
    else:
        contender.end()
        if name == "agent":
            figures["records_dropped"] = broker.records_dropped()
        return figures
    finally:
        load.close()
        contender.end()
        broker.end()


def warm_up(load: Load) -> None:
    """Fill the first window, and let everything run for the first time."""
    load.at_rate(200, 2.0)
    if not load.settle(10.0):
        raise RuntimeError(f"{load.waiting} decisions did not come")


def at(load: Load, contender: Contender, rate: float, seconds: float) -> tuple[float, float]:
    """CPU microseconds a reading, and the median delay in microseconds, at a rate."""
    load.delays.clear()
    before, sent = contender.cpu_s(), load.sent
    load.at_rate(rate, seconds)
    used = contender.cpu_s() - before
    load.settle(5.0)
    delay = statistics.median(delay for _, delay in load.delays)
    return used / (load.sent - sent) * 1e6, delay * 1e6


def sustained(load: Load, broker: Broker, seconds: float) -> tuple[float, float]:
    """The highest rate that is sustained, and how busy load and broker were meanwhile, 0 to 1."""
    estimate = load.in_turn(AHEAD, max(2.0, seconds / 5))
    load.settle(10.0)
    for step in STEPS:
        rate = step * estimate
        load.delays.clear()
        load.busy_s, before = 0.0, broker.cpu_s()
        backlog = load.at_rate(rate, seconds, LATE_S)
        busy = (load.busy_s + broker.cpu_s() - before) / backlog[-1][0]
        middle, last = (
            statistics.median(waiting for _, waiting in part)
            for part in (
                backlog[len(backlog) // 3 : 2 * len(backlog) // 3],
                backlog[2 * len(backlog) // 3 :],
            )
        )
        if not load.settle(30.0):
            raise RuntimeError(f"{load.waiting} decisions are lost at {rate:.0f} readings/s")
        held = backlog[-1][0] > seconds - 0.2
        if held and last <= max(1.2 * middle, 0.02 * rate):
            return rate, busy
    return 0.0, 0.0


def medians(figures: list[Figures]) -> Figures:
    """Figure by figure."""
    return {key: statistics.median(each[key] for each in figures) for key in figures[0]}


def ratios(rounds: list[dict[str, Figures]]) -> Figures:
    """The agent against the others, as far as they ran."""
    wanted = {
        "throughput_vs_script": ("readings_per_s", "script"),
        "throughput_vs_script_one_thread": ("readings_per_s", "script_one_thread"),
        "throughput_vs_node": ("readings_per_s", "node"),
        "p50_vs_node": ("p50_us_at_1000", "node"),
        "cpu_vs_node": ("cpu_us_at_1000", "node"),
        "p50_vs_script": ("p50_us_at_1000", "script"),
        "cpu_at_50_vs_script": ("cpu_us_at_50", "script"),
    }
    return {
        name: statistics.median(each["agent"][figure] / each[peer][figure] for each in rounds)
        for name, (figure, peer) in wanted.items()
        if {"agent", peer} <= set(rounds[0])
    }


if __name__ == "__main__":
    main()
