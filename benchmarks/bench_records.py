"""Records to fill an outbox with."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from edge_agent.config import OutboxConfig
from edge_agent.contract.messages import Decision, Record
from edge_agent.outbox.items import item_of
from edge_agent.outbox.outbox import Outbox
from edge_agent.testing.clock import FakeClock

GROUP_N = 1000
PER_S = 10
CAP = OutboxConfig().bytes_max


def opened(folder: Path) -> Outbox:
    """The outbox of a folder, with the default cap."""
    folder.mkdir(parents=True, exist_ok=True)
    return Outbox.open(folder / "outbox.db", bytes_max=CAP, agent="bench", clock=FakeClock())


def append(outbox: Outbox, records: Iterable[Record], *, group: int = GROUP_N) -> None:
    """Keep records in durable groups."""
    rest = iter(records)
    while items := [item_of(record) for record in islice(rest, group)]:
        while items:
            items = items[outbox.append(items) :]


def walk(count: int) -> Iterator[Decision]:
    """Decisions at 10 a second: stamps that jitter by half a millisecond, scores of a model."""
    chance = random.Random(1)
    t, label, state = 1_700_000_000.0, "walking", "walking"
    for number in range(1, count + 1):
        t += chance.gauss(1 / PER_S, 0.0005)
        if chance.random() < 0.05:
            label = chance.choice(("walking", "sitting", "running"))
        if chance.random() < 0.02:
            state = label
        (score,) = struct.unpack("f", struct.pack("f", 1 - 0.7 * chance.random() ** 3))
        yield Decision(
            t=t,
            pipeline="motion",
            model="1.0.0",
            reading=10 * number,
            label=label,
            score=score,
            state=state,
        )
