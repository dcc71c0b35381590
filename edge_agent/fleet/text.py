"""Plain text for terminals."""

from __future__ import annotations

from edge_agent.text import text_table

__all__ = ["clean", "text_table"]


def clean(text: str) -> str:
    """The text with whatever a terminal might obey replaced.

    Everything that came from a device or a broker passes through here before it is printed, so
    that nobody can write to the operator's terminal what they like.
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)
