"""What the outbox holds below its byte cap: adding, dropping, deleting and reading it.

A row's key is ``rank << 40 | position``, so rows of one importance lie together in the order of
their age: what the cap drops first has the lowest keys, and a confirmation deletes one run of keys
a rank. Messages to users' topics have positions of their own.

Plain decisions lie in packs (:mod:`.pack_table`): a large group at once, the few of a small group
first as rows, the *tail*, which becomes a pack when there are enough of them. So an idle device
writes each of them twice, and a week of them fits the default cap.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from edge_agent.contract.errors import StorageError
from edge_agent.contract.messages import Decision
from edge_agent.outbox import counters, losses
from edge_agent.outbox.boots import Boots
from edge_agent.outbox.capped_db import CappedDb, fitting, pages_of
from edge_agent.outbox.columns import decision_of
from edge_agent.outbox.counters import State
from edge_agent.outbox.items import (
    POSITIONS,
    RECORD_RANKS,
    Item,
    Kept,
    Message,
    Plain,
    Rank,
    key_of,
)
from edge_agent.outbox.pack_table import Found, Pack, PackTable
from edge_agent.outbox.thinning import superseded
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

_GROUP_N: Final = 256  # decisions that come together and are packed at once
_PACK_PAGES: Final = 8  # that writing a pack touches, at most
_CHUNK_ROWS: Final = 512  # rows deleted in one transaction, so that no step takes long

_READ: Final = "SELECT key, body FROM record WHERE key BETWEEN ? AND ? ORDER BY key"
_READ_TAIL: Final = f"{_READ} LIMIT ?"
_READ_KEYS: Final = "SELECT key, NULL FROM record WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
_READ_MESSAGES: Final = (
    "SELECT key, topic, body FROM record WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
)
_SIZES: Final = (
    "SELECT key, length(body) + ifnull(length(topic), 0) FROM record "
    "WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
)

Sized = tuple[int, int]
"""(key, bytes) of a row."""


class RecordTable:
    """The table of one open file; for the thread that owns the file.

    Attributes:
        state: counters as of the last change. Any thread may read it.
        dropped: records dropped since it was opened. Any thread may read it.
    """

    def __init__(self, db: CappedDb, boots: Boots) -> None:
        self._db, self._boots = db, boots
        self.state = counters.load(db)
        self._unwritten_n = 0  # records since the counters were written
        self.dropped = 0
        self._packs = PackTable(db)
        self._tail_first = self._packs.last + 1
        self._tail_n = self._packs.pack_n  # not counted yet: it may be as long as that

    def append(self, items: Sequence[Kept]) -> int:
        """Keep the items from the front that one durable transaction may hold; how many."""
        plain_n = sum(item.rank is Rank.DECISION for item in items)
        is_group = plain_n >= min(_GROUP_N, self._packs.pack_n)
        if not is_group:
            items = [item.row if isinstance(item, Plain) else item for item in items]
        sizes = [item.size for item in items]
        taken = items[: fitting(sizes, self._db.transaction_pages_max)]
        if is_group and self._tail_n:
            self._pack_tail(n_min=1)  # packs lie in the order of their positions
        elif plain_n and self._tail_n >= self._packs.pack_n:
            self._pack_tail(n_min=self._packs.pack_n)
        rows, plain = self._numbered(taken)
        packs = self._packs.packs_of(plain) if plain else []
        items = [*(item for _, item in rows), *(Item(Rank.DECISION, pack.body) for pack in packs)]
        self._insert(rows, packs, lowest=self.make_room(items))
        return len(taken)

    def append_ledger(self, item: Item, said: Range | str) -> None:
        """Keep a ledger record, for which there is room, in place of the draft that it says.

        Args:
            item: the record, encoded.
            said: the dropped positions that it says, or the reason whose count it says.
        """
        self._insert([(self.state.position + 1, item)], [], lowest=Rank.LEDGER, said=said)

    def make_room(self, items: Sequence[Kept]) -> Rank:
        """Drop until those items fit that are at least of the rank that is returned.

        The candidates are what is kept and ``items``: the lowest rank first, oldest first.

        Raises:
            StorageError: only ledger records are left to drop, which are never dropped.
        """
        for rank in Rank:
            pages = pages_of([item.size for item in items if item.rank >= rank])
            while self._db.pages_free < pages:
                if rank is Rank.METRICS and self._merge_metrics():
                    continue
                if rank is Rank.LEDGER or not self.drop_oldest(rank):
                    break
            else:
                return rank
        raise StorageError(
            f"{self._db.path}: full of ledger records, which are not dropped: "
            "raise outbox.bytes_max"
        )

    def drop_oldest(self, rank: Rank) -> int:
        """Drop and note some of the oldest records of a rank; returns how many."""
        rows = self._sizes(key_of(rank, 0), key_of(rank, POSITIONS))
        if rank is Rank.DECISION and (packs := self._packs.overlapping(1, POSITIONS)):
            rows = [row for row in rows if row[0] & POSITIONS < packs[0].first]
            if not rows:
                return self._drop_packs(packs)
        if not rows:
            return 0
        with self._db.transaction(_pages(rows), durable=False) as db:
            if rank is Rank.MESSAGE:
                losses.note_lost(db, losses.BYTE_CAP, len(rows))
            else:
                positions = Spans.of(key & POSITIONS for key, _ in rows)
                losses.note_dropped(db, positions, losses.BYTE_CAP)
            state = self._remove(db, rows)
        self.state = state
        self.dropped += len(rows)
        return len(rows)

    def delete(self, ranks: Sequence[Rank], spans: Spans) -> int:
        """Delete what is kept of these ranks at these positions; returns how many.

        Not synced: after a power cut some may be there again.
        """
        before = self.state.records
        for first, last in spans:
            for rank in ranks:
                self._delete_rows(key_of(rank, first), key_of(rank, last))
            if Rank.DECISION in ranks:
                self._delete_packed(first, last)
        return before - self.state.records

    @contextmanager
    def read(self, first: int, last: int) -> Iterator[Iterator[tuple[int, bytes]]]:
        """(position, body) of the records at these positions, of all ranks, oldest first."""
        bounds = [(key_of(rank, first), key_of(rank, last)) for rank in RECORD_RANKS]
        with self._db.cursors(_READ, bounds) as cursors:
            rows = heapq.merge(*cursors, self._packs.read(first, last), key=_position)
            yield ((_position(row), row[1]) for row in rows)

    def messages(self, first: int, last: int, *, n_max: int) -> list[Message]:
        """The oldest messages to users' topics at these positions."""
        bounds = (key_of(Rank.MESSAGE, first), key_of(Rank.MESSAGE, last), n_max)
        rows = self._db.query(_READ_MESSAGES, bounds)
        return [Message(key & POSITIONS, topic, body) for key, topic, body in rows]

    def holds(self, rank: Rank) -> bool:
        """Whether any row of a rank is kept."""
        bounds = (key_of(rank, 0), key_of(rank, POSITIONS), 1)
        return bool(self._db.query(_SIZES, bounds))

    def go_on_from(self, state: State) -> None:
        """Continue another table's numbering in this one, which is empty."""
        here = State(state.position, state.message, 0)
        with self._db.transaction(pages_of([]), durable=True) as db:
            counters.save(db, here)
        self.state = here

    def _numbered(
        self, items: Sequence[Kept]
    ) -> tuple[list[tuple[int, Kept]], list[tuple[int, Decision]]]:
        """Give every item its number; those that may be packed apart from everything else."""
        position, message = self.state.position, self.state.message
        rows: list[tuple[int, Kept]] = []
        plain: list[tuple[int, Decision]] = []
        for item in items:
            if isinstance(item, Plain):
                position += 1
                plain.append((position, item.decision))
            elif item.rank is Rank.MESSAGE:
                message += 1
                rows.append((message, item))
            else:
                position += 1
                rows.append((position, item))
        return rows, plain

    def _insert(
        self,
        rows: Sequence[tuple[int, Kept]],
        packs: Sequence[Pack],
        *,
        lowest: Rank,
        said: Range | str | None = None,
    ) -> None:
        """Keep what is at least of a rank, and note the rest."""
        kept = [
            (key_of(item.rank, n), item.topic, item.body) for n, item in rows if item.rank >= lowest
        ]
        below = [(n, item) for n, item in rows if item.rank < lowest]
        dropped = Spans.of(n for n, item in below if item.rank is not Rank.MESSAGE)
        messages_dropped = sum(item.rank is Rank.MESSAGE for _, item in below)
        kept_packs = packs if lowest <= Rank.DECISION else ()
        if not kept_packs:
            dropped.update(Spans.of(n for pack in packs for n in pack.positions))
        sizes = [*(item.size for _, item in rows), *(pack.size for pack in packs)]
        with self._db.transaction(pages_of(sizes), durable=True) as db:
            db.executemany("INSERT INTO record VALUES (?, ?, ?)", kept)
            self._packs.insert(db, kept_packs)
            losses.note_dropped(db, dropped, losses.BYTE_CAP)
            if messages_dropped:
                losses.note_lost(db, losses.BYTE_CAP, messages_dropped)
            if said is not None:
                losses.forget(db, said)
            state = self._counted(rows, packs, dropped.count + messages_dropped)
            unwritten_n = self._unwritten_n + len(rows)
            if len(kept) < len(rows) or packs or unwritten_n > counters.UNWRITTEN_N:
                counters.save(db, state)
                unwritten_n = 0
        self.state, self._unwritten_n = state, unwritten_n
        self.dropped += dropped.count + messages_dropped
        if kept_packs:
            self._tail_first, self._tail_n = kept_packs[-1].positions[-1] + 1, 0
        self._tail_n += sum(item.rank is Rank.DECISION for _, item in rows if item.rank >= lowest)

    def _counted(
        self, rows: Sequence[tuple[int, Kept]], packs: Sequence[Pack], dropped: int
    ) -> State:
        """The counters once these have their numbers and as many are dropped."""
        messages = sum(item.rank is Rank.MESSAGE for _, item in rows)
        records = len(rows) - messages + sum(len(pack.positions) for pack in packs)
        return State(
            self.state.position + records,
            self.state.message + messages,
            self.state.records + records + messages - dropped,
        )

    def _tail(self, sql: str) -> list[tuple[int, bytes]]:
        low, high = key_of(Rank.DECISION, self._tail_first), key_of(Rank.DECISION, POSITIONS)
        rows: list[tuple[int, bytes]] = self._db.query(sql, (low, high, self._packs.pack_n))
        return rows

    def _pack_tail(self, *, n_min: int) -> None:
        """Replace the oldest rows of the tail by a pack, if there are ``n_min``.

        Not synced: after a power cut the rows are there again. What does not fit a pack stays a
        row for good.
        """
        rows = self._tail(_READ_TAIL)
        self._tail_n = len(rows)
        if len(rows) < n_min or self._db.pages_free < _PACK_PAGES:
            return
        pages_max = self._db.transaction_pages_max - _PACK_PAGES
        rows = rows[: fitting([len(body) for _, body in rows], pages_max)]
        read = ((key & POSITIONS, decision_of(body)) for key, body in rows)
        plain = [(position, decision) for position, decision in read if decision is not None]
        packs = self._packs.packs_of(plain) if plain else []
        sizes = [*(len(body) for _, body in rows), *(pack.size for pack in packs)]
        with self._db.transaction(pages_of(sizes), durable=False) as db:
            keys = [(key_of(Rank.DECISION, position),) for position, _ in plain]
            db.executemany("DELETE FROM record WHERE key = ?", keys)
            self._packs.insert(db, packs)
            self._write(db)  # what is newer than the counters lies in rows
        self._tail_first = (rows[-1][0] & POSITIONS) + 1
        self._tail_n = len(self._tail(_READ_KEYS))

    def _drop_packs(self, found: Sequence[Found]) -> int:
        """Drop and note packs."""
        held = [self._packs.held(pack) for pack in found]
        with self._db.transaction(pages_of([pack.size for pack in found]), durable=False) as db:
            count = 0
            for pack, spans in zip(found, held, strict=True):
                losses.note_dropped(db, spans, losses.BYTE_CAP)
                count += self._packs.remove(db, pack, pack.first, pack.last)
            state = self._write(db, gone=count)
        self.state = state
        self.dropped += count
        return count

    def _merge_metrics(self) -> int:
        """Drop every other one of the oldest metrics of a pipeline; returns how many.

        The older they are, the more often this meets them, and the further they lie apart. What
        stays is written anew, so that it lies close together and whole pages become free.
        """
        rows = self._sizes(key_of(Rank.METRICS, 0), key_of(Rank.METRICS, POSITIONS))
        rows = rows[: len(rows) // 2 or None]  # they are written again: twice the pages
        bounds = (rows[0][0], rows[-1][0]) if rows else (0, -1)
        kept = dict(self._db.query(_READ, bounds))
        merged = superseded([(_position(row), row[1]) for row in kept.items()], self._boots)
        if not merged:
            return 0
        for position in merged:
            del kept[key_of(Rank.METRICS, position)]
        with self._db.transaction(_pages([*rows, *rows]), durable=False) as db:
            db.execute("DELETE FROM record WHERE key BETWEEN ? AND ?", bounds)
            db.executemany("INSERT INTO record VALUES (?, NULL, ?)", kept.items())
            losses.note_dropped(db, Spans.of(merged), losses.MERGED)
            state = self._write(db, gone=len(merged))
        self.state = state
        self.dropped += len(merged)
        return len(merged)

    def _delete_rows(self, low: int, high: int) -> None:
        at = low
        while rows := self._sizes(at, high):
            with self._db.transaction(_pages(rows), durable=False) as db:
                state = self._remove(db, rows)
            self.state = state
            at = rows[-1][0] + 1

    def _delete_packed(self, first: int, last: int) -> None:
        at = first
        while found := self._packs.overlapping(at, last):
            with self._db.transaction(pages_of([pack.size for pack in found]), durable=False) as db:
                count = sum(self._packs.remove(db, pack, first, last) for pack in found)
                state = self._write(db, gone=count)
            self.state = state
            at = found[-1].last + 1

    def _sizes(self, low: int, high: int) -> list[Sized]:
        """The first rows within a range of keys that one transaction may delete."""
        rows = self._db.query(_SIZES, (low, high, _CHUNK_ROWS))
        return rows[: fitting([size for _, size in rows], self._db.transaction_pages_max)]

    def _remove(self, db: sqlite3.Connection, rows: Sequence[Sized]) -> State:
        db.execute("DELETE FROM record WHERE key BETWEEN ? AND ?", (rows[0][0], rows[-1][0]))
        return self._write(db, gone=len(rows))

    def _write(self, db: sqlite3.Connection, *, gone: int = 0) -> State:
        """Write the counters, fewer by some; the caller takes them over once committed."""
        state = msgspec.structs.replace(self.state, records=self.state.records - gone)
        counters.save(db, state)
        return state


def _position(row: tuple[int, bytes]) -> int:
    return row[0] & POSITIONS


def _pages(rows: Sequence[Sized]) -> int:
    return pages_of([size for _, size in rows])
