"""Shows rollouts while they go on: a live table on a terminal, else a line for each change."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

import click

from edge_agent.fleet.rollout.plan import Counts, State
from edge_agent.fleet.rollout.state import Rollout
from edge_agent.fleet.rollout.views import HEADER, headline, line, ring_rows
from edge_agent.fleet.screen import Board, has_rich
from edge_agent.fleet.text import clean

_SENTENCES_N: Final = 5
_LINES_S: Final = 10.0


class Shown:
    """What an operator sees; a context manager.

    Args:
        live: draw a table where that is possible.
        err: lines go to stderr, since stdout is for a program.
    """

    def __init__(self, *, live: bool, err: bool = False) -> None:
        self._board = Board() if live and sys.stdout.isatty() and has_rich() else None
        self._err = err
        self._stack = ExitStack()
        self._last: dict[str, tuple[State, str, float]] = {}  # with the line, and when
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
        """Take a rollout as it stands; its lines come at every step, and else now and then."""
        if self._board:
            above = headline(rollout, counts, time.time())
            self._board.draw(above, HEADER, ring_rows(rollout, counts), self._told)
            return
        text, now = line(rollout, counts), time.monotonic()
        state, before, then = self._last.get(rollout.name, (None, "", 0.0))
        if state != rollout.state or (text != before and now - then >= _LINES_S):
            self._last[rollout.name] = rollout.state, text, now
            click.echo(text, err=self._err)

    def tell(self, sentence: str) -> None:
        """Take a sentence for people."""
        if self._board:
            self._told = [*self._told, clean(sentence)][-_SENTENCES_N:]
        else:
            click.echo(clean(sentence), err=True)
