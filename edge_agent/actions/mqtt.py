"""Fired decisions as messages on a topic of the user's choice, through the outbox."""

from __future__ import annotations

from typing import ClassVar, Final

from edge_agent.actions.base import Send
from edge_agent.contract.messages import Decision, encode
from edge_agent.settings import Kind

_TOPIC_BYTES_MAX: Final = 256


class MqttConfig(Kind, frozen=True, kw_only=True, tag="mqtt"):
    """Publish the decision as JSON; kept in the outbox while there is no broker.

    Attributes:
        topic: to publish to, as it stands, without the agent's prefix.
    """

    topic: str

    def __post_init__(self) -> None:
        if set(self.topic) & {"+", "#", "\0"}:
            raise ValueError("'+' and '#' cannot be published to: name one topic")
        if not 1 <= len(self.topic.encode()) <= _TOPIC_BYTES_MAX:
            raise ValueError(f"a topic has 1 to {_TOPIC_BYTES_MAX} bytes")


class MqttAction:
    """One message a fired decision. The pipeline's thread.

    Args:
        config: what the configuration file says.
        send: hands the message to the outbox.
    """

    blocking: ClassVar[bool] = False

    def __init__(self, config: MqttConfig, *, send: Send) -> None:
        self._topic = config.topic
        self._send = send

    def fire(self, decision: Decision) -> None:
        """Hand the decision to the outbox."""
        self._send(self._topic, encode(decision))

    def close(self) -> None:
        """There is nothing to let go."""
