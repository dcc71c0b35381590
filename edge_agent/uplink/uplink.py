"""One thread owns the outbox and sends what is in it; everybody else only offers.

A round (:meth:`Uplink.step`) takes what the link reports, commits what was offered and deletes what
is confirmed (:mod:`.keeper`), and sends: live records, messages to users' topics, backlog. The
rules are those of :mod:`.delivery`. Records go in the form of
:class:`~edge_agent.contract.messages.Batch`: one device, one boot, rising seq; a user's message
goes alone to its topic.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from edge_agent import __version__
from edge_agent.clock import Clock
from edge_agent.config import OutboxConfig, UplinkConfig
from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import Ack, OutboxStatus, Record, decode
from edge_agent.contract.topics import Topics
from edge_agent.link import Denied, Down, Event, Message, Port, Published, Refused, Up, take_events
from edge_agent.outbox.items import Item, Rank
from edge_agent.outbox.outbox import Outbox
from edge_agent.uplink.delivery import Delivery
from edge_agent.uplink.intake import Intake
from edge_agent.uplink.keeper import Keeper
from edge_agent.uplink.sender import Sender

log = logging.getLogger(__name__)

_S: Final = 1_000_000_000
_EVENTS_N: Final = 1_000  # link events taken in one round
_IDLE_S: Final = 1.0  # longest wait in run(), so that its stop event is seen
_FAULT_PAUSE_S: Final = 0.1  # shortest wait while the disk refuses
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
        self._config = uplink
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
        self._keeper = Keeper(self._outbox, self._intake, self._delivery, flush_s=outbox.flush_s)
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
            oldest_t=self._keeper.oldest_t if outbox.records else 0.0,
            dropped=outbox.dropped + self._intake.lost_n,
            fault=self._keeper.fault,
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
        for event in take_events(self._events, n_max=_EVENTS_N):
            self._take(event)
        now = self._clock.monotonic_ns()
        self._keeper.write(now)
        self._keeper.read(self._send, now)

    def close(self, deadline_s: float) -> None:
        """Commit all that was offered, send what is fresh for ``deadline_s``, close the outbox.

        Called once, when nothing is offered any more and :meth:`run` has returned.

        Raises:
            StorageError: the disk refuses what was offered last.
        """
        end_ns = self._clock.monotonic_ns() + round(deadline_s * _S)
        try:
            self.step()
            self._keeper.flush(self._clock.monotonic_ns())
            self.step()
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
        for event in take_events(self._events, n_max=1, wait_s=seconds):
            self._take(event)
            return True
        return False

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
                self._acknowledge(payload, now)

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
        self._keeper.acknowledge(ack, now)

    def _send(self, now: int) -> None:
        if self._sender is not None and self._delivery.up:
            self._delivery.expire(now)
            self._sender.send(now)

    def _tell(self, what: str, sentence: str) -> None:
        """Log something at most once a connection."""
        if what not in self._told:
            self._told.add(what)
            log.warning("%s", sentence)

    def _pause_s(self) -> float:
        """How long nothing needs to be done unless an event comes."""
        now = self._clock.monotonic_ns()
        times = [] if self._keeper.commit_ns is None else [self._keeper.commit_ns]
        if self._delivery.up and (due := self._delivery.due_ns()) is not None:
            times.append(due)
        pause_s = (min(times) - now) / _S if times else _IDLE_S
        least_s = _FAULT_PAUSE_S if self._keeper.fault else 0.0
        return min(max(pause_s, least_s), _IDLE_S)

    @property
    def _has_fresh(self) -> bool:
        return self._sender is not None and self._sender.has_fresh
