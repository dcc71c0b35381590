"""Run a program when a decision fires."""

from __future__ import annotations

from edge_agent.settings import Kind


class ExecConfig(Kind, frozen=True, kw_only=True, tag="exec"):
    """Run a program, without a shell, with the decision as JSON on its standard input.

    Attributes:
        command: program and arguments; ``{label}``, ``{state}``, ``{score}`` and ``{pipeline}``
            are replaced.
        timeout_s: after which it is killed.
    """

    command: tuple[str, ...]
    timeout_s: float = 10.0
