"""A SQLite file that never grows past a byte cap, not even in the middle of a transaction.

How the cap is kept: ``bytes_max`` is split into a share for the write-ahead log (a quarter, at
most 4 MiB) and one for the main file. ``max_page_count`` holds the main file to its share. The log
holds its share because every transaction states beforehand how many pages it may touch, and the
log is first written back and emptied when those would not fit; a page is written to the log at
most once a transaction (no cache spills). Exclusive locking keeps SQLite's third file, the shared
memory, from existing, and a second agent off the file.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from edge_agent.contract.errors import StorageError

log = logging.getLogger(__name__)

PAGE_BYTES: Final = 4096
_FRAME_BYTES: Final = PAGE_BYTES + 24  # a page in the log, with its header
_WAL_BYTES_MAX: Final = 4 * 1024 * 1024
_TRANSACTION_PAGES: Final = 24  # roots, siblings that are rebalanced, free list, pointer map
_OVERFLOW_BYTES: Final = 4000  # longer rows go to pages of their own
_HEADER: Final = b"SQLite format 3\x00"
_VERSION_OFFSET: Final = 60  # of user_version in the header, https://sqlite.org/fileformat.html
_BUSY_S: Final = 1.0

_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "the disk is full: free space on it",
    sqlite3.SQLITE_READONLY: "the disk is read-only: mount it writable, and check it for errors",
    sqlite3.SQLITE_CANTOPEN: "check that the folder exists and that this user may write to it",
    sqlite3.SQLITE_PERM: "check that this user may write to it",
    sqlite3.SQLITE_BUSY: "another process uses it: stop the other agent or give it its own folder",
    sqlite3.SQLITE_IOERR: "the disk failed: check its space, and it for errors",
}


class CorruptError(StorageError):
    """The file is not a database, or a damaged one: it can only be set aside."""


class CappedDb:
    """One connection to one capped file. Every call comes from the one thread that owns it.

    Args:
        path: of the main file; the log lies beside it with ``-wal`` appended.
        bytes_max: cap on the sum of the files, at least 1 MiB.
        migrations: script number N brings a file of format N to format N + 1, from the empty
            file as format 0 on.
        connect: makes the connection; a test that watches every write gives its own.

    Raises:
        StorageError: it cannot be opened, or a newer agent wrote it; it was not touched then.
        CorruptError: it is damaged.
    """

    def __init__(
        self,
        path: Path,
        *,
        bytes_max: int,
        migrations: Sequence[str],
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect,
    ) -> None:
        self.path = path
        self.bytes_max = bytes_max
        self._wal = path.with_name(path.name + "-wal")
        self._wal_max = min(bytes_max // 4, _WAL_BYTES_MAX)
        self.pages_max = (bytes_max - self._wal_max) // PAGE_BYTES
        self.transaction_pages_max = self._wal_max // _FRAME_BYTES - 1
        self._refuse_newer(_format_on_disk(path), len(migrations))
        with self.translated():
            self._db = connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(migrations)
        except BaseException:
            self._db.close()
            raise

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a statement that only reads."""
        with self.translated():
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def cursors(self, sql: str, values: Sequence[Sequence[Any]]) -> Iterator[list[sqlite3.Cursor]]:
        """The same reading statement once for each set of values, read row by row, then closed."""
        opened: list[sqlite3.Cursor] = []
        with self.translated():
            try:
                opened.extend(self._db.execute(sql, each) for each in values)
                yield opened
            finally:
                for cursor in opened:
                    cursor.close()

    @contextmanager
    def transaction(self, pages: int, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing.

        Args:
            pages: how many it may touch at most, see :func:`pages_of`.
            durable: True returns after the log was synced to disk. False is for what may come
                back after a power cut; it becomes durable with the next durable transaction.

        Raises:
            StorageError: nothing was changed.
        """
        with self.translated():
            if self._wal_bytes() + (pages + 1) * _FRAME_BYTES > self._wal_max:
                self._empty_wal()
            self._db.execute("PRAGMA synchronous=FULL" if durable else "PRAGMA synchronous=NORMAL")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @property
    def pages_free(self) -> int:
        """Pages that the main file may still fill; negative when the cap was lowered below it."""
        return self.pages_max - self._pragma("page_count") + self._pragma("freelist_count")

    @property
    def file_bytes(self) -> int:
        """Size of its files on disk. Any thread may ask."""
        return _size(self.path) + self._wal_bytes()

    def shrink(self) -> None:
        """Give free pages back to the disk until the main file is within its share."""
        with self.translated():
            while (over := self._pragma("page_count") - self.pages_max) > 0:
                if not self._pragma("freelist_count"):
                    break
                self._empty_wal()
                moved = min(over, max(1, self.transaction_pages_max // 4))
                self._db.execute(f"PRAGMA incremental_vacuum({moved})").fetchall()
            self._empty_wal()
            self._db.execute(f"PRAGMA max_page_count={self.pages_max}")

    def close(self) -> None:
        """Write the log back and let the file go. May be called twice."""
        self._db.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn SQLite's errors into ours, with what to do."""
        try:
            yield
        except sqlite3.Error as exc:
            code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise CorruptError(f"{self.path}: damaged: {exc}") from exc
            if code == sqlite3.SQLITE_IOERR and _is_read_only(self.path.parent):
                code = sqlite3.SQLITE_READONLY  # it became so under an open file
            advice = _ADVICE.get(code, "check the disk")
            raise StorageError(f"{self.path}: {exc}: {advice}") from exc

    def _prepare(self, migrations: Sequence[str]) -> None:
        """Set the connection up and bring the file to the newest format."""
        with self.translated():
            for pragma in (
                f"page_size={PAGE_BYTES}",
                "auto_vacuum=INCREMENTAL",  # so that a lowered cap can give space back
                "locking_mode=EXCLUSIVE",  # before the first access: no shared-memory file
                "journal_mode=WAL",
                "wal_autocheckpoint=0",  # transaction() does it, before the log grows
                "cache_spill=OFF",
                "secure_delete=OFF",  # or freed pages would be written to the log as zeros
                f"max_page_count={self.pages_max}",
            ):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            found = self._pragma("user_version")
            self._refuse_newer(found, len(migrations))
            if found == len(migrations):
                return
            steps = "".join(migrations[found:])
            script = f"BEGIN IMMEDIATE;{steps}PRAGMA user_version={len(migrations)};COMMIT;"
            self._db.executescript(script)
            self._empty_wal()  # so that the header of the main file tells the format

    def _empty_wal(self) -> None:
        """Write the log back into the main file and cut it to nothing."""
        (busy, _, _) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StorageError(f"{self.path}: the log cannot be emptied: {_ADVICE[5]}")

    def _refuse_newer(self, found: int, known: int) -> None:
        if found > known:
            raise StorageError(
                f"{self.path} has format {found}, this agent knows up to {known}: update the "
                "agent, or move the file away to begin a new one"
            )

    def _pragma(self, name: str) -> int:
        (value,) = self._db.execute(f"PRAGMA {name}").fetchone()
        return int(value)

    def _wal_bytes(self) -> int:
        return _size(self._wal)


def pages_of(lengths: Sequence[int]) -> int:
    """Most pages that a transaction touches which adds or removes rows in order of their key.

    Rows of one run share pages that are at least a third full (SQLite joins emptier ones), so
    they cost three times their size; longer rows lie on pages of their own.

    Args:
        lengths: bytes of each row's content.
    """
    return _TRANSACTION_PAGES + -(-sum(map(_cost, lengths)) // PAGE_BYTES)


def fitting(lengths: Sequence[int], pages_max: int) -> int:
    """How many rows from the front a transaction of so many pages may hold, at least 1."""
    if pages_of(lengths) <= pages_max:
        return len(lengths)
    used = 0
    for index, length in enumerate(lengths):
        used += _cost(length)
        if index and _TRANSACTION_PAGES + -(-used // PAGE_BYTES) > pages_max:
            return index
    return len(lengths)


def set_aside(path: Path, mark: str) -> Path:
    """Move a damaged file and its log out of the way; only the newest such copy is kept.

    Raises:
        StorageError: the folder cannot be changed.
    """
    target = path.with_name(f"{path.name}.corrupt-{mark}")
    try:
        for old in path.parent.glob(f"{path.name}.corrupt-*"):
            old.unlink()
        path.rename(target)
        wal = path.with_name(path.name + "-wal")
        if wal.exists():
            wal.rename(target.with_name(target.name + "-wal"))
    except OSError as exc:
        raise StorageError(f"{path}: damaged, and cannot be moved: {exc.strerror}") from exc
    return target


def _cost(length: int) -> int:
    """Bytes of pages that a row of this length may touch."""
    return 3 * (length + 40) if length < _OVERFLOW_BYTES else length + 2 * PAGE_BYTES


def _format_on_disk(path: Path) -> int:
    """The format in the header, read without SQLite, which would write beside the file.

    0 where the header says nothing: a power cut may have torn it while the log that it was
    written from is whole, and SQLite goes by that; what is damaged indeed it says itself.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return 0
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror}: check its folder and rights") from exc
    if len(header) < 100 or not header.startswith(_HEADER):
        return 0
    return int.from_bytes(header[_VERSION_OFFSET : _VERSION_OFFSET + 4], "big")


def _is_read_only(folder: Path) -> bool:
    """Whether the kernel lets nobody write there, asked by a file without a name."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except OSError as exc:
        return exc.errno == errno.EROFS
    return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
