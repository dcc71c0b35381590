"""The latency of each configuration, from the median to the longest, as a drawing. Pure."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Final

from edge_agent.bench.svg import COLOURS, FAINT, GRID, INK, Drawing, Scale, scale_of, short
from edge_agent.contract.bench import BenchResult, Run

_WIDTH, _LEFT, _RIGHT = 760, 130, 110
_TOP, _LINE, _ROW, _BOTTOM = 78, 18, 34, 44
_BAR: Final = 14
_LETTERS: Final = string.ascii_uppercase  # as the comparison calls them


def plot(results: Sequence[BenchResult]) -> str:
    """Draw one result, or several below each other on one axis; an SVG file.

    A bar goes from p50 to p90 and a line on to p99.9, with a mark at p99; the circle is the
    longest. The axis is logarithmic.
    """
    top = _TOP + _LINE * (len(results) - 1)
    runs = [(number, run) for number, result in enumerate(results) for run in result.runs]
    bottom = top + _ROW * len(runs)
    title = f"{results[0].model}: latency of one inference"
    drawing = Drawing(_WIDTH, bottom + _BOTTOM, f"{title} in microseconds")
    drawing.text(16, 26, title, size=15, bold=True)
    marks = [f"{_LETTERS[number % 26]} " for number in range(len(results))]
    if len(results) == 1:
        marks = [""]
    for number, (mark, result) in enumerate(zip(marks, results, strict=True)):
        said = f"{mark}{result.version} on {result.measured_on}; input {result.input.source}"
        drawing.text(16, 46 + _LINE * number, said, fill=FAINT)
    spans = [us for _, run in runs for us in (run.latency_us.p50, run.latency_us.max)]
    scale = scale_of(spans, _LEFT, _WIDTH - _RIGHT, log=True)
    _axis(drawing, scale, top, bottom)
    for row, (number, run) in enumerate(runs):
        y, colour = top + _ROW * (row + 0.5), COLOURS[number % len(COLOURS)]
        drawing.text(16, y + 4, marks[number] + run.name)
        _row(drawing, scale, y, run, colour)
    return drawing.render()


def _axis(drawing: Drawing, scale: Scale, top: float, bottom: float) -> None:
    for value in scale.ticks():
        x = scale.at(value)
        drawing.line(x, top, x, bottom, stroke=GRID, wide=1)
        drawing.text(x, bottom + 16, short(value), anchor="middle", fill=FAINT)
    words = "µs (logarithmic): bar p50 to p90, mark p99, line to p99.9, circle longest"
    drawing.text(_LEFT, bottom + 34, words, fill=FAINT)
    drawing.text(_WIDTH - 16, top - 10, "p50 · p99", anchor="end", fill=FAINT)


def _row(drawing: Drawing, scale: Scale, y: float, run: Run, colour: str) -> None:
    took = run.latency_us
    drawing.line(scale.at(took.p90), y, scale.at(took.p999), y, stroke=colour, wide=2)
    start, end = scale.at(took.p50), scale.at(took.p90)
    drawing.box(start, y - _BAR / 2, max(end - start, 2), _BAR, colour)
    drawing.line(
        scale.at(took.p99), y - _BAR / 2, scale.at(took.p99), y + _BAR / 2, stroke=INK, wide=2
    )
    drawing.dot(scale.at(took.max), y, 3, colour)
    words = f"{short(took.p50)} · {short(took.p99)}"
    drawing.text(_WIDTH - 16, y + 4, words, anchor="end")
