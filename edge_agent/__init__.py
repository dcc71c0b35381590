"""The on-device agent: sources, windows, decisions, durable records and model updates."""

__version__ = "0.3.0"
