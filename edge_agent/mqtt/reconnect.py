"""When to connect again, and with which version of MQTT: pure rules."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from typing import Final, Literal

MQTT_5: Final = 5
MQTT_3_1_1: Final = 4  # the protocol level that version 3.1.1 puts on the wire

FIRST_S: Final = 0.5
LONGEST_S: Final = 10.0  # an outage of seconds must not cost half a minute more
STABLE_S: Final = 10.0
_DOUBLINGS_MAX: Final = 5  # 0.5 s * 2**5 passes the longest pause


class Outcome(enum.Enum):
    """How a connection, or an attempt at one, ended."""

    UNREACHABLE = enum.auto()  # no TCP connection, or no TLS on it
    UNSUPPORTED = enum.auto()  # the broker said that it does not speak this version
    SILENT = enum.auto()  # the broker closed, or said nothing, before its CONNACK
    REFUSED = enum.auto()  # any other CONNACK that refuses
    LOST = enum.auto()  # it was up


class Reconnect:
    """Exponential backoff with full jitter, and the choice of version in ``auto``.

    With full jitter (a uniform pause up to a doubling ceiling) a fleet that lost its broker comes
    back spread out. ``auto`` tries 5, and 3.1.1 at once where that is turned down. A broker that
    said so is remembered; a mere close is not, since a broker that is going down closes too.

    Args:
        protocol: as in :class:`~edge_agent.config.BrokerConfig`.
        uniform: a random number between its arguments.

    Attributes:
        protocol: to try next, 5 or 4 (3.1.1).
    """

    def __init__(
        self,
        protocol: Literal["auto", "5", "3.1.1"],
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.protocol = MQTT_3_1_1 if protocol == "3.1.1" else MQTT_5
        self._auto = protocol == "auto"
        self._said_only_3 = False
        self._uniform = uniform
        self._failures_n = 0

    def pause_s(self, outcome: Outcome, held_s: float) -> float | None:
        """How long to wait before the next attempt; None tries 3.1.1 at once.

        Args:
            outcome: how the connection or attempt ended.
            held_s: how long the connection was up. One that does not hold, e.g. since another
                client takes over the same id, does not reset the backoff.
        """
        if self._auto and self._switch(outcome):
            return None
        if held_s >= STABLE_S:
            self._failures_n = 0
        ceiling = min(LONGEST_S, FIRST_S * 2**self._failures_n)
        self._failures_n = min(self._failures_n + 1, _DOUBLINGS_MAX)
        return self._uniform(0.0, ceiling)

    def _switch(self, outcome: Outcome) -> bool:
        """Choose the version to try next; True when it falls back to 3.1.1 now."""
        turned_down = outcome in {Outcome.UNSUPPORTED, Outcome.SILENT}
        if turned_down and self.protocol == MQTT_5:
            self._said_only_3 = outcome is Outcome.UNSUPPORTED
            self.protocol = MQTT_3_1_1
            return True
        if turned_down:
            self._said_only_3 = False
        if not self._said_only_3:
            self.protocol = MQTT_5
        return False
