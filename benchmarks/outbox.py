"""The outbox: speed, opening, bytes written, a week alone, and what draining does to readings.

The records are decisions as a device makes them: uneven stamps, varying scores, labels, states.
Every commit is durable. Draining goes to a broker in the same process that answers at once, so
its ratio is that of the outbox and the uplink, without the client library.

Usage: python benchmarks/outbox.py [--folder DIR] [--days N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from bench_models import bundle_of
from bench_records import GROUP_N, PER_S, append, opened, walk
from draining import draining

from edge_agent.contract.messages import Decision, Latency, Metrics

MIB = 1024 * 1024


def main() -> None:
    """Measure one thing after the other and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--days", type=float, default=7.0, help="without a broker; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fill", type=int, help=argparse.SUPPRESS)  # fill a file, then die
    given = parser.parse_args()
    if given.fill:
        fill_and_die(given.folder, given.fill)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        figures: dict[str, float] = speed(folder / "speed", given.rounds)
        figures |= opening(folder, 1_000_000)
        figures |= {"bytes_per_record": written_per_record(folder / "idle", group=2)}
        figures |= {"bytes_per_record_busy": written_per_record(folder / "busy", group=GROUP_N)}
        figures |= while_draining(folder, given.rounds)
        if given.days:
            figures |= alone(folder / "alone", given.days)
    for key, value in figures.items():
        print(f"{key:32} {value:12.4g}")
    print("RESULT " + json.dumps(figures))


def while_draining(folder: Path, rounds: int) -> dict[str, float]:
    """The same as ``make bench`` says, for the smallest model."""
    found = draining(folder, bundle_of("logistic"), rounds)
    return {
        "p99_ratio_while_draining": found["p99_ratio"],
        "p99_us_draining": found["p99_us_busy"],
        "p99_us_empty": found["p99_us_empty"],
        "drained_messages": found["drained_messages"],
    }


def speed(folder: Path, rounds: int) -> dict[str, float]:
    """Records a second, encoding included, in durable groups."""
    records = list(walk(100_000))
    seconds = []
    for number in range(rounds):
        outbox = opened(folder / str(number))
        began = time.perf_counter()
        append(outbox, records)
        seconds.append(time.perf_counter() - began)
        outbox.close()
    return {"records_per_s": len(records) / statistics.median(seconds)}


def opening(folder: Path, count: int) -> dict[str, float]:
    """Seconds from opening to the first batch in hand, after a kill and after a clean stop."""
    subprocess.run(
        [sys.executable, __file__, "--folder", folder / "killed", "--fill", str(count)], check=False
    )
    killed, clean = [], []
    for number in range(5):
        copy = folder / f"copy{number}"
        shutil.copytree(folder / "killed", copy)
        assert (copy / "outbox.db-wal").stat().st_size, "the log was to be unfolded"
        killed.append(first_batch_s(copy))
        clean.append(first_batch_s(copy))
    after_kill, after_stop = statistics.median(killed), statistics.median(clean)
    return {
        "open_s_at_1m": max(after_kill, after_stop),
        "open_s_at_1m_killed": after_kill,
        "open_s_at_1m_clean": after_stop,
    }


def fill_and_die(folder: Path, count: int) -> None:
    """The child: append, and end without closing anything."""
    append(opened(folder), walk(count))
    os.kill(os.getpid(), 9)


def first_batch_s(folder: Path) -> float:
    """Open, read as the uplink does, close."""
    began = time.perf_counter()
    outbox = opened(folder)
    found = outbox.read(1, outbox.position, n_max=GROUP_N, bytes_max=32_000)
    took = time.perf_counter() - began
    assert found is not None
    outbox.close()
    return took


def written_per_record(folder: Path, *, group: int) -> float:
    """Bytes handed to the file system for each record, its later packing included."""
    outbox = opened(folder)
    records = list(walk(20_000))
    before = written()
    append(outbox, records, group=group)
    outbox.close()
    return (written() - before) / len(records)


def written() -> int:
    """Bytes that this process has written so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def alone(folder: Path, days: float) -> dict[str, float]:
    """Days without a broker at 10 decisions a second and metrics a minute, on the default cap."""
    outbox, decisions = opened(folder), walk(round(days * 86_400 * PER_S))
    count, peak = 0, 0
    while group := list(islice(decisions, 60 * PER_S)):
        append(outbox, [*group, minute(group[-1])])
        count += len(group) + 1
        peak = max(peak, outbox.file_bytes)
    figures = {
        "days_alone": days,
        "alone_mib": peak / MIB,
        "alone_dropped": float(outbox.dropped),
        "alone_kept": float(outbox.records - 1),  # but the agent's own first record
        "alone_bytes_on_disk_per_record": peak / count,
    }
    outbox.close()
    return figures


def minute(last: Decision) -> Metrics:
    """What a pipeline says of itself once a minute."""
    chance = random.Random(last.reading)
    stages = ("read", "window", "infer", "decide", "offer", "total")
    latency = {
        stage: Latency(
            n=last.reading,
            p50=chance.random() * 9,
            p99=chance.random() * 90,
            p999=chance.random() * 900,
            max=chance.random() * 9000,
        )
        for stage in stages
    }
    counts = dict.fromkeys(("readings", "windows", "recorded", "fired", "skipped"), last.reading)
    return Metrics(
        t=last.t, pipeline="motion", counts=counts, latency_us=latency, rss_bytes=70 * MIB
    )


if __name__ == "__main__":
    main()
