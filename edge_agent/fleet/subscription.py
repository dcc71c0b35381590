"""What a collector listens to, found out and asked for anew at every connection.

Several collectors divide the work by a shared subscription, which some brokers grant without ever
delivering anything (NATS does). So a message to oneself through a shared subscription decides; a
broker that does not deliver it is read by a plain subscription, where every collector gets every
record, which costs duplicates and loses nothing.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final

from edge_agent.clock import Clock
from edge_agent.contract.topics import Topics
from edge_agent.link import Port

log = logging.getLogger(__name__)

_PROBE_NS: Final = 1_500_000_000
_PROBES: Final = 2
_AGAIN_NS: Final = 3_000_000_000  # statuses are asked for twice: the first answer may be empty


class Subscription:
    """Subscribes one port to records and statuses. Used by the collector's thread.

    Args:
        share: name that all collectors of the same work have in common.

    Attributes:
        shared: whether the broker shares; None until that is known.
    """

    def __init__(self, port: Port, topics: Topics, *, share: str, clock: Clock) -> None:
        self._port = port
        self._clock = clock
        self._records = topics.records("+", "+")
        self._shared_records = f"$share/{share}/{self._records}"
        self._statuses = topics.status("+")
        nonce = secrets.token_hex(8)
        self._probe = f"{topics.prefix}/probe/{nonce}"
        self._shared_probe = f"$share/{nonce}/{self._probe}"
        self._probes = 0
        self._probe_due_ns: int | None = None
        self._again_due_ns: int | None = None
        self.shared: bool | None = None

    def up(self) -> None:
        """The connection is new: nothing is subscribed."""
        self._port.subscribe([self._statuses])
        self._again_due_ns = self._clock.monotonic_ns() + _AGAIN_NS
        if self.shared is None:
            self._probes = 0
            self._ask()
        else:
            self._port.subscribe([self._wanted])

    def down(self) -> None:
        """The connection is gone."""
        self._probe_due_ns = self._again_due_ns = None

    def takes(self, topic: str) -> bool:
        """Whether a message is the probe coming back; it is no record then."""
        if topic != self._probe:
            return False
        if self.shared is None:
            self._decide(shared=True)
        return True

    def denied(self, topic_filter: str) -> bool:
        """Whether a refused subscription was only the probe."""
        if topic_filter not in {self._shared_probe, self._shared_records}:
            return False
        self._decide(shared=False)
        return True

    def step(self) -> None:
        """Do what is due."""
        now = self._clock.monotonic_ns()
        if self._probe_due_ns is not None and now >= self._probe_due_ns:
            if self._probes < _PROBES:
                self._ask()
            else:
                self._decide(shared=False)
        if self._again_due_ns is not None and now >= self._again_due_ns:
            self._again_due_ns = None
            self._port.subscribe([self._statuses])

    def _ask(self) -> None:
        self._probes += 1
        self._probe_due_ns = self._clock.monotonic_ns() + _PROBE_NS
        self._port.subscribe([self._shared_probe])
        self._port.publish(
            -self._probes, self._probe, b"probe"
        )  # below the acknowledgements' tokens

    def _decide(self, *, shared: bool) -> None:
        self.shared = shared
        self._probe_due_ns = None
        self._port.unsubscribe([self._shared_probe])
        self._port.subscribe([self._wanted])
        if not shared:
            log.warning(
                "the broker does not share subscriptions: every collector gets every record"
            )

    @property
    def _wanted(self) -> str:
        return self._shared_records if self.shared else self._records
