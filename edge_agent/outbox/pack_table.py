"""Runs of plain decisions as packs: one row for up to a thousand of them (:mod:`.columns`).

Packs cover disjoint runs of positions in rising order. Of a pack that is confirmed or dropped in
part, only the small row that says what is still held is written again, never the blob.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from edge_agent.contract.messages import Decision
from edge_agent.outbox import columns
from edge_agent.outbox.capped_db import CappedDb, CorruptError, fitting
from edge_agent.outbox.columns import Columns
from edge_agent.spans import Range, Spans

SCHEMA: Final = """
CREATE TABLE pack(
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    count INTEGER NOT NULL,
    held BLOB
);
CREATE TABLE pack_body(first INTEGER PRIMARY KEY, body BLOB NOT NULL);
"""

PACK_N: Final = 1024  # most records in a pack: twice as many save 2 %, and cost twice to open
_FULL_PAGES: Final = 250  # of a transaction, from which packs have their full size
_CHUNK_N: Final = 8  # packs that are removed in one transaction

_OVERLAPPING: Final = (
    "SELECT first, last, count, held, "
    "(SELECT length(body) FROM pack_body WHERE pack_body.first = pack.first) FROM pack "
    "WHERE first BETWEEN ifnull((SELECT max(first) FROM pack WHERE first <= ?1), 0) AND ?2 "
    "AND last >= ?1 ORDER BY first LIMIT ?3"
)

_ranges: Final = msgspec.msgpack.Decoder(tuple[Range, ...])


class Pack(msgspec.Struct, frozen=True):
    """A pack to be written: its positions and their blob."""

    positions: list[int]
    body: bytes

    @property
    def size(self) -> int:
        """Bytes of its content on disk."""
        return len(self.body) + _ROW_BYTES


class Found(msgspec.Struct, frozen=True):
    """A pack on disk.

    Attributes:
        count: records of it that are still held.
        held: their ranges, counted from ``first``; None for all that its blob has.
        body_bytes: size of its blob.
    """

    first: int
    last: int
    count: int
    held: bytes | None
    body_bytes: int

    @property
    def size(self) -> int:
        """Bytes of its content on disk, at most, once some of it has been taken out."""
        return self.body_bytes + _RANGE_BYTES * self.count + _ROW_BYTES


_ROW_BYTES: Final = 32
_RANGE_BYTES: Final = 12


class PackTable:
    """The packs of one open file; for the thread that owns the file.

    Attributes:
        last: last position that a pack covers; 0 without packs.
        pack_n: most records in one of its packs: fewer below a small cap, whose transactions
            are small too.
    """

    def __init__(self, db: CappedDb) -> None:
        self._db = db
        ((last,),) = db.query(
            "SELECT max(last) FROM pack WHERE first = (SELECT max(first) FROM pack)"
        )
        self.last: int = last or 0
        self.pack_n = max(16, min(PACK_N, PACK_N * db.transaction_pages_max // _FULL_PAGES))
        self._opened: tuple[int, Columns] | None = None

    def packs_of(self, numbered: Sequence[tuple[int, Decision]]) -> list[Pack]:
        """Pack (position, decision) pairs, in packs that are about equally full."""
        packs_n = -(-len(numbered) // self.pack_n)
        bounds = [index * len(numbered) // packs_n for index in range(packs_n + 1)]
        packs = []
        for start, end in pairwise(bounds):
            positions = [position for position, _ in numbered[start:end]]
            decisions = [decision for _, decision in numbered[start:end]]
            packs.append(Pack(positions, columns.pack(positions, decisions)))
        return packs

    def insert(self, db: sqlite3.Connection, packs: Sequence[Pack]) -> None:
        """Write packs that come after all others, inside the caller's transaction."""
        for pack in packs:
            first, last = pack.positions[0], pack.positions[-1]
            db.execute(
                "INSERT INTO pack VALUES (?, ?, ?, NULL)", (first, last, len(pack.positions))
            )
            db.execute("INSERT INTO pack_body VALUES (?, ?)", (first, pack.body))

    def overlapping(self, first: int, last: int, *, n_max: int = _CHUNK_N) -> list[Found]:
        """The first packs around these positions that one transaction may remove."""
        found = [Found(*row) for row in self._db.query(_OVERLAPPING, (first, last, n_max))]
        return found[: fitting([each.size for each in found], self._db.transaction_pages_max)]

    def remove(self, db: sqlite3.Connection, found: Found, first: int, last: int) -> int:
        """Take positions out of a pack, inside the caller's transaction; how many it held."""
        count, left = found.count, Spans()
        if found.first < first or found.last > last:
            left = self.held(found)
            count = left.remove(first, last)
        if not left:
            db.execute("DELETE FROM pack WHERE first = ?", (found.first,))
            db.execute("DELETE FROM pack_body WHERE first = ?", (found.first,))
        elif count:
            ranges = tuple((start - found.first, end - found.first) for start, end in left)
            db.execute(
                "UPDATE pack SET count = ?, held = ? WHERE first = ?",
                (left.count, msgspec.msgpack.encode(ranges), found.first),
            )
        return count

    def held(self, found: Found) -> Spans:
        """The positions of a pack that are still kept.

        Raises:
            CorruptError: it is damaged.
        """
        if found.held is None:
            return Spans.of(self._columns(found.first).positions)
        try:
            ranges = _ranges.decode(found.held)
        except msgspec.DecodeError as exc:
            raise CorruptError(f"what is held from position {found.first} is damaged") from exc
        return Spans((found.first + start, found.first + end) for start, end in ranges)

    def read(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """(position, body) of the packed records at these positions, oldest first."""
        at = first
        while found := self.overlapping(at, last, n_max=1):
            opened, pack = self._columns(found[0].first), found[0]
            if pack.held is None:
                yield from opened.bodies(at, last)
            else:
                for start, end in self.held(pack):
                    yield from opened.bodies(max(start, at), min(end, last))
            at = pack.last + 1

    def _columns(self, first: int) -> Columns:
        """Open a pack; the last one stays open, since a batch rarely ends where a pack does."""
        if self._opened is None or self._opened[0] != first:
            ((body,),) = self._db.query("SELECT body FROM pack_body WHERE first = ?", (first,))
            self._opened = first, Columns(first, body)
        return self._opened[1]
