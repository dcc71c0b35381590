"""Records in one SQLite file, which several collectors may share.

Beside the records the file keeps, per boot, the ranges of seqs that are stored and those that are
stored or ledgered. They change in the transaction that stores, so acknowledgements are right
whichever process computes them, and cost the same however many records there are.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from edge_agent.contract.errors import StorageError
from edge_agent.contract.messages import Ack
from edge_agent.fleet.ranges import acknowledgements, runs
from edge_agent.fleet.records import Row, ledger_of, ledger_ranges, started_of, unsequenced
from edge_agent.fleet.sinks import Boot, Extent, Stored, Tally, tally
from edge_agent.spans import Range

FORMAT: Final = 1
_BUSY_S: Final = 30.0
_Which = Literal["stored", "covered"]

_SCHEMA: Final = (
    """CREATE TABLE records (
        device TEXT NOT NULL, boot TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL,
        t REAL NOT NULL, late INTEGER NOT NULL, received_t REAL NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (device, boot, seq)) WITHOUT ROWID""",
    """CREATE TABLE spans (
        device TEXT NOT NULL, boot TEXT NOT NULL, which TEXT NOT NULL,
        first INTEGER NOT NULL, last INTEGER NOT NULL,
        PRIMARY KEY (device, boot, which, first)) WITHOUT ROWID""",
    """CREATE TABLE boots (
        device TEXT NOT NULL, boot TEXT NOT NULL,
        last INTEGER NOT NULL, unsequenced INTEGER NOT NULL,
        PRIMARY KEY (device, boot)) WITHOUT ROWID""",
    f"PRAGMA user_version = {FORMAT}",
)


class SqliteSink:
    """Conforms to :class:`edge_agent.fleet.sinks.Sink`.

    Raises:
        StorageError: not a database, not one of ours, of a newer format, or not writable.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        with self._translated():
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_S)
            try:
                self._check_format()
                if not read_only:
                    self._prepare()
            except BaseException:
                self._db.close()
                raise

    def store(
        self, rows: Sequence[Row], *, received_t: float, seen: Mapping[Boot, int] | None = None
    ) -> Stored:
        """See :meth:`Sink.store <edge_agent.fleet.sinks.Sink.store>`."""
        with self._translated(), self._transaction():
            touched: dict[Boot, set[int]] = defaultdict(set)
            duplicates: dict[str, int] = defaultdict(int)
            new = [row for row in rows if self._insert(row, received_t)]
            for row in rows:
                touched[row.device, row.boot].add(row.seq)
                duplicates[row.device] += 1
            for row in new:
                duplicates[row.device] -= 1
                self._consider(row, touched)
            for (device, boot), seqs in touched.items():
                self._cover(device, boot, seqs)
            for (device, boot), last in (seen or {}).items():
                self._raise_last(device, boot, last)
            acks = [
                (device, ack)
                for (device, boot), seqs in touched.items()
                for ack in self._acks(device, boot, seqs)
            ]
        counts = {device: count for device, count in duplicates.items() if count}
        return Stored(new=len(new), duplicates=counts, acks=acks)

    def tallies(self) -> list[Tally]:
        """See :meth:`Sink.tallies <edge_agent.fleet.sinks.Sink.tallies>`."""
        query = """
            SELECT device, last, unsequenced,
              (SELECT coalesce(sum(s.last - s.first + 1), 0) FROM spans s
               WHERE s.device = b.device AND s.boot = b.boot AND s.which = 'stored'),
              (SELECT coalesce(sum(s.last - s.first + 1), 0) FROM spans s
               WHERE s.device = b.device AND s.boot = b.boot AND s.which = 'covered')
            FROM boots b"""
        with self._translated():
            return tally(
                Extent(device=device, last=last, stored=stored, covered=covered, unsequenced=lost)
                for device, last, lost, stored, covered in self._db.execute(query)
            )

    def close(self) -> None:
        """See :meth:`Sink.close <edge_agent.fleet.sinks.Sink.close>`."""
        self._db.close()

    # --- one row ---------------------------------------------------------------------------------

    def _insert(self, row: Row, received_t: float) -> bool:
        """Store one row unless it is there; whether it was new."""
        values = (row.device, row.boot, row.seq, row.kind, row.t, row.late, received_t)
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, row.body.decode()),
        )
        return cursor.rowcount == 1

    def _consider(self, row: Row, touched: dict[Boot, set[int]]) -> None:
        """Take from a new row what it says about other seqs."""
        if (started := started_of(row)) and started.previous_boot:
            self._raise_last(row.device, started.previous_boot, started.previous_seq)
        if ledger := ledger_of(row):
            for first, last in ledger_ranges(ledger):
                self._merge(row.device, ledger.boot, "covered", first, last)
                self._raise_last(row.device, ledger.boot, last)
            self._db.execute(
                "INSERT INTO boots VALUES (?, ?, 0, ?) ON CONFLICT DO UPDATE"
                " SET unsequenced = unsequenced + excluded.unsequenced",
                (row.device, ledger.boot, unsequenced(ledger)),
            )
            touched[row.device, ledger.boot] |= set()  # acknowledged too: its run may have grown

    # --- ranges ----------------------------------------------------------------------------------

    def _cover(self, device: str, boot: str, seqs: set[int]) -> None:
        for first, last in runs(seqs):
            self._merge(device, boot, "stored", first, last)
            self._merge(device, boot, "covered", first, last)
            self._raise_last(device, boot, last)

    def _merge(self, device: str, boot: str, which: _Which, first: int, last: int) -> None:
        """Add a range, joining what overlaps or touches; few rows are read however many exist."""
        key = (device, boot, which)
        before = self._before(key, first)
        low = before[0] if before and before[1] >= first - 1 else first
        where = "device = ? AND boot = ? AND which = ? AND first BETWEEN ? AND ?"
        bounds = (*key, low, last + 1)
        (end,) = self._db.execute(f"SELECT max(last) FROM spans WHERE {where}", bounds).fetchone()  # noqa: S608  # `where` is the constant above
        self._db.execute(f"DELETE FROM spans WHERE {where}", bounds)  # noqa: S608  # likewise
        row = (*key, low, max(last, end or 0))
        self._db.execute("INSERT INTO spans VALUES (?, ?, ?, ?, ?)", row)

    def _before(self, key: tuple[str, str, _Which], seq: int) -> Range | None:
        """The range with the highest first that is not above ``seq``."""
        found: Range | None = self._db.execute(
            "SELECT first, last FROM spans WHERE device = ? AND boot = ? AND which = ?"
            " AND first <= ? ORDER BY first DESC LIMIT 1",
            (*key, seq),
        ).fetchone()
        return found

    def _raise_last(self, device: str, boot: str, last: int) -> None:
        self._db.execute(
            "INSERT INTO boots VALUES (?, ?, ?, 0) ON CONFLICT DO UPDATE"
            " SET last = max(last, excluded.last)",
            (device, boot, last),
        )

    def _acks(self, device: str, boot: str, seqs: set[int]) -> list[Ack]:
        covered = _CoveredInFile(self._db, device, boot)
        return acknowledgements(boot, covered, runs(seqs))

    # --- the file --------------------------------------------------------------------------------

    def _check_format(self) -> None:
        """Refuse what is not ours, before anything is changed."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise StorageError(
                f"{self._path} has format {version}, this version knows {FORMAT}: update edge-fleet"
            )
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if version == 0 and tables:
            raise StorageError(f"{self._path} is a database of something else: name another file")

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            for statement in _SCHEMA if version == 0 else ():  # another process may have been first
                self._db.execute(statement)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")  # other collectors wait here, not in the middle
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StorageError(
                f"{self._path}: {exc}: check the disk, the rights, and that it is a records file"
            ) from exc


class _CoveredInFile:
    """Conforms to :class:`edge_agent.fleet.ranges.Covered`, within a transaction."""

    def __init__(self, db: sqlite3.Connection, device: str, boot: str) -> None:
        self._db = db
        self._key = (device, boot)

    def through(self) -> int:
        run = self.around(1)
        return run[1] if run else 0

    def around(self, seq: int) -> Range | None:
        found = self._ranges("AND first <= ? ORDER BY first DESC LIMIT 1", seq)
        return found[0] if found and found[0][1] >= seq else None

    def newest(self, count: int) -> list[Range]:
        return self._ranges("ORDER BY first DESC LIMIT ?", count)

    def _ranges(self, rest: str, value: int) -> list[Range]:
        head = "SELECT first, last FROM spans WHERE device = ? AND boot = ? AND which = 'covered' "
        return list(self._db.execute(head + rest, (*self._key, value)))
