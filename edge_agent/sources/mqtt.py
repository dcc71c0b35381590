"""Readings as JSON messages from an MQTT topic, over a connection of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError, LinkError, SourceError
from edge_agent.link import Keep, Line
from edge_agent.settings import Kind
from edge_agent.sources.inbox import Inbox

if TYPE_CHECKING:
    from edge_agent.config import BrokerConfig

_WAIT_S: Final = 1.0
_TOPIC_BYTES_MAX: Final = 256


class MqttConfig(Kind, frozen=True, kw_only=True, tag="mqtt"):
    """Subscribe to readings on the agent's broker.

    Attributes:
        topic: filter to subscribe to, outside the agent's own prefix. A message is one reading
            (an array, or an object with a key per channel) or an array of several. Retained
            messages are left out: nobody knows how old they are.
        queue_n_max: readings that may wait; beyond it the oldest are dropped and counted.
        sensor_key: key of an object that names its sensor, as of ``jsonl``.
        sensor_topic: the ``+`` of the topic names the sensor, at most 64 characters.
        time_key: as of ``jsonl``.
    """

    topic: str
    queue_n_max: Annotated[int, Meta(ge=1)] = 10_000
    sensor_key: str | None = None
    sensor_topic: bool = False
    time_key: str | None = None

    def __post_init__(self) -> None:
        levels = self.topic.split("/")
        misplaced = any(len(level) > 1 and set(level) & {"+", "#"} for level in levels)
        if misplaced or "#" in levels[:-1]:
            raise ValueError("in a topic '+' and '#' stand for whole levels, '#' only for the last")
        if not 1 <= len(self.topic.encode()) <= _TOPIC_BYTES_MAX:
            raise ValueError(f"a topic has 1 to {_TOPIC_BYTES_MAX} bytes")
        if self.sensor_topic and levels.count("+") != 1:
            raise ValueError("with sensor_topic the topic has one '+', which names the sensor")
        if self.sensor_topic and self.sensor_key:
            raise ValueError("give sensor_key or sensor_topic, not both")


class MqttSource:
    """Subscribes anew at every connection; while there is none, there are no readings.

    Messages are decoded in ``read``, so what waits is bounded at each call: readings by
    ``queue_n_max``, and messages by what the socket gives at once.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        line: not open; opened by every ``open``.
    """

    def __init__(self, config: MqttConfig, channels: Sequence[str], *, line: Line) -> None:
        self._config = config
        self._line = line
        self._inbox = Inbox(
            channels,
            sensor_key=config.sensor_key,
            time_key=config.time_key,
            named=config.sensor_topic,
            n_max=config.queue_n_max,
        )
        levels = config.topic.removeprefix("$share/").split("/")
        shared = config.topic.startswith("$share/")  # then a group's name comes first
        self._level = levels[shared:].index("+") if config.sensor_topic else None
        self._stale = 0
        self._is_open = False

    def open(self) -> None:
        """Begin to connect, in the background: an absent broker is no error.

        Raises:
            SourceError: the connection is configured wrongly, e.g. there is no password file.
        """
        try:
            self._line.open(self._config.topic)
        except ConfigError as exc:
            raise SourceError(str(exc)) from exc
        self._is_open = True

    def read(self, out: F32) -> int:
        """Give what has arrived, else wait for the next message, at most 1 s."""
        if not self._is_open:
            raise SourceError("the source is not open: call open() first")
        try:
            messages = self._line.receive(0.0 if self._inbox else _WAIT_S)
        except LinkError as exc:
            raise SourceError(
                f"the broker denies the subscription to {exc}: allow it to the agent's user"
            ) from exc
        for message in messages:
            if message.retained:
                self._stale += 1
            else:
                sensor = "" if self._level is None else _level(message.topic, self._level)
                self._inbox.take_all(message.payload, sensor)
        return self._inbox.give(out)

    def send(self, topic: str, payload: bytes, keep: Keep | None) -> bool:
        """Send a decision by the connection that readings come from; see ``Line.send``."""
        return self._line.send(topic, payload, keep)

    def close(self) -> None:
        """Disconnect, and forget readings that wait."""
        self._is_open = False
        self._inbox.clear()
        self._line.close()

    @property
    def faults(self) -> dict[str, int]:
        """``torn``, ``malformed`` and ``overrun`` readings, and ``stale`` messages."""
        return {**self._inbox.faults, "stale": self._stale}

    @property
    def sensors(self) -> Sequence[str]:
        """Which sensor each row of the last ``read`` came from; empty without names."""
        return self._inbox.sensors

    @property
    def stamps(self) -> Sequence[float]:
        """When each row of the last ``read`` was taken; empty without a ``time_key``."""
        return self._inbox.stamps


def _level(topic: bytes, number: int) -> str:
    """A level of a topic; brokers see to it that a topic is UTF-8."""
    return topic.split(b"/")[number].decode(errors="replace")


def line_to(broker: BrokerConfig) -> Line:
    """A data connection for one source, with an id that no other client has."""
    # Only agents that read from MQTT need this here, and edge_agent.config imports this module.
    from edge_agent.mqtt.line import MqttLine  # noqa: PLC0415 - see above

    return MqttLine(broker)
