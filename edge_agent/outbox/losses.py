"""What was dropped on purpose and not yet said: the draft of the ledger.

Dropped records are kept as merged ranges of outbox positions, so that a month of dropping costs a
few rows; they become :class:`~edge_agent.contract.messages.Ledger` records only when these can be
sent. What was dropped before it had a position is kept as a count for each reason. The functions
work inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from edge_agent.contract.messages import Ledger, Stamp
from edge_agent.outbox.boots import Boots
from edge_agent.outbox.capped_db import CappedDb
from edge_agent.spans import Range, Spans

BYTE_CAP: Final = "byte cap"
MERGED: Final = "merged into later metrics"
CORRUPT: Final = "outbox was corrupt"
QUEUE_FULL: Final = "queue full"
TOO_LARGE: Final = "record too large"

_RANGES: Final = 32  # in one ledger record: keeps it below the smallest ``batch_bytes``

SCHEMA: Final = """
CREATE TABLE dropped(
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE TABLE lost(reason TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""


def note_dropped(db: sqlite3.Connection, spans: Spans, reason: str) -> None:
    """Remember positions that will never be sent, merged with their neighbours."""
    for span_first, span_last in spans:
        first, last = span_first, span_last
        touching = db.execute(
            "SELECT first, last FROM dropped WHERE reason = ? AND (first = ? OR first = "
            "(SELECT max(first) FROM dropped WHERE first < ?) AND last = ?)",
            (reason, last + 1, first, first - 1),
        ).fetchall()
        for start, end in touching:
            first, last = min(first, start), max(last, end)
            db.execute("DELETE FROM dropped WHERE first = ?", (start,))
        db.execute("INSERT INTO dropped VALUES (?, ?, ?)", (first, last, reason))


def note_lost(db: sqlite3.Connection, reason: str, count: int) -> None:
    """Count records that were dropped before they had a position."""
    db.execute(
        "INSERT INTO lost VALUES (?, ?) "
        "ON CONFLICT(reason) DO UPDATE SET count = count + excluded.count",
        (reason, count),
    )


def next_ledger(db: CappedDb, boots: Boots, now: Stamp) -> tuple[Ledger, Range | str] | None:
    """The ledger record that says the oldest noted losses, and what to forget with it.

    It names ranges of one boot that were dropped for one reason or, when none are left, how many
    had no position. None when nothing is noted.
    """
    rows = db.query("SELECT first, last, reason FROM dropped ORDER BY first LIMIT ?", (_RANGES,))
    if rows:
        boot, reason = boots.at(rows[0][0]), rows[0][2]
        ranges: list[Range] = []
        for first, last, why in rows:
            if why != reason or (boot.last and first > boot.last):
                break
            ranges.append((first, min(last, boot.last or last)))
        count = sum(last - first + 1 for first, last in ranges)
        ledger = Ledger(
            t=now.t,
            synced=now.synced,
            boot=boot.name,
            ranges=boot.seqs(ranges),
            count=count,
            reason=reason,
        )
        return ledger, (ranges[0][0], ranges[-1][1])
    for reason, count in db.query("SELECT reason, count FROM lost LIMIT 1"):
        newest = boots.rows[-1][1]
        return Ledger(t=now.t, synced=now.synced, boot=newest, count=count, reason=reason), reason
    return None


def forget(db: sqlite3.Connection, said: Range | str) -> None:
    """Take out what has been said: dropped positions, or the count of a reason."""
    if isinstance(said, str):
        db.execute("DELETE FROM lost WHERE reason = ?", (said,))
        return
    first, last = said
    db.execute(  # the tail of a range that goes on after it
        "INSERT INTO dropped SELECT ? + 1, last, reason FROM dropped WHERE first <= ? AND last > ?",
        (last, last, last),
    )
    db.execute("DELETE FROM dropped WHERE first BETWEEN ? AND ?", (first, last))
