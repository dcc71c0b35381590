"""One thread owns the outbox and sends what is in it; everybody else only offers.

A round (:meth:`Uplink.step`) takes what the link reports, commits what was offered (one durable
transaction at most every ``flush_s``, unless the queue is half full), deletes what is confirmed,
and sends: live records, messages to users' topics, backlog. The rules are those of
:mod:`.delivery`. Records have the form of :class:`~edge_agent.contract.messages.Batch`: one device,
one boot, rising seq; a user's message goes alone to its topic.

When the disk refuses, records stay in the bounded queue and are tried again after 1 to 30 s; what
overflows meanwhile is counted and said in the ledger later.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from edge_agent import __version__
from edge_agent.capped_db import CorruptError
from edge_agent.clock import Clock
from edge_agent.config import OutboxConfig, UplinkConfig
from edge_agent.contract.errors import LinkError, StorageError
from edge_agent.contract.messages import Ack, OutboxStatus, Record, decode
from edge_agent.contract.topics import Topics
from edge_agent.delivery import Delivery
from edge_agent.intake import Intake
from edge_agent.items import Item, Rank
from edge_agent.link import Denied, Down, Event, Message, Port, Published, Refused, Up
from edge_agent.outbox import Outbox
from edge_agent.sender import Sender

log = logging.getLogger(__name__)

_S: Final = 1_000_000_000
_EVENTS_N: Final = 1_000  # link events taken in one round
_IDLE_S: Final = 1.0  # longest wait in run(), so that its stop event is seen
_FAULT_PAUSE_S: Final = 0.1  # shortest wait while the disk refuses
_RETRY_S: Final = (1.0, 30.0)  # first and longest pause after the disk refused
_OLDEST_NS: Final = _S  # how often the age of the oldest record is looked up
_WAKE: Final = Published(0)  # no publish has token 0: an event that only wakes the thread


class Uplink:
    """Opens the outbox, takes records from any thread, keeps and sends them on one.

    Args:
        path: of the outbox's main file.
        topics: names of the topics.
        device: this device's id.
        outbox: bounds of what is kept.
        uplink: how it leaves the device.
        clock: for pauses and stamps.

    Raises:
        StorageError: the outbox cannot be used, or a newer agent wrote it.
    """

    def __init__(
        self,
        path: Path,
        *,
        topics: Topics,
        device: str,
        outbox: OutboxConfig,
        uplink: UplinkConfig,
        clock: Clock,
    ) -> None:
        self._topics, self._device, self._clock = topics, device, clock
        self._flush_s, self._config = outbox.flush_s, uplink
        self._outbox = Outbox.open(path, bytes_max=outbox.bytes_max, agent=__version__, clock=clock)
        by_collector = uplink.confirm == "collector" or (
            uplink.confirm == "auto" and self._outbox.collector_seen
        )
        self._delivery = Delivery(
            uplink,
            live=topics.records(device, "live"),
            backlog=topics.records(device, "backlog"),
            by_collector=by_collector,
        )
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._port: Port | None = None
        self._sender: Sender | None = None
        self._intake = Intake(outbox.queue_n_max, self._wake)
        self._commit_ns: int | None = None  # when what is queued must be committed
        self._fault = ""
        self._unreadable = False
        self._corrupt: CorruptError | None = None
        self._retry_ns, self._retry_s = 0, _RETRY_S[0]
        self._oldest_t, self._oldest_ns = 0.0, 0
        self._told: set[str] = set()  # what was logged on this connection

    # --- any thread ---

    @property
    def boot(self) -> str:
        """This start of the agent."""
        return self._outbox.boot

    def offer(self, record: Record) -> None:
        """Take a record to be kept and sent. Any thread; never waits, well under 1 us.

        Beyond ``queue_n_max`` waiting records it is dropped, counted and said in the ledger.
        """
        self._intake.put(record)

    def send(self, topic: str, payload: bytes) -> None:
        """Take a message for a topic of the user's; otherwise as :meth:`offer`."""
        self._intake.put(Item(Rank.MESSAGE, payload, topic))

    def status(self) -> OutboxStatus:
        """How full the outbox is. Any thread."""
        outbox = self._outbox
        return OutboxStatus(
            records=outbox.records + len(self._intake),  # whoever awaits 0 awaits these too
            file_bytes=outbox.file_bytes,
            seq_last=outbox.seq_last,
            oldest_t=self._oldest_t if outbox.records else 0.0,
            dropped=outbox.dropped + self._intake.lost_n,
            fault=self._fault,
        )

    # --- the owner's thread ---

    def attach(self, port: Port | None) -> None:
        """Give it its share of the link, before the first round; None keeps everything."""
        if port is None:
            return
        self._port, self._events = port, port.events
        self._sender = Sender(
            self._outbox,
            self._delivery,
            port=port,
            topics=self._topics,
            device=self._device,
            config=self._config,
        )
        self._wake()

    def run(self, stop: threading.Event) -> None:
        """Do rounds until ``stop`` is set, seen within 1 s; then :meth:`close` may be called."""
        while not stop.is_set():
            self.step()
            self._await_event(self._pause_s())

    def step(self) -> None:
        """One bounded round; never waits."""
        for _ in range(_EVENTS_N):
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                break
            self._take(event)
        now = self._clock.monotonic_ns()
        if now >= self._retry_ns and self._guarded(self._store, now):
            self._recovered()
        if not self._unreadable:
            self._unreadable = not self._guarded(self._send, now)

    def close(self, deadline_s: float) -> None:
        """Commit all that was offered, send what is fresh for ``deadline_s``, close the outbox.

        Called once, when nothing is offered any more and :meth:`run` has returned.

        Raises:
            StorageError: the disk refuses what was offered last.
        """
        end_ns = self._clock.monotonic_ns() + round(deadline_s * _S)
        try:
            self._retry_ns, self._commit_ns = 0, self._clock.monotonic_ns()
            self.step()
            if self._intake:
                raise StorageError(f"{len(self._intake)} records are lost: {self._fault}")
            while self._has_fresh and (left := end_ns - self._clock.monotonic_ns()) > 0:
                if not self._await_event(left / _S):
                    break
                self.step()
        finally:
            self._outbox.close()

    # --- helpers ---

    def _wake(self) -> None:
        self._events.put(_WAKE)

    def _await_event(self, seconds: float) -> bool:
        """Wait for one event of the link or an offer, and take it; False when none came."""
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            return False
        self._take(event)
        return True

    def _take(self, event: Event) -> None:
        now = self._clock.monotonic_ns()
        match event:
            case Up():
                self._told.clear()
                self._connected(now)
            case Down():
                self._delivery.disconnected()
            case Published(token):
                self._delivery.published(token, now)
            case Refused(token, reason):
                if topic := self._delivery.refused(token, now):
                    self._tell(topic, f"the broker refuses messages to {topic}: {reason}")
            case Denied(topic, reason):
                self._tell(topic, f"the broker refuses the subscription to {topic}: {reason}")
            case Message(_, payload, _):
                self._guarded(lambda now: self._acknowledge(payload, now), now)

    def _connected(self, now: int) -> None:
        """Begin a connection: everything that is kept is backlog."""
        self._delivery.connected(self._outbox.position, self._outbox.message_position, now)
        if self._port is not None and self._config.confirm != "broker":
            self._port.subscribe([self._topics.ack(self._device)])

    def _acknowledge(self, payload: bytes, now: int) -> None:
        """Delete what a collector has stored."""
        try:
            ack = decode(payload, Ack)
        except LinkError as exc:  # from outside; the collector's next one may be sound
            self._tell("ack", f"an acknowledgement is ignored: {exc}")
            return
        spans = self._outbox.positions(ack.boot, [(1, ack.through), *ack.ranges])
        if not spans:
            return
        if not self._outbox.collector_seen:
            self._outbox.note_collector()
        self._delivery.by_collector = True
        if self._outbox.discard(spans):
            self._delivery.confirmed(spans, now)

    def _store(self, now: int) -> None:
        """Everything that writes to the outbox."""
        if self._corrupt is not None:
            self._outbox.renew(self._corrupt)
            self._corrupt = None
        if self._intake and self._commit_ns is None:
            self._commit_ns = now + round(self._flush_s * _S)
        if self._intake and (now >= (self._commit_ns or now) or self._intake.is_pressing):
            self._intake.drain(self._keep)
            self._commit_ns = None
        self._note_losses()
        if self._delivery.up:
            self._outbox.say_losses()
        records, messages = self._delivery.settled(now)
        self._outbox.discard(records)
        self._outbox.discard_messages(messages)
        if now - self._oldest_ns >= _OLDEST_NS:
            self._oldest_t, self._oldest_ns = self._outbox.oldest_t(), now

    def _keep(self, items: list[Item]) -> int:
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

    def _send(self, now: int) -> None:
        if self._sender is not None and self._delivery.up:
            self._delivery.expire(now)
            self._sender.send(now)

    def _guarded(self, work: Callable[[int], None], now: int) -> bool:
        """Do a part of the round; when the disk refuses, say so and go on: the thread never dies.

        What was offered stays queued, what was sent stays kept; storing is tried again later.
        """
        try:
            work(now)
        except StorageError as exc:
            if isinstance(exc, CorruptError):
                self._corrupt = exc
            if not self._fault:
                log.error("records wait in memory: %s", exc)  # noqa: TRY400 - the message says all
            self._fault = str(exc)
            self._retry_ns = now + round(self._retry_s * _S)
            self._retry_s = min(2 * self._retry_s, _RETRY_S[1])
            return False
        return True

    def _recovered(self) -> None:
        if self._fault:
            log.warning("records are stored again")
        self._fault, self._unreadable, self._retry_s = "", False, _RETRY_S[0]

    def _tell(self, what: str, sentence: str) -> None:
        """Log something at most once a connection."""
        if what not in self._told:
            self._told.add(what)
            log.warning("%s", sentence)

    def _pause_s(self) -> float:
        """How long nothing needs to be done unless an event comes."""
        now = self._clock.monotonic_ns()
        times = [self._commit_ns] if self._commit_ns is not None else []
        if self._delivery.up and (due := self._delivery.due_ns()) is not None:
            times.append(due)
        pause_s = (min(times) - now) / _S if times else _IDLE_S
        least_s = _FAULT_PAUSE_S if self._fault else 0.0
        return min(max(pause_s, least_s), _IDLE_S)

    @property
    def _has_fresh(self) -> bool:
        return self._sender is not None and self._sender.has_fresh
