"""Fired decisions as messages on a topic of the user's choice, through the outbox."""

from __future__ import annotations

from edge_agent.settings import Kind


class MqttConfig(Kind, frozen=True, kw_only=True, tag="mqtt"):
    """Publish the decision as JSON; kept in the outbox while there is no broker.

    Attributes:
        topic: to publish to, as it stands, without the agent's prefix.
    """

    topic: str
