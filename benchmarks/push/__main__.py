"""What an update costs, over a mosquitto of its own, with real trust checks.

Usage: python -m benchmarks.push [--pushes N] [--devices N] [--kills N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks.push.crowd import push_to_many
from benchmarks.push.kills import refetched
from benchmarks.push.operator import Operator
from benchmarks.push.single import Single, Times


def main() -> None:
    """Measure one thing after the other and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pushes", type=int, default=7, help="to one agent")
    parser.add_argument("--devices", type=int, default=300, help="processes of the group")
    parser.add_argument("--kills", type=int, default=8, help="of each of three")
    given = parser.parse_args()
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # as an agent runs
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        operator = Operator(folder)
        try:
            times = push_to_one(operator, folder, given.pushes)
            crowd = push_to_many(operator, given.devices)
            ratios = refetched(operator, given.kills)
        finally:
            operator.close()
    figures = {
        "transfer_ms": statistics.median(each.transfer for each in times),
        "active_ms": statistics.median(each.active for each in times),
        "devices": crowd.devices,
        "uploaded_chunks": crowd.uploaded,
        "devices_s": crowd.seconds,
        "broker_cpu_ms_per_device": crowd.broker_cpu_ms,
        "refetched_ratio_after_kill": max(ratios.values()),
    }
    print("after a kill of", "  ".join(f"{who} {ratio:.3f}" for who, ratio in ratios.items()))
    print("RESULT " + json.dumps({name: round(value, 3) for name, value in figures.items()}))


def push_to_one(operator: Operator, folder: Path, pushes: int) -> list[Times]:
    """Push again and again to one whole agent."""
    place = folder / "single"
    place.mkdir()
    single = Single(operator, place)
    try:
        times = [single.push(f"2.0.{number}") for number in range(pushes)]
    finally:
        single.close()
    for each in times:
        steps = "  ".join(f"{name} {took:.0f}" for name, took in each.steps.items())
        print(f"ms until: {steps}", flush=True)
    return times


if __name__ == "__main__":
    main()
