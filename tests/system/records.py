"""What a collector has stored, read from its file by plain means, and whether that is complete."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from edge_agent.contract.messages import Status


class Row(NamedTuple):
    """One stored record; ``late`` says that it came on the backlog topic."""

    device: str
    boot: str
    seq: int
    kind: str
    late: bool
    body: dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """All rows of a file: one of lines in the order in which they first arrived."""
    if not path.exists():
        return []
    if path.suffix == ".db":
        return list(_from_sqlite(path))
    whole = path.read_bytes()
    lines = whole[: whole.rfind(b"\n") + 1].splitlines()  # a kill may have torn the last one
    return [
        Row(
            line["device"],
            line["boot"],
            line["record"]["seq"],
            line["record"]["kind"],
            line["late"],
            line["record"],
        )
        for line in map(json.loads, lines)
    ]


def count_rows(path: Path) -> int:
    """How many rows there are, cheaply."""
    if not path.exists():
        return 0
    if path.suffix == ".db":
        return int(_query(path, "SELECT count(*) FROM records")[0][0])
    return path.read_bytes().count(b"\n")


def outbox_bytes(data_dir: Path) -> int:
    """Size of an agent's outbox on disk: a running agent lets nobody else look into it."""
    files = (data_dir / "outbox.db", data_dir / "outbox.db-wal")
    return sum(path.stat().st_size for path in files if path.exists())


def kept(data_dir: Path) -> int:
    """Records in the outbox of an agent that has ended."""
    return int(_query(data_dir / "outbox.db", "SELECT records FROM state")[0][0])


def decisions(rows: Iterable[Row], pipeline: str = "main") -> list[dict[str, Any]]:
    """The decisions of a pipeline, in the order of the rows."""
    found = (row.body for row in rows if row.kind == "decision")
    return [body for body in found if body["pipeline"] == pipeline]


def readings(rows: Iterable[Row], pipeline: str = "main") -> list[int]:
    """The readings that a pipeline decided on, in rising order."""
    return sorted(body["reading"] for body in decisions(rows, pipeline))


def gaps(rows: Iterable[Row], last: dict[str, int] | None = None) -> list[str]:
    """What is not right: seqs that are neither stored nor ledgered, or stored twice.

    Args:
        last: the last seq of boots after which no other boot has come to say it.
    """
    rows = list(rows)
    seqs: defaultdict[str, Counter[int]] = defaultdict(Counter)
    ledgered: defaultdict[str, set[int]] = defaultdict(set)
    ends = dict(last or {})
    for row in rows:
        seqs[row.boot][row.seq] += 1
        if row.kind == "ledger":
            for first, end in row.body.get("ranges", ()):
                ledgered[row.body["boot"]] |= set(range(first, end + 1))
        if row.kind == "started" and row.body.get("previous_boot"):
            ends[row.body["previous_boot"]] = row.body["previous_seq"]
    faults = [f"{boot}: {seq} twice" for boot in seqs for seq, n in seqs[boot].items() if n > 1]
    for boot in {*seqs, *ends}:
        through = max(ends.get(boot, 0), *seqs[boot], 1)
        missing = set(range(1, through + 1)) - set(seqs[boot]) - ledgered[boot]
        faults += [f"{boot}: {seq} missing" for seq in sorted(missing)]
    return faults


def complete(path: Path, status: Status) -> bool:
    """Whether a file has everything that an agent had given a seq when it said this."""
    return status.outbox is not None and not gaps(
        read_rows(path), {status.boot: status.outbox.seq_last}
    )


def _from_sqlite(path: Path) -> Iterator[Row]:
    query = "SELECT device, boot, seq, kind, late, body FROM records ORDER BY received_t, seq"
    for device, boot, seq, kind, late, body in _query(path, query):
        yield Row(device, boot, seq, kind, bool(late), json.loads(body))


def _query(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10.0)) as db:
        try:
            return db.execute(query).fetchall()
        except sqlite3.OperationalError as exc:
            if "no such table" not in str(exc):  # the file has only just been made
                raise
            return [(0,)] if "count" in query else []
