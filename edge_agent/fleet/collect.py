"""The collector: stores records durably, and only then tells the device that it may forget them.

One round takes every message that waits (bounded), stores their records in one commit, and
acknowledges. Whatever is not acknowledged is sent again by the device, so a message may be
dropped at any point before the commit; and an acknowledgement may be lost, so whatever comes is
acknowledged again, new or not.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from itertools import count
from typing import Final

import msgspec

from edge_agent.clock import Clock
from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import Ack, encode
from edge_agent.contract.topics import Topics
from edge_agent.fleet.devices import read_status
from edge_agent.fleet.records import SEQ_MAX, Row, parse_batch
from edge_agent.fleet.sinks import Boot, Sink, Tally
from edge_agent.fleet.subscription import Subscription
from edge_agent.fleet.text import clean
from edge_agent.link import Denied, Down, Event, Message, Port, Published, Refused, Up, take_events

log = logging.getLogger(__name__)

_ACKS_N_MAX: Final = 10_000  # waiting to be sent; beyond it the oldest go, and are asked for again
_IN_FLIGHT_N_MAX: Final = 10
_COMPLAINTS_N_MAX: Final = 20


class DeviceReport(Tally, frozen=True, kw_only=True):
    """What is known of one device.

    Attributes:
        duplicates: records that came again while this collector ran.
    """

    duplicates: int = 0


class CollectReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a collector has to say; the sums are over all devices in the file.

    Attributes:
        malformed: messages and records that could not be read.
        shared: whether the broker shares the work among collectors; None when unknown.
    """

    produced: int
    received: int
    ledgered: int
    missing: int
    unsequenced: int
    duplicates: int
    malformed: int = 0
    shared: bool | None = None
    devices: tuple[DeviceReport, ...] = ()


