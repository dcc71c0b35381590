"""Fired decisions as lines in the agent's log."""

from __future__ import annotations

import logging
from typing import ClassVar

from edge_agent.contract.messages import Decision
from edge_agent.settings import Kind

log = logging.getLogger(__name__)


class LogConfig(Kind, frozen=True, kw_only=True, tag="log"):
    """Write a line to the log, at level ``info``."""


class LogAction:
    """One line a fired decision. Any thread."""

    blocking: ClassVar[bool] = False

    def fire(self, decision: Decision) -> None:
        """Write the line."""
        log.info(
            "%s: state %r at reading %d (label %r, score %.6g, model %s)",
            decision.pipeline,
            decision.state,
            decision.reading,
            decision.label,
            decision.score,
            decision.model,
        )

    def close(self) -> None:
        """There is nothing to let go."""
