"""The outbox: every record is on disk before it is sent, and stays until it is confirmed.

Every record gets the next *position*, counted over all boots; a boot is known by the position
before its first record, so neither boot nor seq is stored with a record (:mod:`.boots`).

Nothing vanishes silently: what the byte cap drops is noted in the same transaction
(:mod:`.losses`) and said in ledger records, which are never dropped themselves. At any moment
kept + noted or ledgered + confirmed = appended.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.clock import Clock
from edge_agent.contract.messages import Head, Stamp, Started, with_seq
from edge_agent.outbox import losses, pack_table, record_table
from edge_agent.outbox.boots import Boots
from edge_agent.outbox.capped_db import CappedDb, CorruptError, pages_of, set_aside
from edge_agent.outbox.items import RECORD_RANKS, Item, Kept, Message, Rank, Slice, encoded
from edge_agent.outbox.record_table import RecordTable
from edge_agent.spans import Range, Spans

log = logging.getLogger(__name__)

_FORMAT_1: Final = f"""
{record_table.SCHEMA}
{losses.SCHEMA}
CREATE TABLE boot(base INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE collector(seen INTEGER PRIMARY KEY);
"""
_FORMAT_2: Final = pack_table.SCHEMA
_MIGRATIONS: Final = (_FORMAT_1, _FORMAT_2)
OUTBOX_FORMAT: Final = len(_MIGRATIONS)

_LEDGER_RECORDS: Final = 16  # kept at any time; more losses wait, merged, in the draft
_LEDGER_BYTES: Final = 2048  # no ledger record is larger
_BOOT_BYTES: Final = 32
_DROPPABLE: Final = tuple(rank for rank in Rank if rank is not Rank.LEDGER)


class Outbox:
    """The outbox of one boot of the agent; :meth:`open` makes it.

    Every call comes from one thread at a time: the one that owns it. ``boot``, ``seq_last``,
    ``records``, ``dropped`` and ``file_bytes`` may be read from any thread.

    Attributes:
        boot: 8 random hexadecimal digits, so that clones of an SD card never mix.
        collector_seen: whether a collector has ever acknowledged to this outbox.
    """

    def __init__(self, db: CappedDb, clock: Clock) -> None:
        self._db, self._clock = db, clock
        self._boots = Boots(db.query("SELECT base, name FROM boot ORDER BY base"))
        self._table = RecordTable(db, self._boots)
        self.boot = secrets.token_hex(4)
        self._dropped_said = -1  # of `dropped`, when everything was said; below 0 for not yet
        self.collector_seen = bool(db.query("SELECT 1 FROM collector"))

    @classmethod
    def open(cls, path: Path, *, bytes_max: int, agent: str, clock: Clock) -> Outbox:
        """Open or create the file and begin a new boot, whose first record is ``Started``.

        Fallback: a damaged file is set aside and a new one begun, so that the device goes on
        recording; the log and a ledger record say so.

        Args:
            path: of the main file; its log lies beside it.
            bytes_max: cap on the sum of its files, at least 1 MiB.
            agent: version of the agent.
            clock: for stamps.

        Raises:
            StorageError: it cannot be used, or a newer agent wrote it; it is untouched then.
        """
        try:
            return cls._opened(path, bytes_max, agent, clock)
        except CorruptError as exc:
            _set_aside(path, exc, clock)
            outbox = cls._opened(path, bytes_max, agent, clock)
            outbox.lose(losses.CORRUPT, 0)
            return outbox

    def append(self, items: Sequence[Kept]) -> int:
        """Keep items durably, in order: those from the front that one transaction may hold.

        When they do not fit below the byte cap, the least important and then oldest go, of what
        is kept and of ``items`` alike.

        Returns:
            How many were accepted, at least 1: each has its seq, and is on disk, or noted as
            dropped.

        Raises:
            StorageError: nothing was accepted.
        """
        return self._table.append(items)

    def read(self, first: int, last: int, *, n_max: int, bytes_max: int) -> Slice | None:
        """The oldest kept records within a range of positions, all of one boot.

        Args:
            first: first position of the range.
            last: last position of the range.
            n_max: most records.
            bytes_max: most bytes of their wire form; a first record that is larger comes alone.

        Returns:
            None when there are none.
        """
        spans, records, size = Spans(), list[msgspec.Raw](), 0
        with self._table.read(first, last) as rows:
            for position, body in rows:
                if not records:
                    boot = self._boots.at(position)
                    through = min(last, boot.last or last)
                wire = with_seq(position - boot.base, body)
                size += len(wire) + 1
                full = len(records) == n_max or (records and size > bytes_max)
                if position > through or full:
                    through = position - 1
                    break
                spans.add(position, position)
                records.append(msgspec.Raw(wire))
        return Slice(boot.name, through, spans, records) if records else None

    def messages(self, first: int, last: int, *, n_max: int) -> list[Message]:
        """The oldest kept messages to users' topics at positions ``first`` to ``last``."""
        return self._table.messages(first, last, n_max=n_max)

    def discard(self, spans: Spans) -> int:
        """Delete confirmed records; returns how many were still kept.

        Not synced: after a power cut some may be there again, and are sent again.
        """
        return self._table.delete(RECORD_RANKS, spans)

    def discard_messages(self, spans: Spans) -> int:
        """Delete confirmed messages to users' topics; returns how many were still kept."""
        return self._table.delete([Rank.MESSAGE], spans)

    def positions(self, boot: str, seqs: Iterable[Range]) -> Spans:
        """Where ranges of seqs of a boot lie; empty for a boot that is not known."""
        return self._boots.positions(boot, seqs, self.position)

    def note_collector(self) -> None:
        """Remember that a collector has acknowledged."""
        with self._db.transaction(pages_of([]), durable=True) as db:
            db.execute("INSERT OR IGNORE INTO collector VALUES (1)")
        self.collector_seen = True

    def lose(self, reason: str, count: int) -> None:
        """Note records that were dropped before they had a seq."""
        with self._db.transaction(pages_of([]), durable=True) as db:
            losses.note_lost(db, reason, count)
        self._table.dropped += count
        self._dropped_said = -1

    def say_losses(self) -> int:
        """Make ledger records of what was noted; returns how many.

        While earlier ones wait to be confirmed none is made, and further losses merge in the
        draft: so the ledger stays small however long the device is alone.
        """
        if self._table.dropped == self._dropped_said or self._table.holds(Rank.LEDGER):
            return 0
        for said in range(_LEDGER_RECORDS):
            self._table.make_room([Item(Rank.LEDGER, bytes(_LEDGER_BYTES))])
            now = Stamp(t=self._clock.wall(), synced=self._clock.synced())
            found = losses.next_ledger(self._db, self._boots, now)
            if found is None:
                self._dropped_said = self._table.dropped
                return said
            self._table.append_ledger(encoded(found[0]), found[1])
        return _LEDGER_RECORDS

    def renew(self, cause: CorruptError) -> None:
        """Set a file aside that turned out to be damaged, and go on in a new one.

        Boot and seqs go on. Everything that the old file may have held is noted as dropped.

        Raises:
            StorageError: the new file cannot be made; to be called again.
        """
        path, known = self._db.path, self._boots.rows
        self._db.close()
        if path.exists():
            _set_aside(path, cause, self._clock)
        self._db = CappedDb(path, bytes_max=self._db.bytes_max, migrations=_MIGRATIONS)
        table = RecordTable(self._db, self._boots)
        table.go_on_from(self._table.state)
        table.dropped = self._table.dropped
        with self._db.transaction(pages_of([_BOOT_BYTES] * len(known)), durable=True) as db:
            db.executemany("INSERT INTO boot VALUES (?, ?)", known)
            lost = Spans([(known[0][0] + 1, table.state.position)])
            losses.note_dropped(db, lost, losses.CORRUPT)
            if self.collector_seen:
                db.execute("INSERT INTO collector VALUES (1)")
        self._table, self._dropped_said = table, -1

    @property
    def position(self) -> int:
        """Last position that a record got."""
        return self._table.state.position

    @property
    def message_position(self) -> int:
        """Last position that a message to a user's topic got."""
        return self._table.state.message

    @property
    def seq_last(self) -> int:
        """Last seq of this boot."""
        return self.position - self._boots.rows[-1][0]

    @property
    def records(self) -> int:
        """Records and messages that are kept now."""
        return self._table.state.records

    @property
    def dropped(self) -> int:
        """Records and messages that were dropped since this boot began."""
        return self._table.dropped

    @property
    def file_bytes(self) -> int:
        """Size of its files on disk."""
        return self._db.file_bytes

    def oldest_t(self) -> float:
        """Wall time of the oldest record kept, 0 when there is none."""
        oldest = self.read(1, self.position, n_max=1, bytes_max=1)
        return msgspec.json.decode(oldest.records[0], type=Head).t if oldest else 0.0

    def close(self) -> None:
        """Let the file go. May be called twice."""
        self._db.close()

    @classmethod
    def _opened(cls, path: Path, bytes_max: int, agent: str, clock: Clock) -> Outbox:
        db = CappedDb(path, bytes_max=bytes_max, migrations=_MIGRATIONS)
        try:
            outbox = cls(db, clock)
            outbox._begin(agent)
        except BaseException:
            db.close()
            raise
        return outbox

    def _begin(self, agent: str) -> None:
        """Start a boot: make the file fit its cap, and write the first record."""
        while self._db.pages_free < 0 and any(map(self._table.drop_oldest, _DROPPABLE)):
            pass
        self._db.shrink()
        self._forget_boots()
        previous, base = self._boots.rows[-1:], self.position
        started = Started(
            t=self._clock.wall(),
            synced=self._clock.synced(),
            agent=agent,
            previous_boot=previous[0][1] if previous else "",
            previous_seq=base - previous[0][0] if previous else 0,
        )
        self._boots.begin(base, self.boot)
        with self._db.transaction(pages_of([]), durable=True) as db:
            # A boot that ended before its first record had the same base: it never was.
            db.execute("INSERT OR REPLACE INTO boot VALUES (?, ?)", (base, self.boot))
        self.append([encoded(started)])

    def _forget_boots(self) -> None:
        """Delete the names of boots of which nothing is left."""
        with self._table.read(1, self.position) as rows:
            left = [position for position, _ in islice(rows, 1)]
        left += [first for (first,) in self._db.query("SELECT first FROM dropped LIMIT 1")]
        if gone := self._boots.forget(min(left, default=self.position)):
            with self._db.transaction(pages_of([_BOOT_BYTES] * gone), durable=False) as db:
                db.execute("DELETE FROM boot WHERE base < ?", (self._boots.rows[0][0],))


def _set_aside(path: Path, cause: CorruptError, clock: Clock) -> None:
    kept = set_aside(path, str(round(clock.wall())))
    log.error("%s: it is kept as %s, and a new outbox begins", cause, kept.name)