class Collector:
    """Takes records from a port into a sink. Used by one thread.

    Args:
        port: of a link that is not started yet.
        topics: names of the topics.
        sink: where records go; closed by its owner.
        share: name of the shared subscription.
        clock: the time.
        group_n_max: messages that one commit takes.
    """

    def __init__(
        self,
        port: Port,
        topics: Topics,
        sink: Sink,
        *,
        share: str,
        clock: Clock,
        group_n_max: int = 500,
    ) -> None:
        self._port = port
        self._topics = topics
        self._sink = sink
        self._clock = clock
        self._group_n_max = group_n_max
        self._subscription = Subscription(port, topics, share=share, clock=clock)
        self._rows: list[Row] = []
        self._seen: dict[Boot, int] = {}
        self._acks: deque[tuple[str, Ack]] = deque(maxlen=_ACKS_N_MAX)
        self._in_flight: set[int] = set()
        self._tokens = count(1)
        self._duplicates: defaultdict[str, int] = defaultdict(int)
        self._malformed = 0
        self._refused_told = False
        self._active_ns = clock.monotonic_ns()

    def step(self, seconds: float) -> None:
        """One round; waits at most ``seconds`` for something to do.

        Raises:
            StorageError: the records of this round are not stored, and not acknowledged.
            LinkError: the broker forbids what a collector needs.
        """
        for event in self._take(seconds):
            self._handle(event)
        self._commit()
        self._subscription.step()
        self._send_acks()

    def finish(self, seconds: float) -> None:
        """Store what has come, and acknowledge what can be within ``seconds``.

        Raises:
            StorageError: see :meth:`step`.
        """
        deadline_ns = self._clock.monotonic_ns() + int(seconds * 1e9)
        waiting = self._port.events.qsize()
        for _ in range(waiting // self._group_n_max + 1):  # what has come until now, no more
            self.step(0.0)
        while self._port.connected and (self._acks or self._in_flight):
            if self._clock.monotonic_ns() >= deadline_ns:
                return
            self.step(0.05)

    def idle_s(self) -> float:
        """Seconds since the last record came, new or not, or since the start."""
        return (self._clock.monotonic_ns() - self._active_ns) / 1e9

    def report(self) -> CollectReport:
        """What is known now.

        Raises:
            StorageError: the file cannot be read.
        """
        return report(
            self._sink,
            duplicates=self._duplicates,
            malformed=self._malformed,
            shared=self._subscription.shared,
        )

    # --- one round -------------------------------------------------------------------------------

    def _take(self, seconds: float) -> list[Event]:
        """Wait for one event, then take those that wait too, up to a group."""
        return list(take_events(self._port.events, n_max=self._group_n_max, wait_s=seconds))

    def _handle(self, event: Event) -> None:
        match event:
            case Message():
                self._receive(event)
            case Published(token):
                self._in_flight.discard(token)
            case Refused(token, reason):
                self._in_flight.discard(token)
                self._warn_refused(reason)
            case Denied(topic, reason):
                if not self._subscription.denied(topic):
                    raise LinkError(f"the broker forbids to read {topic}: {reason}: allow it")
            case Up():
                self._refused_told = False
                self._subscription.up()
            case Down():  # the link says why, and keeps trying
                self._in_flight.clear()
                self._acks.clear()  # the devices ask for them by sending again
                self._subscription.down()

    def _receive(self, message: Message) -> None:
        if self._subscription.takes(message.topic):
            return
        try:
            if message.topic == self._topics.status(self._topics.device_of(message.topic) or ""):
                self._see(message)
                return
            parsed = parse_batch(self._topics, message.topic, message.payload)
        except LinkError as exc:
            self._complain(str(exc))
            return
        self._active_ns = self._clock.monotonic_ns()
        self._rows += parsed.rows
        if parsed.malformed:
            self._malformed += parsed.malformed - 1
            self._complain(f"{parsed.malformed} unreadable records on {message.topic}")

    def _see(self, message: Message) -> None:
        """Learn from a status which seqs its device has used."""
        status = read_status(self._topics, message.topic, message.payload)
        if status and status.outbox and 0 <= status.outbox.seq_last <= SEQ_MAX:
            self._seen[status.device, status.boot] = status.outbox.seq_last

    def _warn_refused(self, reason: str) -> None:
        """Say once a connection that nothing can be acknowledged."""
        if not self._refused_told:
            log.warning("acknowledgements are refused: %s: devices keep their records", reason)
            self._refused_told = True

    def _complain(self, text: str) -> None:
        """Count what cannot be read, and say it as long as that helps anybody."""
        self._malformed += 1
        if self._malformed <= _COMPLAINTS_N_MAX:
            log.warning("left out: %s", clean(text))

    def _commit(self) -> None:
        """Store what this round brought, then queue its acknowledgements."""
        if not self._rows and not self._seen:
            return
        rows, seen = self._rows, self._seen
        self._rows, self._seen = [], {}
        stored = self._sink.store(rows, received_t=self._clock.wall(), seen=seen)
        for device, again in stored.duplicates.items():
            self._duplicates[device] += again
        self._acks += stored.acks

    def _send_acks(self) -> None:
        while self._acks and self._port.connected and len(self._in_flight) < _IN_FLIGHT_N_MAX:
            device, ack = self._acks.popleft()
            token = next(self._tokens)
            self._in_flight.add(token)
            self._port.publish(token, self._topics.ack(device), encode(ack))


def report(
    sink: Sink,
    *,
    duplicates: dict[str, int] | None = None,
    malformed: int = 0,
    shared: bool | None = None,
) -> CollectReport:
    """Sum up what a file knows, together with what one collector has counted."""
    again = duplicates or {}
    devices = tuple(
        DeviceReport(**msgspec.structs.asdict(tally), duplicates=again.get(tally.device, 0))
        for tally in sink.tallies()
    )
    return CollectReport(
        produced=sum(device.produced for device in devices),
        received=sum(device.received for device in devices),
        ledgered=sum(device.ledgered for device in devices),
        missing=sum(device.missing for device in devices),
        unsequenced=sum(device.unsequenced for device in devices),
        duplicates=sum(device.duplicates for device in devices),
        malformed=malformed,
        shared=shared,
        devices=devices,
    )
