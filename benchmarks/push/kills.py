"""SIGKILL for agent, broker and publisher in the middle of a push: what has to travel again.

A ratio is chunks that travelled again per chunks of the bundle: to the device for agent and broker,
from the operator for the publisher. The moment of each kill is random.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.push import GROUP, TOPICS
from benchmarks.push.crowd import devices, lines
from benchmarks.push.operator import Operator
from edge_agent.config import BrokerConfig
from edge_agent.demo.programs import StepError
from edge_agent.fleet.session import Session, open_session

TO: Final = f"group:{GROUP}"
_PATIENCE_S: Final = 60.0
_CHUNKS_MIN: Final = 100  # of every bundle here


def refetched(operator: Operator, trials: int) -> dict[str, float]:
    """The worst ratio of so many kills of each."""
    chance = random.Random(7)
    bundle = operator.approve("4.0.0")
    operator.push(bundle, TO)
    kills: dict[str, Callable[[int], float]] = {
        "agent": lambda number: kill_agent(operator, f"agent-{number}", chance),
        "broker": lambda number: kill_broker(operator, bundle, f"broker-{number}", chance),
        "publisher": lambda number: kill_publisher(operator, f"5.0.{number}", chance),
    }
    return {who: max(kill(number) for number in range(trials)) for who, kill in kills.items()}


def kill_agent(operator: Operator, name: str, chance: random.Random) -> float:
    """Kill a device after some chunks, start it again on the same disk, let it finish."""
    moment, seen = chance.randrange(1, _CHUNKS_MIN), Counter[str]()
    with devices(operator, name, "--slow") as device:
        said = lines(device)
        while seen.total() < moment:
            count(seen, next(said))
        device.kill()
        count_all(seen, said)  # what it said before it died
    with devices(operator, name, "--slow") as device:
        finish(seen, lines(device))
    return again(seen)


def kill_broker(operator: Operator, bundle: Path, name: str, chance: random.Random) -> float:
    """Kill the broker, which forgets everything; the operator pushes the same bundle again."""
    moment, seen = chance.randrange(1, _CHUNKS_MIN), Counter[str]()
    with devices(operator, name, "--slow") as device:
        said = lines(device)
        while seen.total() < moment:
            count(seen, next(said))
        operator.cut()
        operator.push(bundle, TO)
        finish(seen, said)
    return again(seen)


def kill_publisher(operator: Operator, version: str, chance: random.Random) -> float:
    """Kill ``edge-fleet publish`` after some chunks, and let it run again."""
    bundle = operator.approve(version)
    command = operator.publishing(bundle, TO)
    moment, seen = chance.randrange(1, _CHUNKS_MIN), Counter[str]()
    with ExitStack() as stack:
        session = stack.enter_context(open_session(BrokerConfig(url=operator.url)))
        session.connect(_PATIENCE_S)
        session.subscribe([TOPICS.blob("+")])  # sees every upload
        log = stack.enter_context((operator.folder / "publish.log").open("wb"))
        with subprocess.Popen(command, stdout=log, stderr=log) as first:
            until = time.monotonic() + _PATIENCE_S
            while seen.total() < moment and time.monotonic() < until:
                count_uploads(seen, session, 0.01)
            first.kill()
        subprocess.run(command, check=True, stdout=log, stderr=log, timeout=_PATIENCE_S)
        while count_uploads(seen, session, 0.5):
            pass
    operator.reopen()
    return again(seen)


def count(seen: Counter[str], line: str) -> None:
    """Note a chunk, if the line speaks of one."""
    if line.startswith("chunk "):
        seen[line] += 1


def count_all(seen: Counter[str], said: Iterable[str]) -> None:
    """Note every chunk of the rest."""
    for line in said:
        count(seen, line)


def finish(seen: Counter[str], said: Iterable[str]) -> None:
    """The rest, which must end with the whole bundle."""
    last = ""
    for last in said:
        count(seen, last)
    if last != "done":
        raise StepError(f"a device ended with {last!r} instead of the bundle")


def count_uploads(seen: Counter[str], session: Session, seconds: float) -> bool:
    """Note an upload that comes in time; whether one has come."""
    message = session.receive(seconds)
    if message is not None and not message.retained:
        seen[message.topic] += 1
    return message is not None


def again(seen: Counter[str]) -> float:
    """The share of what travelled more than once."""
    return (seen.total() - len(seen)) / len(seen)
