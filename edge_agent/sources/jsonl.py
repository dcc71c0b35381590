"""Readings as JSON lines on standard input."""

from __future__ import annotations

from edge_agent.settings import Kind


class JsonlConfig(Kind, frozen=True, kw_only=True, tag="jsonl"):
    """Read standard input: a line is an array of values, or an object with a key per channel."""
