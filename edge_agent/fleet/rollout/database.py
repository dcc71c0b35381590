"""One small door to two databases: SQLite in a file, and PostgreSQL by URL.

The only importer of psycopg, which the extra ``[postgres]`` brings. Statements are written with
``?`` for values, in the SQL that both understand.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from edge_agent.contract.errors import ConfigError, StorageError

_BUSY_S: Final = 30.0
_LOCK: Final = 0x65646765  # of PostgreSQL: any number that is always the same
_URLS: Final = ("postgresql://", "postgres://")

Value = str | int | float | None
Rows = list[tuple[Any, ...]]


class Work(Protocol):
    """Statements within one transaction."""

    def rows(self, statement: str, values: Sequence[Value] = ()) -> Rows:
        """The rows that a query finds."""
        ...

    def run(self, statement: str, values: Sequence[Value] = ()) -> int:
        """Change something; how many rows were."""
        ...

    def run_each(self, statement: str, values: Iterable[Sequence[Value]]) -> None:
        """Change something once for each of the values."""
        ...


class Database(Protocol):
    """One connection. Used by one thread."""

    def prepare(self, statements: Iterable[str]) -> None:
        """Make tables that may be there already; others that do so at the same time wait."""
        ...

    def transaction(self) -> AbstractContextManager[Work]:
        """All or nothing; on disk when it ends.

        Raises:
            StorageError: the database refuses, or cannot be reached.
        """
        ...

    def close(self) -> None:
        """Let the connection go."""
        ...


def open_database(where: str) -> Database:
    """Open a database, which is made if it is a file.

    Args:
        where: path of a file, or ``postgresql://USER@HOST/NAME``.

    Raises:
        ConfigError: the extra is missing.
        StorageError: it cannot be opened.
    """
    return _Postgres(where) if where.startswith(_URLS) else _Sqlite(Path(where))


class _Cursor:
    """Conforms to :class:`Work`, on a cursor of either library."""

    def __init__(self, cursor: Any, spell: Callable[[str], str]) -> None:
        self._cursor, self._spell = cursor, spell

    def rows(self, statement: str, values: Sequence[Value] = ()) -> Rows:
        self._cursor.execute(self._spell(statement), tuple(values))
        return list(self._cursor.fetchall())

    def run(self, statement: str, values: Sequence[Value] = ()) -> int:
        self._cursor.execute(self._spell(statement), tuple(values))
        return int(self._cursor.rowcount)

    def run_each(self, statement: str, values: Iterable[Sequence[Value]]) -> None:
        self._cursor.executemany(self._spell(statement), [tuple(line) for line in values])


class _Sqlite:
    def __init__(self, path: Path) -> None:
        self._path = path
        with self._translated():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S)
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
            except BaseException:
                self._db.close()
                raise

    def prepare(self, statements: Iterable[str]) -> None:
        with self.transaction() as work:
            for statement in statements:
                work.run(statement)

    @contextmanager
    def transaction(self) -> Iterator[Work]:
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")  # others wait here, not in the middle
            try:
                yield _Cursor(self._db.cursor(), str)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StorageError(f"{self._path}: {exc}: check the disk and the rights") from exc


class _Postgres:
    """Connects anew when the server has ended the connection."""

    def __init__(self, url: str) -> None:
        if importlib.util.find_spec("psycopg") is None:
            raise ConfigError("PostgreSQL needs an extra: pip install 'edge-agent[postgres]'")
        import psycopg  # noqa: PLC0415  # an extra, and heavy

        def connect() -> psycopg.Connection[Any]:
            return psycopg.connect(url, autocommit=True, connect_timeout=int(_BUSY_S))

        self._connect, self._error = connect, psycopg.Error
        with self._translated():
            self._db = connect()

    def prepare(self, statements: Iterable[str]) -> None:
        with self.transaction() as work:
            work.rows("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            for statement in statements:
                work.run(statement)

    @contextmanager
    def transaction(self) -> Iterator[Work]:
        with self._translated():
            if self._db.closed:
                self._db = self._connect()
            with self._db.transaction(), self._db.cursor() as cursor:
                yield _Cursor(cursor, lambda statement: statement.replace("?", "%s"))

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._error as exc:
            text = " ".join(str(exc).split())  # never the URL: it may hold a password
            raise StorageError(f"PostgreSQL: {text}: check the server and the URL") from exc
