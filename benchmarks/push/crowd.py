"""A group of devices, each a process, that all take one bundle."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.push import GROUP
from benchmarks.push.operator import Operator
from edge_agent.demo.programs import StepError

_ROOT: Final = Path(__file__).resolve().parent.parent.parent


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
    with devices(operator, "crowd", "--many", str(count)) as crowd:
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
def devices(operator: Operator, name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Light devices by the options of their program, killed at the end; name is their disk too."""
    folder = operator.folder / name
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.push.device", operator.url, operator.root, folder]
    with subprocess.Popen(
        [*map(str, command), name, *options], stdout=subprocess.PIPE, text=True, cwd=_ROOT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """What it says, line by line."""
    assert process.stdout is not None
    return (line.rstrip("\n") for line in process.stdout)
