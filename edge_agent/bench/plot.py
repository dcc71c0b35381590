"""The latency of each configuration, from the median to the longest, as a drawing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_agent.bench.svg import COLOURS, FAINT, GRID, INK, Drawing, Scale, scale_of, short
from edge_agent.contract.bench import BenchResult, Run

_WIDTH, _LEFT, _RIGHT = 760, 130, 110
_TOP, _ROW, _BOTTOM = 78, 34, 44
_BAR: Final = 14


def plot(results: Sequence[BenchResult]) -> str:
    """Draw one result, or several below each other on one axis; an SVG file.

    A bar goes from p50 to p90 and a line on to p99.9, with a mark at p99; the circle is the
    longest. The axis is logarithmic.
    """
    rows = [(result, run) for result in results for run in result.runs]
    height = _TOP + _ROW * len(rows) + _BOTTOM
    first = results[0]
    title = f"{first.model} {first.version}: one inference"
    drawing = Drawing(_WIDTH, height, f"{title}, microseconds, on {first.measured_on}")
    drawing.text(16, 26, title, size=15, bold=True)
    drawing.text(16, 46, f"{first.measured_on}; input {first.input.source}", fill=FAINT)
    spans = [us for _, run in rows for us in (run.latency_us.p50, run.latency_us.max)]
    scale = scale_of(spans, _LEFT, _WIDTH - _RIGHT, log=True)
    _axis(drawing, scale, height - _BOTTOM)
    for number, (result, run) in enumerate(rows):
        colour = COLOURS[list(results).index(result) % len(COLOURS)]
        _row(drawing, scale, _TOP + _ROW * number + _ROW / 2, run, colour)
    return drawing.render()


def _axis(drawing: Drawing, scale: Scale, bottom: float) -> None:
    for value in scale.ticks():
        x = scale.at(value)
        drawing.line(x, _TOP, x, bottom, stroke=GRID, wide=1)
        drawing.text(x, bottom + 16, short(value), anchor="middle", fill=FAINT)
    words = "µs (logarithmic): bar p50 to p90, mark p99, line to p99.9, circle longest"
    drawing.text(_LEFT, bottom + 34, words, fill=FAINT)
    drawing.text(_WIDTH - 16, _TOP - 10, "p50 · p99", anchor="end", fill=FAINT)


def _row(drawing: Drawing, scale: Scale, y: float, run: Run, colour: str) -> None:
    took = run.latency_us
    drawing.text(16, y + 4, run.name)
    drawing.line(scale.at(took.p90), y, scale.at(took.p999), y, stroke=colour, wide=2)
    start, end = scale.at(took.p50), scale.at(took.p90)
    drawing.box(start, y - _BAR / 2, max(end - start, 2), _BAR, colour)
    drawing.line(
        scale.at(took.p99), y - _BAR / 2, scale.at(took.p99), y + _BAR / 2, stroke=INK, wide=2
    )
    drawing.dot(scale.at(took.max), y, 3, colour)
    words = f"{short(took.p50)} · {short(took.p99)}"
    drawing.text(_WIDTH - 16, y + 4, words, anchor="end")
