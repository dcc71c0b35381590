"""Readings as JSON messages from an MQTT topic, over a connection of its own."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.link import Denied, Event, Link, Message, Port, Up, take_events
from edge_agent.settings import Kind
from edge_agent.sources.json_rows import Row, RowDecoder, move

if TYPE_CHECKING:
    from edge_agent.config import BrokerConfig

_EVENTS_N: Final = 1_000  # taken in one read
_WAIT_S: Final = 1.0
_TOPIC_BYTES_MAX: Final = 256


class MqttConfig(Kind, frozen=True, kw_only=True, tag="mqtt"):
    """Subscribe to readings on the agent's broker.

    Attributes:
        topic: filter to subscribe to, outside the agent's own prefix. A message is one reading
            (an array, or an object with a key per channel) or an array of several. Retained
            messages are left out: nobody knows how old they are.
        queue_n_max: readings that may wait; beyond it the oldest are dropped and counted.
    """

    topic: str
    queue_n_max: Annotated[int, Meta(ge=1)] = 10_000

    def __post_init__(self) -> None:
        levels = self.topic.split("/")
        misplaced = any(len(level) > 1 and set(level) & {"+", "#"} for level in levels)
        if misplaced or "#" in levels[:-1]:
            raise ValueError("in a topic '+' and '#' stand for whole levels, '#' only for the last")
        if not 1 <= len(self.topic.encode()) <= _TOPIC_BYTES_MAX:
            raise ValueError(f"a topic has 1 to {_TOPIC_BYTES_MAX} bytes")


class MqttSource:
    """Subscribes anew at every connection; while there is none, there are no readings.

    Messages are decoded in ``read``, so what waits is bounded at each call: readings by
    ``queue_n_max``, and messages by what arrives between two calls.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        make_link: a new link, not started; called by every ``open``.
    """

    def __init__(
        self, config: MqttConfig, channels: Sequence[str], *, make_link: Callable[[], Link]
    ) -> None:
        self._config = config
        self._make_link = make_link
        self._decoder = RowDecoder(channels)
        self._waiting: deque[Row] = deque(maxlen=config.queue_n_max)
        self._overrun = 0
        self._stale = 0
        self._link: Link | None = None
        self._port: Port | None = None

    def open(self) -> None:
        """Begin to connect, in the background: an absent broker is no error.

        Raises:
            SourceError: the connection is configured wrongly, e.g. there is no password file.
        """
        try:
            self._link = self._make_link()
        except ConfigError as exc:
            raise SourceError(str(exc)) from exc
        self._port = self._link.port("source")
        self._link.start()

    def read(self, out: F32) -> int:
        """Give what has arrived, else wait for the next message, at most 1 s."""
        if self._port is None:
            raise SourceError("the source is not open: call open() first")
        wait_s = 0.0 if self._waiting else _WAIT_S
        for event in take_events(self._port.events, n_max=_EVENTS_N, wait_s=wait_s):
            self._handle(self._port, event)
        return move(self._waiting, out)

    def close(self) -> None:
        """Disconnect, and forget readings that wait."""
        link, self._link, self._port = self._link, None, None
        self._waiting.clear()
        if link is not None:
            link.stop()

    @property
    def faults(self) -> dict[str, int]:
        """``torn``, ``malformed`` and ``overrun`` readings, and ``stale`` messages."""
        return {**self._decoder.faults, "overrun": self._overrun, "stale": self._stale}

    def _handle(self, port: Port, event: Event) -> None:
        """Subscribe when connected, queue readings; a lost connection changes nothing."""
        if isinstance(event, Up):
            port.subscribe([self._config.topic])
        elif isinstance(event, Denied):
            raise SourceError(
                f"the broker denies the subscription to {event.topic} ({event.reason}): "
                "allow it to the agent's user"
            )
        elif isinstance(event, Message) and event.retained:
            self._stale += 1
        elif isinstance(event, Message):
            rows = self._decoder.rows(event.payload)
            excess = len(self._waiting) + len(rows) - self._config.queue_n_max
            self._overrun += max(0, excess)  # the deque drops its oldest by itself
            self._waiting.extend(rows)


def link_to(broker: BrokerConfig) -> Link:
    """A link of its own for one source: no session, no will, and an id that no other client has."""
    # Only agents that read from MQTT need this here, and edge_agent.config imports this module.
    from edge_agent.mqtt import MqttLink  # noqa: PLC0415 - see above

    return MqttLink(broker, client_id=f"edge-source-{secrets.token_hex(5)}")
