"""Panels of horizontal bars below each other, as one SVG file. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edge_agent.bench.svg import COLOURS, FAINT, GRID, INK, Drawing, Scale, scale_of, short

_WIDTH, _LEFT, _RIGHT = 760, 190, 70
_HEAD, _LINE, _PANEL_HEAD, _PANEL_FOOT = 48, 18, 46, 34
_BAR, _GAP = 14, 10
_LEGEND: Final = 110


@dataclass(frozen=True)
class Panel:
    """One axis.

    Attributes:
        title: what is shown, with its unit.
        rows: by label, the value of each series; what is missing is left out.
        log: a logarithmic axis, for what differs by factors of ten.
        goal: what is to be kept to or reached, drawn as a line.
    """

    title: str
    rows: Mapping[str, Mapping[str, float]]
    log: bool = False
    goal: float | None = None

    @property
    def series(self) -> list[str]:
        """Their names, in the order in which they come."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))

    @property
    def height(self) -> float:
        """In pixels."""
        bars = sum(len(row) for row in self.rows.values())
        return _PANEL_HEAD + bars * _BAR + len(self.rows) * _GAP + _PANEL_FOOT


def draw(title: str, said: Sequence[str], panels: Sequence[Panel]) -> str:
    """An SVG file.

    Args:
        title: of the whole.
        said: lines below it: machine, versions, commit.
        panels: from above to below.
    """
    top = _HEAD + _LINE * len(said)
    drawing = Drawing(_WIDTH, top + sum(panel.height for panel in panels), title)
    drawing.text(16, 28, title, size=15, bold=True)
    for number, line in enumerate(said):
        drawing.text(16, 48 + _LINE * number, line, fill=FAINT)
    for panel in panels:
        _panel(drawing, panel, top)
        top += panel.height
    return drawing.render()


def _panel(drawing: Drawing, panel: Panel, top: float) -> None:
    colours = dict(zip(panel.series, COLOURS, strict=False))
    drawing.text(16, top + 18, panel.title, bold=True)
    if len(colours) > 1:
        _legend(drawing, colours, top + 36)
    values = [value for row in panel.rows.values() for value in row.values()]
    goals = [] if panel.goal is None else [panel.goal]
    scale = scale_of([*values, *goals], _LEFT, _WIDTH - _RIGHT, log=panel.log)
    first, last = top + _PANEL_HEAD, top + panel.height - _PANEL_FOOT
    for tick in scale.ticks():
        x = scale.at(tick)
        drawing.line(x, first, x, last, stroke=GRID, wide=1)
        drawing.text(x, last + 16, short(tick), anchor="middle", fill=FAINT)
    y = first + _GAP / 2
    for label, row in panel.rows.items():
        drawing.text(_LEFT - 10, y + len(row) * _BAR / 2 + 4, label, anchor="end")
        for name, value in row.items():
            _bar(drawing, scale, y, value, colours.get(name, INK))
            y += _BAR
        y += _GAP
    if panel.goal is not None:
        x = scale.at(panel.goal)
        drawing.line(x, first, x, last, stroke=INK, wide=1.5)
        drawing.text(x, first - 2, f"goal: {short(panel.goal)}", anchor="middle", size=11)


def _bar(drawing: Drawing, scale: Scale, y: float, value: float, colour: str) -> None:
    end = scale.at(value)
    drawing.box(_LEFT, y + 1, max(end - _LEFT, 1), _BAR - 2, colour)
    drawing.text(end + 5, y + _BAR - 3, short(value), size=11)


def _legend(drawing: Drawing, colours: Mapping[str, str], y: float) -> None:
    for number, (name, colour) in enumerate(colours.items()):
        x = 16 + _LEGEND * number
        drawing.box(x, y - 9, 10, 10, colour)
        drawing.text(x + 15, y, name, fill=FAINT)
