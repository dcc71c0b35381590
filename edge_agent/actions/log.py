"""Fired decisions as lines in the agent's log."""

from __future__ import annotations

from edge_agent.settings import Kind


class LogConfig(Kind, frozen=True, kw_only=True, tag="log"):
    """Write a line to the log."""
