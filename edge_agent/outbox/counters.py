"""The counters of the outbox: one row on disk, and the records that came after it was written.

A small commit appends records and nothing else, which halves the pages that it writes; whatever
deletes, drops or packs writes the row too. So what is newer than the row is rows of records, and
few: opening counts them.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from edge_agent.outbox.capped_db import CappedDb
from edge_agent.outbox.items import POSITIONS, Rank, key_of

UNWRITTEN_N: Final = 1024  # most records that came after the row was written

_NEWER: Final = "SELECT count(*), ifnull(max(key), 0) FROM record WHERE key BETWEEN ? AND ?"


class State(msgspec.Struct, frozen=True):
    """The counters at one moment.

    Attributes:
        position: last position that a record got.
        message: last position that a user's message got.
        records: records and messages kept.
    """

    position: int
    message: int
    records: int


def load(db: CappedDb) -> State:
    """The counters of a file as it is."""
    ((position, message, records),) = db.query("SELECT position, message, records FROM state")
    last = {False: position, True: message}
    for rank in Rank:
        is_message = rank is Rank.MESSAGE
        since = message if is_message else position
        bounds = key_of(rank, since + 1), key_of(rank, POSITIONS)
        ((count, newest),) = db.query(_NEWER, bounds)
        records += count
        if count:
            last[is_message] = max(last[is_message], newest & POSITIONS)
    return State(last[False], last[True], records)


def save(db: sqlite3.Connection, state: State) -> None:
    """Write the row, inside the caller's transaction."""
    values = msgspec.structs.astuple(state)
    db.execute("UPDATE state SET position = ?, message = ?, records = ?", values)
