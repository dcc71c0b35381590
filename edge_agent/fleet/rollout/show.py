"""Shows rollouts while they go on: a live table on a terminal, else a line for each change."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

import click

from edge_agent.fleet.rollout.plan import Counts
from edge_agent.fleet.rollout.state import Rollout
from edge_agent.fleet.rollout.views import HEADER, headline, line, ring_rows
from edge_agent.fleet.screen import Board, has_rich
from edge_agent.fleet.text import clean

_SENTENCES_N: Final = 5


class Shown:
    """What an operator sees; a context manager.

    Args:
        live: a table where that is possible; lines if False, as for a service that leads many.
    """

    def __init__(self, *, live: bool) -> None:
        self._board = Board() if live and sys.stdout.isatty() and has_rich() else None
        self._stack = ExitStack()
        self._last: dict[str, str] = {}
        self._told: list[str] = []

    def __enter__(self) -> Self:
        if self._board:
            self._stack.enter_context(self._board)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def show(self, rollout: Rollout, counts: Sequence[Counts]) -> None:
        """Take a rollout as it stands."""
        if self._board:
            above = headline(rollout, counts, time.time())
            self._board.draw(above, HEADER, ring_rows(rollout, counts), self._told)
        elif (text := line(rollout, counts)) != self._last.get(rollout.name):
            self._last[rollout.name] = text
            click.echo(text)

    def tell(self, sentence: str) -> None:
        """Take a sentence for people."""
        if self._board:
            self._told = [*self._told, clean(sentence)][-_SENTENCES_N:]
        else:
            click.echo(clean(sentence), err=True)
