"""A group of devices, each a process, that all take one bundle."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.push import GROUP
from benchmarks.push.operator import Operator
from edge_agent.demo.programs import StepError


class Crowd(msgspec.Struct, frozen=True):
    """What a group cost.

    Attributes:
        devices: processes that have the whole bundle, its digest checked.
        uploaded: chunks that the publisher sent, beside those of the signed metadata.
        seconds: from the first hint until the last device was done.
        broker_cpu_ms: CPU time of the broker for each device, the publisher's upload included.
    """

    devices: int
    uploaded: int
    seconds: float
    broker_cpu_ms: float


def push_to_many(operator: Operator, count: int) -> Crowd:
    """Start so many devices, push once, wait for all.

    Raises:
        StepError: not every device has the bundle.
    """
    bundle = operator.approve("3.0.0")
    with devices(operator, "crowd", many=count) as crowd:
        said = lines(crowd)
        for _ in range(count):
            next(said)  # ready
        before_s = operator.broker_cpu_s()
        pushed = operator.push(bundle, f"group:{GROUP}")
        done = Counter(said)["done"]
        seconds = time.time() - pushed.hinted_t
        cpu_s = operator.broker_cpu_s() - before_s
    if done != count:
        raise StepError(f"{count - done} of {count} devices do not have the bundle")
    return Crowd(done, pushed.report.uploaded, seconds, cpu_s * 1e3 / count)


@contextmanager
def devices(operator: Operator, name: str, many: int = 0) -> Iterator[subprocess.Popen[str]]:
    """One light device, or many, killed at the end; the disk is a folder of this name."""
    folder = operator.folder / name
    folder.mkdir(exist_ok=True)
    arguments = [operator.url, operator.root, folder, name, *(["--many", many] if many else [])]
    command = [sys.executable, "-m", "benchmarks.push.device", *map(str, arguments)]
    root = Path(__file__).resolve().parent.parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """What it says, line by line."""
    assert process.stdout is not None
    return (line.rstrip("\n") for line in process.stdout)
