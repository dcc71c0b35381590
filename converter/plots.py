"""Plots as inline SVG: the same values give the same text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure

from edge_agent.contract.manifest import Variant
from edge_agent.contract.reference import Histogram

_STYLE: Final[Any] = {
    "svg.hashsalt": "edge-convert",  # element ids are random without it
    "svg.fonttype": "none",  # text stays text: small, and in the reader's font
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_CHOSEN, _OTHER = "#0b6e4f", "#8a8f98"
_MARKERS: Final = ("o", "s", "^", "D", "v")
_INCHES: Final = (4.6, 2.9)


def trade_off_plot(variants: Sequence[Variant]) -> str:
    """File size against latency, one dot a variant."""
    with rc_context(_STYLE):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for variant, marker in zip(variants, _MARKERS, strict=False):
            color = _CHOSEN if variant.chosen else _OTHER
            label = f"{variant.name} (chosen)" if variant.chosen else variant.name
            x, y = variant.figures.p50_us, variant.figures.file_bytes / 1024
            axes.plot(x, y, marker, ms=9, color=color, label=label)
        axes.set(xlabel="one answer, median (µs)", ylabel="file (KiB)")
        axes.set(xlim=(0, axes.get_xlim()[1] * 1.1), ylim=(0, axes.get_ylim()[1] * 1.1))
        axes.legend(frameon=False, loc="lower left")
        return _svg(figure)


def error_plot(errors: Histogram) -> str:
    """How many windows have which largest score error, by decades."""
    with rc_context(_STYLE):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.add_subplot()
        names = [f"<{errors.edges[0]:.0e}", *(f"≥{edge:.0e}" for edge in errors.edges)]
        axes.bar(range(len(names)), errors.counts, color=_CHOSEN)
        axes.set_xticks(range(len(names)), names, rotation=60)
        axes.set(ylabel="windows", xlabel="largest score error of a window")
        return _svg(figure)


def _svg(figure: Any) -> str:
    """The figure's ``<svg>`` element, without the XML prologue that HTML has no place for."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
