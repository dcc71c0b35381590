"""What a person sees of builds under way: bars by rich on a terminal, else a line for each."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Protocol, Self

import click

from converter.many import Ending, Event


class Display(AbstractContextManager["Display"], Protocol):
    """Told, from any thread, what happens to which order."""

    def tell(self, number: int, event: Event) -> None:
        """An order has a next step, or has ended."""


def make_display(recipes: Sequence[str]) -> Display:
    """The display that fits stderr.

    Args:
        recipes: paths, in the order of the orders.
    """
    names = [Path(recipe).name for recipe in recipes]
    if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        return Bars(names)
    return Lines(names)


class Lines:
    """A line on stderr for each ending, for logs and for terminals without rich."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._ended = 0
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tell(self, number: int, event: Event) -> None:
        """Print an ending; the steps of builds that take turns would only confuse."""
        if event.ending is None:
            return
        with self._lock:
            self._ended += 1
            count = f"[{self._ended}/{len(self._names)}]"
            click.echo(f"{count} {self._names[number]}: {_said(event.ending)}", err=True)


class Bars:
    """A line with its step and time for each build, on a terminal. Needs rich."""

    def __init__(self, names: Sequence[str]) -> None:
        from rich.console import Console  # noqa: PLC0415  # an extra: only where it is drawn
        from rich.progress import (  # noqa: PLC0415  # the same
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.table import Column  # noqa: PLC0415  # the same

        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[name]}", markup=False),
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1)),
            console=Console(stderr=True),
            expand=True,
        )
        self._tasks = [
            self._progress.add_task("waiting", total=1, start=False, name=name) for name in names
        ]

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def tell(self, number: int, event: Event) -> None:
        """Show the step or the ending on the line of its build."""
        task = self._tasks[number]
        if event.ending is None:
            self._progress.start_task(task)
            self._progress.update(task, description=event.step)
        else:
            self._progress.update(task, description=_said(event.ending), completed=1)


def _said(ending: Ending) -> str:
    """An ending in one line."""
    if ending.error:
        return f"failed: {ending.error}"
    figures = ending.figures
    return f"{figures['bundle']} ({figures['chosen']}, {figures['p50_us']:.1f} µs)"
