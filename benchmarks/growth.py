"""Whether an agent grows: its resident memory after a million readings, and after ten.

The agent, in a process of its own, takes made-up readings as fast as it can, decides every one
and keeps every decision; nobody takes the records, so the outbox reaches its cap and stays there.

Usage: python benchmarks/growth.py [--readings N]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edge_agent.agent import Agent
from edge_agent.clock import SystemClock
from edge_agent.config import load_config
from edge_agent.folder import DataFolder

LOOKS = 10  # at equal distances


def main() -> None:
    """Build a small model and run the agent on it; prints RESULT."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--readings", type=int, default=10_000_000)
    parser.add_argument("--agent", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.agent:
        print(json.dumps(watch(given.agent, given.readings)))
        return
    from bench_models import bundle_file  # noqa: PLC0415 - the agent's process must stay lean
    from footprint import write_config  # noqa: PLC0415 - the same

    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle_file("logistic", Path(folder))
        source = {"type": "simulated", "rate_hz": None}
        config = write_config(Path(folder) / "agent", bundle, source, None)
        command = [sys.executable, __file__, "--agent", config, "--readings", str(given.readings)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    figures = json.loads(done.stdout)
    for look in figures["looks"]:
        print(f"{look['readings']:>10} readings  {look['rss_mib']:.1f} MiB")
    print("RESULT " + json.dumps(figures))


def watch(path: Path, readings: int) -> dict[str, Any]:
    """Run an agent until it has taken so many readings; its memory on the way."""
    agent = Agent(load_config(path), path.parent, DataFolder(path.parent / "data"), SystemClock())
    looks: list[dict[str, float]] = []
    agent.start()
    began = time.monotonic()
    try:
        while len(looks) < LOOKS:
            time.sleep(0.02)
            status = agent.status()
            taken = status.pipelines[0].counts["readings"]
            if taken >= readings * (len(looks) + 1) // LOOKS:
                looks.append({"readings": taken, "rss_mib": status.rss_bytes / 2**20})
        took_s = time.monotonic() - began
        outbox = status.outbox
    finally:
        agent.stop()
    assert outbox is not None
    return {
        "looks": looks,
        "growth_mib": looks[-1]["rss_mib"] - looks[0]["rss_mib"],
        "readings_per_s": looks[-1]["readings"] / took_s,
        "records_kept": outbox.records,
        "records_dropped": outbox.dropped,
        "outbox_bytes": outbox.file_bytes,
    }


if __name__ == "__main__":
    main()
