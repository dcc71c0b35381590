"""Tables, progress and the live view. The only importer of rich: the extra ``[fleet]`` brings it.

Without it tables are plain text, and the live view becomes lines.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import click

from edge_agent.contract.messages import Status
from edge_agent.fleet.text import clean, text_table
from edge_agent.fleet.views import (
    STATUS_HEADER,
    seen_json,
    seen_line,
    status_notes,
    status_rows,
)
from edge_agent.fleet.watch import Seen

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_LINES_MAX: Final = 15


def has_rich() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("rich") is not None


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout: by rich on a terminal, else as plain text."""
    if sys.stdout.isatty() and has_rich():
        from rich.console import Console  # noqa: PLC0415  # an extra: only where it is drawn

        Console().print(_table(header, rows))
    else:
        click.echo(text_table(header, rows))


def show_json(seen: Iterable[Seen | None]) -> None:
    """Print everything, one JSON object a line."""
    for item in seen:
        if item is not None:
            click.echo(seen_json(item))


def show_lines(seen: Iterable[Seen | None]) -> None:
    """Print what people want to know, a line each."""
    for item in seen:
        if item is not None and (line := seen_line(item)) is not None:
            click.echo(line)


def show_live(seen: Iterable[Seen | None]) -> None:
    """Draw a live table of statuses above the newest records; lines when rich is missing."""
    if not has_rich():
        click.echo("for a live table: pip install 'edge-agent[fleet]'", err=True)
        show_lines(seen)
        return
    with Screen() as screen:
        for item in seen:
            if item is None:
                continue
            if item.status is not None:
                screen.see(item.status)
            elif (line := seen_line(item)) is not None:
                screen.line(line)


class Meter:
    """A line on stderr that counts up, on a terminal only, and sentences in between."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._open = False

    def progress(self, done: int, total: int) -> None:
        """So many of all blobs are on the broker."""
        if self._terminal:
            text = f"\ron the broker: {done} of {total} blobs, {100 * done // total} %"
            click.echo(text, err=True, nl=done == total)
            self._open = done < total

    def tell(self, sentence: str) -> None:
        """Print a sentence on a line of its own."""
        if self._open:
            click.echo(err=True)
            self._open = False
        click.echo(clean(sentence), err=True)


class Screen:
    """The live view of a fleet; a context manager. Needs rich."""

    def __init__(self) -> None:
        from rich.live import Live  # noqa: PLC0415  # an extra: only where it is drawn

        self._statuses: dict[str, Status] = {}
        self._lines: deque[str] = deque(maxlen=_LINES_MAX)
        self._live = Live(get_renderable=self._draw, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def see(self, status: Status) -> None:
        """Take a new status in."""
        self._statuses[status.device] = status

    def line(self, text: str) -> None:
        """Add a line below the table; the oldest goes."""
        self._lines.append(text)

    def _draw(self) -> Group:
        from rich.console import Group  # noqa: PLC0415  # an extra: only where it is drawn
        from rich.text import Text  # noqa: PLC0415

        statuses = [status for _, status in sorted(self._statuses.copy().items())]
        below = [*status_notes(statuses), "", *self._lines.copy()]
        return Group(_table(STATUS_HEADER, status_rows(statuses)), Text("\n".join(below)))


class Board:
    """One table that is drawn again and again in its place; a context manager. Needs rich."""

    def __init__(self) -> None:
        from rich.live import Live  # noqa: PLC0415  # an extra: only where it is drawn

        self._live = Live(auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def draw(
        self, above: str, header: Sequence[str], rows: Iterable[Sequence[str]], below: Sequence[str]
    ) -> None:
        """Replace what is shown: a line, the table, and lines."""
        from rich.console import Group  # noqa: PLC0415  # an extra: only where it is drawn
        from rich.text import Text  # noqa: PLC0415

        parts = (Text(above), _table(header, rows), Text("\n".join(below)))
        self._live.update(Group(*parts), refresh=True)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    from rich.table import Table  # noqa: PLC0415  # an extra: only where it is drawn
    from rich.text import Text  # noqa: PLC0415

    table = Table()
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: what devices say is no markup
    return table
