"""What can be seen from outside: the collector's file, and what a power cut would leave behind."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.clock import SystemClock
from edge_agent.contract.errors import StorageError
from edge_agent.contract.messages import Decision, Head, Metrics, decode
from edge_agent.outbox.outbox import Outbox

_HAS_TABLE: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'records'"
_TRIES: Final = 5
_TAIL_N: Final = 32  # newest records looked at
_TAIL_BYTES: Final = 64 * 1024
_OUTBOX_BYTES_MAX: Final = 64 * 1024 * 1024


class Collected:
    """The records of one device in a collector's file, which the collector goes on writing.

    Args:
        path: of the SQLite file; it need not exist yet.
        device: whose.
    """

    def __init__(self, path: Path, device: str) -> None:
        self._path = path
        self._device = device

    def count(self) -> int:
        """Records of every kind."""
        ((count,),) = self._query("SELECT count(*) FROM records WHERE device = ?") or [(0,)]
        return int(count)

    def newest(self) -> Decision | None:
        """The decision with the highest seq."""
        rows = self._bodies("decision", "DESC LIMIT 1")
        return decode(rows[0], Decision) if rows else None

    def decisions(self) -> list[Decision]:
        """All decisions, oldest first."""
        return [decode(body, Decision) for body in self._bodies("decision", "ASC")]

    def metrics(self) -> Metrics | None:
        """The newest counters and latencies."""
        rows = self._bodies("metrics", "DESC LIMIT 1")
        return decode(rows[0], Metrics) if rows else None

    def _bodies(self, kind: str, order: str) -> list[bytes]:
        query = f"SELECT body FROM records WHERE device = ? AND kind = ? ORDER BY seq {order}"  # noqa: S608 - constants of this class
        return [body.encode() for (body,) in self._query(query, kind)]

    def _query(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        if not self._path.exists():
            return []
        try:
            uri = f"{self._path.resolve().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True)) as db:
                if not db.execute(_HAS_TABLE).fetchone():
                    return []  # the collector has only just begun
                return db.execute(query, (self._device, *values)).fetchall()
        except sqlite3.Error as exc:
            raise StorageError(f"{self._path}: {exc}: look at the collector's log") from exc


class Kept(msgspec.Struct, frozen=True):
    """What an outbox holds.

    Attributes:
        produced: records that were ever put into it.
        waiting: records that it still keeps.
        newest: the newest decision among them.
    """

    produced: int
    waiting: int
    newest: Decision | None


def look_into(outbox: Path) -> Kept | None:
    """Open a copy of an agent's outbox, as an agent would after a power cut at this moment.

    Args:
        outbox: the file, which the agent keeps for itself while it runs.

    Returns:
        None when there is none yet, or it changed in each of the few tries to copy it whole.
    """
    with tempfile.TemporaryDirectory(prefix="edge-agent-demo-") as folder:
        copy = _copy_whole(outbox, Path(folder))
        if copy is None:
            return None
        opened = Outbox.open(copy, bytes_max=_OUTBOX_BYTES_MAX, agent="demo", clock=SystemClock())
        with closing(opened):
            last = opened.position - 1  # opening has added one record, to the copy
            tail = opened.read(
                max(1, last - _TAIL_N + 1), last, n_max=_TAIL_N, bytes_max=_TAIL_BYTES
            )
            decisions = [
                decode(bytes(raw), Decision)
                for raw in (tail.records if tail else ())
                if decode(bytes(raw), Head).kind == "decision"
            ]
            newest = decisions[-1] if decisions else None
            return Kept(produced=last, waiting=opened.records - 1, newest=newest)


def _copy_whole(outbox: Path, folder: Path) -> Path | None:
    """Copy the file and its log, of one and the same moment."""
    files = (outbox, outbox.with_name(outbox.name + "-wal"))
    for _ in range(_TRIES):
        before = [_stamp(file) for file in files]
        for file, stamp in zip(files, before, strict=True):
            if stamp is None:
                (folder / file.name).unlink(missing_ok=True)
            else:
                shutil.copyfile(file, folder / file.name)
        if before == [_stamp(file) for file in files]:
            return folder / outbox.name if before[0] else None
    return None


def _stamp(file: Path) -> tuple[int, int] | None:
    """Size and time of the last change; None when there is no such file."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
