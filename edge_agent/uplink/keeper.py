"""Writes to the outbox in rounds, and gets over a disk that refuses.

What was offered is committed in one durable transaction at most every ``flush_s``, unless the
queue is half full. When the disk refuses, records stay in the bounded queue and are tried again
after 1 to 30 s; what overflows meanwhile is counted and said in the ledger later. A file that
turns out to be damaged is replaced by a new one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from edge_agent.contract.errors import StorageError
from edge_agent.contract.messages import Ack
from edge_agent.outbox.capped_db import CorruptError
from edge_agent.outbox.items import Kept
from edge_agent.outbox.outbox import Outbox
from edge_agent.uplink.delivery import Delivery
from edge_agent.uplink.intake import Intake

log = logging.getLogger(__name__)

_S: Final = 1_000_000_000
_RETRY_S: Final = (1.0, 30.0)  # first and longest pause after the disk refused
_OLDEST_NS: Final = _S  # how often the age of the oldest record is looked up


class Keeper:
    """Moves records from the intake to the outbox, and out of it once they are confirmed.

    Every call comes from the uplink's thread; the attributes may be read from any. Times are
    monotonic nanoseconds.

    Args:
        outbox: where records are kept.
        intake: where they come from.
        delivery: learns what was appended and says what has settled.
        flush_s: longest time that a record waits for its commit.

    Attributes:
        fault: why nothing can be stored at the moment, or empty.
        oldest_t: wall time of the oldest record kept, as of about a second ago; 0 for none.
        commit_ns: when what waits must be committed; None when nothing waits.
    """

    def __init__(
        self, outbox: Outbox, intake: Intake, delivery: Delivery, *, flush_s: float
    ) -> None:
        self._outbox, self._intake, self._delivery = outbox, intake, delivery
        self._flush_ns = round(flush_s * _S)
        self.fault = ""
        self.oldest_t = 0.0
        self.commit_ns: int | None = None
        self._oldest_ns = 0
        self._corrupt: CorruptError | None = None
        self._readable = True
        self._retry_ns, self._retry_s = 0, _RETRY_S[0]

    def write(self, now: int) -> None:
        """Do what there is to write, unless the disk refused just now."""
        if now >= self._retry_ns and self._attempt(self._write, now):
            if self.fault:
                log.warning("records are stored again")
            self.fault, self._readable, self._retry_s = "", True, _RETRY_S[0]

    def flush(self, now: int) -> None:
        """Commit all that waits, without waiting for its time.

        Raises:
            StorageError: the disk refuses.
        """
        self._retry_ns, self.commit_ns = 0, now
        self.write(now)
        if self._intake:
            raise StorageError(f"{len(self._intake)} records are lost: {self.fault}")

    def read(self, work: Callable[[int], None], now: int) -> None:
        """Do what reads the outbox, unless that failed and was not got over yet."""
        if self._readable:
            self._readable = self._attempt(work, now)

    def acknowledge(self, ack: Ack, now: int) -> None:
        """Delete what a collector has stored; one that comes while the disk refuses is lost.

        A collector answers again when it gets a record again.
        """
        if now >= self._retry_ns:
            self._attempt(lambda now: self._delete_acknowledged(ack, now), now)

    def _write(self, now: int) -> None:
        if self._corrupt is not None:
            self._outbox.renew(self._corrupt)
            self._corrupt = None
        if self._intake and self.commit_ns is None:
            self.commit_ns = now + self._flush_ns
        due = self.commit_ns is not None and now >= self.commit_ns
        if due or self._intake.is_pressing:
            self._intake.drain(self._append)
            self.commit_ns = None
        self._note_losses()
        if self._delivery.up:
            self._outbox.say_losses()
        records, messages = self._delivery.settled(now)
        self._outbox.discard(records)
        self._outbox.discard_messages(messages)
        if now - self._oldest_ns >= _OLDEST_NS:
            self.oldest_t, self._oldest_ns = self._outbox.oldest_t(), now

    def _append(self, items: list[Kept]) -> int:
        before = self._outbox.message_position
        accepted = self._outbox.append(items)
        self._delivery.appended_messages(before + 1, self._outbox.message_position)
        return accepted

    def _note_losses(self) -> None:
        """Write down what was dropped before it reached the outbox."""
        lost = dict(self._intake.take_lost())
        try:
            while lost:
                reason, count = next(iter(lost.items()))
                self._outbox.lose(reason, count)
                del lost[reason]
        finally:
            for reason, count in lost.items():
                self._intake.lose(reason, count)

    def _delete_acknowledged(self, ack: Ack, now: int) -> None:
        spans = self._outbox.positions(ack.boot, [(1, ack.through), *ack.ranges])
        if not spans:
            return
        if not self._outbox.collector_seen:
            self._outbox.note_collector()
        self._delivery.by_collector = True
        if self._outbox.discard(spans):
            self._delivery.confirmed(spans, now)

    def _attempt(self, work: Callable[[int], None], now: int) -> bool:
        """Do a part of the round; whether the disk let it.

        Fallback: when it does not, what was offered stays queued and what was sent stays kept,
        the status says why, and the thread goes on.
        """
        try:
            work(now)
        except StorageError as exc:
            if isinstance(exc, CorruptError):
                self._corrupt = exc
            if not self.fault:
                log.error("records wait in memory: %s", exc)  # noqa: TRY400 - the message says all
            self.fault = str(exc)
            self._retry_ns = now + round(self._retry_s * _S)
            self._retry_s = min(2 * self._retry_s, _RETRY_S[1])
            return False
        return True
