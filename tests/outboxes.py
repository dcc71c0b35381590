"""Outboxes for tests: short ways to make them, and to see everything that is in one."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_agent.contract.messages import Decision, Ledger, Metrics, Record
from edge_agent.outbox.items import Item, Rank, Slice
from edge_agent.outbox.outbox import Outbox
from edge_agent.spans import Spans
from edge_agent.testing.clock import FakeClock

MIB = 1024 * 1024
CLOCK = FakeClock()


def open_outbox(path: Path, *, bytes_max: int = MIB) -> Outbox:
    return Outbox.open(path, bytes_max=bytes_max, agent="0.1.0", clock=CLOCK)


def decision(reading: int, *, fired: bool = False) -> Decision:
    return Decision(
        t=CLOCK.wall(), pipeline="p", model="1", reading=reading, score=0.5, fired=fired
    )


def metrics() -> Metrics:
    return Metrics(t=CLOCK.wall(), pipeline="p", counts={}, latency_us={}, rss_bytes=1)


def body(rank: Rank, size: int = 100) -> Item:
    """A record of a rank; ``size`` pads it."""
    return Item(rank, b'{"kind":"decision","t":1.5,"pad":"%b"}' % (b"x" * size))


def append_all(outbox: Outbox, items: list[Item]) -> None:
    while items:
        items = items[outbox.append(items) :]


def slices(outbox: Outbox, *, n_max: int = 1000, bytes_max: int = 32_000) -> list[Slice]:
    """Everything that is kept, as it would be sent."""
    found: list[Slice] = []
    first = 1
    while part := outbox.read(first, outbox.position, n_max=n_max, bytes_max=bytes_max):
        found.append(part)
        first = part.through + 1
    return found


def kept(outbox: Outbox) -> dict[tuple[str, int], dict[str, object]]:
    """(boot, seq) and content of every record."""
    records = {}
    for part in slices(outbox):
        for raw in part.records:
            record = msgspec.json.decode(raw)
            records[part.boot, record["seq"]] = record
    return records


def noted(outbox: Outbox) -> Spans:
    """Positions that are dropped and not yet said."""
    return Spans(outbox._db.query("SELECT first, last FROM dropped"))


def ledgers(outbox: Outbox) -> list[Ledger]:
    raws = [bytes(raw) for part in slices(outbox) for raw in part.records]
    records = [msgspec.json.decode(raw, type=Record) for raw in raws if b'"ledger"' in raw]
    return [record for record in records if isinstance(record, Ledger)]


if __name__ == "__main__":  # makes the fixture of this format
    from edge_agent.outbox.items import item_of
    from edge_agent.outbox.outbox import OUTBOX_FORMAT

    target = Path(__file__).parent / "fixtures" / "outbox" / f"v{OUTBOX_FORMAT}.db"
    target.unlink(missing_ok=True)
    made = open_outbox(target)
    append_all(made, [item_of(decision(n, fired=n % 10 == 0)) for n in range(1, 51)])
    append_all(made, [item_of(decision(n)) for n in range(1, 401)])
    append_all(made, [Item(Rank.MESSAGE, b"on", "door/state"), item_of(metrics())])
    made.discard(Spans([(1, 20)]))
    made.lose("queue full", 7)
    made._table.drop_oldest(Rank.METRICS)
    made.close()
    print(target, made.boot)  # noqa: T201 - a script
