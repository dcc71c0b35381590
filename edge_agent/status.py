"""The retained status of this device, and the discovery of another agent with the same id.

A cloned SD card gives two agents one device id. Each has a boot id of its own, in its client id
(so the broker throws neither out) and in every record (so their sequences never mix). Each
listens to the status topic that both write: a live status of another boot names the clone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from edge_agent.clock import Clock
from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import Status, decode, encode
from edge_agent.contract.topics import Topics
from edge_agent.link import Down, Message, Port, Published, Refused, Up, take_events

log = logging.getLogger(__name__)

_EVENTS_N: Final = 100  # taken in one step
_CONFLICTS_MAX: Final = 8
_MISSED_MAX: Final = 3  # statuses that a clone may miss before it counts as gone


class StatusBoard:
    """Publishes the status when it is due or has changed. One thread: whoever calls ``step``.

    Args:
        port: of the link.
        topics: names of the topics.
        make: the status at this moment, without conflicts; called in ``step``.
        every_s: seconds between two statuses that say the same.
        clock: the time.
    """

    def __init__(
        self,
        port: Port,
        topics: Topics,
        *,
        make: Callable[[], Status],
        every_s: float,
        clock: Clock,
    ) -> None:
        self._port = port
        self._make = make
        self._every_ns = int(every_s * 1e9)
        self._clock = clock
        first = make()
        self._boot = first.boot
        self._topic = topics.status(first.device)
        self._clones: dict[str, tuple[str, int]] = {}  # boot -> host, monotonic ns last seen
        self._said: tuple[object, ...] = ()
        self._due_ns = 0
        self._token = 0

    def step(self) -> None:
        """Read what came, and publish if it is time. Never waits."""
        now = self._clock.monotonic_ns()
        self._read_events(now)
        self._forget_silent_clones(now)
        if not self._port.connected:
            return
        status = msgspec.structs.replace(self._make(), conflicts=self._conflicts())
        gist = _gist(status)
        if now >= self._due_ns or gist != self._said:
            self._token += 1
            self._port.publish(self._token, self._topic, encode(status), retain=True)
            self._said, self._due_ns = gist, now + self._every_ns

    def _read_events(self, now: int) -> None:
        for event in take_events(self._port.events, n_max=_EVENTS_N):
            if isinstance(event, Up):
                self._port.subscribe([self._topic])
                self._due_ns = now
            elif isinstance(event, Message) and not event.retained:
                self._hear(event.payload, now)
            elif isinstance(event, Refused):
                log.error("the broker refuses this device's status: %s", event.reason)
            else:
                assert isinstance(event, Down | Published | Message)  # nothing to do for these

    def _hear(self, payload: bytes, now: int) -> None:
        """A status that somebody has just written to our topic; perhaps we ourselves."""
        try:
            status = decode(payload, Status)
        except LinkError as exc:
            log.warning("somebody writes to this device's status topic: %s", exc)
            return
        if not status.online:  # a clone went, or our own will came late: say that we are here
            self._clones.pop(status.boot, None)
            self._due_ns = now
        elif status.boot != self._boot:
            if status.boot not in self._clones and len(self._clones) < _CONFLICTS_MAX:
                log.error(
                    "another agent on host %s uses the device id %s: give one of them another id",
                    status.host,
                    status.device,
                )
                self._due_ns = now  # once for each clone, so that it learns of us too
                self._clones[status.boot] = (status.host, now)
            elif status.boot in self._clones:
                self._clones[status.boot] = (status.host, now)

    def _forget_silent_clones(self, now: int) -> None:
        oldest = now - _MISSED_MAX * self._every_ns
        self._clones = {boot: seen for boot, seen in self._clones.items() if seen[1] >= oldest}

    def _conflicts(self) -> tuple[str, ...]:
        return tuple(f"{boot} on {host}" for boot, (host, _) in sorted(self._clones.items()))


def _gist(status: Status) -> tuple[object, ...]:
    """What is published at once when it changes; counters wait for their turn."""
    pipelines = tuple((p.name, p.version, p.sha256, p.state, p.fault) for p in status.pipelines)
    fault = status.outbox.fault if status.outbox else ""
    return (pipelines, status.updates, status.conflicts, status.groups, fault)
