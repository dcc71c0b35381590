"""Fired decisions as messages on a topic of the user's choice, at once or through the outbox."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from edge_agent.actions.base import Direct, Send
from edge_agent.contract.messages import Decision, encode
from edge_agent.settings import Kind

_TOPIC_BYTES_MAX: Final = 256


class MqttConfig(Kind, frozen=True, kw_only=True, tag="mqtt"):
    """Publish the decision as JSON; kept in the outbox while there is no broker.

    Attributes:
        topic: to publish to, as it stands, without the agent's prefix.
        send: ``kept`` commits to the outbox before it sends, within ``outbox.flush_s``, and sends
            again what a broker may have lost within ``uplink.settle_s``: at least once, over power
            cuts of device and broker. ``confirmed`` sends at once at QoS 1, and hands to the outbox
            what the broker has not acknowledged within a second or when the connection ends: at
            least once, but a power cut takes what was not acknowledged yet, and a broker that
            loses what it acknowledged is not asked again. ``at_once`` sends at QoS 0: at most once
            while connected. The last two need a source of type ``mqtt``, whose connection they
            use; without that, or without a connection, they do as ``kept``. Messages that were
            kept come later than newer ones that went at once.
        every: ``fired`` sends decisions that fired, ``window`` those on every window.
    """

    topic: str
    send: Literal["kept", "confirmed", "at_once"] = "confirmed"
    every: Literal["fired", "window"] = "fired"

    def __post_init__(self) -> None:
        if set(self.topic) & {"+", "#", "\0"}:
            raise ValueError("'+' and '#' cannot be published to: name one topic")
        if not 1 <= len(self.topic.encode()) <= _TOPIC_BYTES_MAX:
            raise ValueError(f"a topic has 1 to {_TOPIC_BYTES_MAX} bytes")


class MqttAction:
    """One message a decision. The pipeline's thread.

    Args:
        config: what the configuration file says.
        send: hands the message to the outbox.
        direct: sends it at once; None where the pipeline has no connection of its own.

    Attributes:
        streams: whether it wants decisions that did not fire, too.
    """

    blocking: ClassVar[bool] = False

    def __init__(self, config: MqttConfig, *, send: Send, direct: Direct | None = None) -> None:
        self.streams = config.every == "window"
        self._topic = config.topic
        self._send = send
        self._direct = None if config.send == "kept" else direct
        self._keep = send if config.send == "confirmed" else None

    def fire(self, decision: Decision) -> None:
        """Send the decision at once, else hand it to the outbox."""
        payload = encode(decision)
        if self._direct is None or not self._direct(self._topic, payload, self._keep):
            self._send(self._topic, payload)

    def close(self) -> None:
        """There is nothing to let go."""
