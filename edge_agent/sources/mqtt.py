"""Readings as JSON messages from an MQTT topic, over a connection of its own."""

from __future__ import annotations

from edge_agent.settings import Kind


class MqttConfig(Kind, frozen=True, kw_only=True, tag="mqtt"):
    """Subscribe to readings on the agent's broker.

    Attributes:
        topic: filter to subscribe to, outside the agent's own prefix. A message is one reading
            (an array, or an object with a key per channel) or an array of several.
        queue_n_max: readings that may wait; beyond it the oldest are dropped and counted.
    """

    topic: str
    queue_n_max: int = 10_000
