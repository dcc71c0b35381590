"""The rows of the outbox below its byte cap: adding, dropping, deleting and reading them.

A row's key is ``rank << 40 | position``, so rows of one importance lie together in the order of
their age: what the cap drops first has the lowest keys, and a confirmation deletes one run of keys
a rank. Messages to users' topics have positions of their own.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from edge_agent.contract.errors import StorageError
from edge_agent.outbox import losses
from edge_agent.outbox.capped_db import CappedDb, fitting, pages_of
from edge_agent.outbox.items import RECORD_RANKS, Item, Message, Rank
from edge_agent.spans import Range, Spans

SCHEMA: Final = """
CREATE TABLE record(key INTEGER PRIMARY KEY, topic TEXT, body BLOB NOT NULL);
CREATE TABLE state(
    position INTEGER NOT NULL,
    message INTEGER NOT NULL,
    records INTEGER NOT NULL
);
INSERT INTO state VALUES (0, 0, 0);
"""

_RANK_BITS: Final = 40
_POSITIONS: Final = (1 << _RANK_BITS) - 1
_CHUNK_ROWS: Final = 512  # rows deleted in one transaction, so that no step takes long

_READ: Final = "SELECT key, body FROM record WHERE key BETWEEN ? AND ? ORDER BY key"
_READ_MESSAGES: Final = (
    "SELECT key, topic, body FROM record WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
)
_SIZES: Final = (
    "SELECT key, length(body) + ifnull(length(topic), 0) FROM record "
    "WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
)

Sized = tuple[int, int]
"""(key, bytes) of a row."""


class State(msgspec.Struct, frozen=True):
    """The one row of counters, written with every change.

    Attributes:
        position: last position that a record got.
        message: last position that a user's message got.
        records: rows kept, messages included.
    """

    position: int
    message: int
    records: int


class RecordTable:
    """The table of one open file; for the thread that owns the file.

    Attributes:
        state: counters as of the last change. Any thread may read it.
        dropped: records dropped since it was opened. Any thread may read it.
    """

    def __init__(self, db: CappedDb) -> None:
        self._db = db
        (row,) = db.query("SELECT position, message, records FROM state")
        self.state = State(*row)
        self.dropped = 0

    def append(self, items: Sequence[Item]) -> int:
        """Keep the items from the front that one durable transaction may hold; how many."""
        sizes = [item.size for item in items]
        taken = items[: fitting(sizes, self._db.transaction_pages_max)]
        self._insert(taken, lowest=self.make_room(taken))
        return len(taken)

    def append_ledger(self, item: Item, said: Range | str) -> None:
        """Keep a ledger record, for which there is room, in place of the draft that it says.

        Args:
            item: the record, encoded.
            said: the dropped positions that it says, or the reason whose count it says.
        """
        self._insert([item], lowest=Rank.LEDGER, said=said)

    def make_room(self, items: Sequence[Item]) -> Rank:
        """Drop until those items fit that are at least of the rank that is returned.

        The candidates are what is kept and ``items``: the lowest rank first, oldest first.

        Raises:
            StorageError: only ledger records are left to drop, which are never dropped.
        """
        for rank in Rank:
            pages = pages_of([item.size for item in items if item.rank >= rank])
            while self._db.pages_free < pages:
                if rank is Rank.LEDGER or not self.drop_oldest(rank):
                    break
            else:
                return rank
        raise StorageError(
            f"{self._db.path}: full of ledger records, which are not dropped: "
            "raise outbox.bytes_max"
        )

    def drop_oldest(self, rank: Rank) -> int:
        """Drop and note some of the oldest rows of a rank; returns how many."""
        rows = self._sizes(_key(rank, 0), _key(rank, _POSITIONS))
        if not rows:
            return 0
        with self._db.transaction(_pages(rows), durable=False) as db:
            if rank is Rank.MESSAGE:
                losses.note_lost(db, losses.BYTE_CAP, len(rows))
            else:
                positions = Spans.of(key & _POSITIONS for key, _ in rows)
                losses.note_dropped(db, positions, losses.BYTE_CAP)
            state = self._remove(db, rows)
        self.state = state
        self.dropped += len(rows)
        return len(rows)

    def delete(self, ranks: Sequence[Rank], spans: Spans) -> int:
        """Delete what is kept of these ranks at these positions; returns how many.

        Not synced: after a power cut some may be there again.
        """
        count = 0
        for first, last in spans:
            for rank in ranks:
                low, high = _key(rank, first), _key(rank, last)
                while rows := self._sizes(low, high):
                    with self._db.transaction(_pages(rows), durable=False) as db:
                        state = self._remove(db, rows)
                    self.state = state
                    count += len(rows)
                    low = rows[-1][0] + 1
        return count

    @contextmanager
    def read(self, first: int, last: int) -> Iterator[Iterator[tuple[int, bytes]]]:
        """(position, body) of the records at these positions, of all ranks, oldest first."""
        bounds = [(_key(rank, first), _key(rank, last)) for rank in RECORD_RANKS]
        with self._db.cursors(_READ, bounds) as cursors:
            rows = heapq.merge(*cursors, key=_position)
            yield ((_position(row), row[1]) for row in rows)

    def messages(self, first: int, last: int, *, n_max: int) -> list[Message]:
        """The oldest messages to users' topics at these positions."""
        bounds = (_key(Rank.MESSAGE, first), _key(Rank.MESSAGE, last), n_max)
        rows = self._db.query(_READ_MESSAGES, bounds)
        return [Message(key & _POSITIONS, topic, body) for key, topic, body in rows]

    def holds(self, rank: Rank) -> bool:
        """Whether any row of a rank is kept."""
        bounds = (_key(rank, 0), _key(rank, _POSITIONS), 1)
        return bool(self._db.query(_SIZES, bounds))

    def go_on_from(self, state: State) -> None:
        """Continue another table's numbering in this one, which is empty."""
        with self._db.transaction(pages_of([]), durable=True) as db:
            state = self._write(db, position=state.position, message=state.message)
        self.state = state

    def _insert(
        self, items: Sequence[Item], *, lowest: Rank, said: Range | str | None = None
    ) -> None:
        """Give every item its number, keep those of at least a rank, and note the others."""
        number = {False: self.state.position, True: self.state.message}
        rows: list[tuple[int, str | None, bytes]] = []
        dropped, messages_dropped = Spans(), 0
        for item in items:
            is_message = item.rank is Rank.MESSAGE
            number[is_message] += 1
            if item.rank >= lowest:
                rows.append((_key(item.rank, number[is_message]), item.topic, item.body))
            elif is_message:
                messages_dropped += 1
            else:
                dropped.add(number[False], number[False])
        with self._db.transaction(pages_of([item.size for item in items]), durable=True) as db:
            db.executemany("INSERT INTO record VALUES (?, ?, ?)", rows)
            losses.note_dropped(db, dropped, losses.BYTE_CAP)
            if messages_dropped:
                losses.note_lost(db, losses.BYTE_CAP, messages_dropped)
            if said is not None:
                losses.forget(db, said)
            state = self._write(db, position=number[False], message=number[True], kept=len(rows))
        self.state = state
        self.dropped += len(items) - len(rows)

    def _sizes(self, low: int, high: int) -> list[Sized]:
        """The first rows within a range of keys that one transaction may delete."""
        rows = self._db.query(_SIZES, (low, high, _CHUNK_ROWS))
        return rows[: fitting([size for _, size in rows], self._db.transaction_pages_max)]

    def _remove(self, db: sqlite3.Connection, rows: Sequence[Sized]) -> State:
        db.execute("DELETE FROM record WHERE key BETWEEN ? AND ?", (rows[0][0], rows[-1][0]))
        return self._write(db, kept=-len(rows))

    def _write(
        self,
        db: sqlite3.Connection,
        *,
        position: int | None = None,
        message: int | None = None,
        kept: int = 0,
    ) -> State:
        """Write the counters; the caller takes them over once they are committed."""
        state = State(
            self.state.position if position is None else position,
            self.state.message if message is None else message,
            self.state.records + kept,
        )
        values = msgspec.structs.astuple(state)
        db.execute("UPDATE state SET position = ?, message = ?, records = ?", values)
        return state


def _key(rank: Rank, position: int) -> int:
    return rank << _RANK_BITS | position


def _position(row: tuple[int, bytes]) -> int:
    return row[0] & _POSITIONS


def _pages(rows: Sequence[Sized]) -> int:
    return pages_of([size for _, size in rows])
