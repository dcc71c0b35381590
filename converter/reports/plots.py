"""Plots as inline SVG: the same values give the same text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
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
_CHOSEN, _OTHER, _OVER = "#0b6e4f", "#8a8f98", "#b3261e"
_LOG_FROM: Final = 8.0  # largest to smallest value from which an axis is logarithmic
_STRIP_BARS: Final = 24
_STRIP: Final = (240, 36)  # width and height of a histogram, in units of its own


def trade_off_plot(variants: Sequence[Variant], loss_max: float) -> str:
    """File size and metric against latency; the dots have the numbers of the forms, from 1.

    Args:
        variants: of the manifest.
        loss_max: the accuracy budget.
    """
    first = variants[0].parity
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 4.6), layout="constrained")
        size, metric = figure.subplots(2, sharex=True)
        _dots(size, variants, [variant.figures.file_bytes / 1024 for variant in variants])
        _dots(metric, variants, [variant.parity.converted for variant in variants])
        size.set(ylabel="file (KiB)")
        metric.axhline(first.original, color=_OTHER, lw=1, ls="--", label="original model")
        metric.axhline(first.original - loss_max, color=_OVER, lw=1, ls=":", label="budget")
        metric.set(xlabel="one answer, median (µs)", ylabel=first.metric)
        metric.legend(frameon=False, fontsize=8)
        metric.margins(y=0.2)
        _scale(size.set_xscale, size.set_xlim, [v.figures.p50_us for v in variants])
        _scale(size.set_yscale, size.set_ylim, [v.figures.file_bytes / 1024 for v in variants])
        return _svg(figure)


def error_plot(errors: Histogram) -> str:
    """How many windows have which largest score error, by decades."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.add_subplot()
        names = [f"<{errors.edges[0]:.0e}", *(f"≥{edge:.0e}" for edge in errors.edges)]
        axes.bar(range(len(names)), errors.counts, color=_CHOSEN)
        axes.set_xticks(range(len(names)), names, rotation=60)
        axes.set(ylabel="windows", xlabel="largest score error of a window")
        return _svg(figure)


def strip(histogram: Histogram) -> str:
    """A histogram as a small drawing of equally wide bars; the open-ended bins are left out.

    Without two edges there is no closed bin, and the drawing is empty.
    """
    width, height = _STRIP
    bars = []
    if len(histogram.edges) > 1:
        borders = np.linspace(histogram.edges[0], histogram.edges[-1], _STRIP_BARS + 1)
        below = np.cumsum([0, *histogram.counts[1:-1]])
        counts = np.diff(np.interp(borders, histogram.edges, below))
        step, top = width / _STRIP_BARS, float(counts.max()) or 1.0
        for number, count in enumerate(counts.tolist()):
            tall = count / top * (height - 2)
            bars.append(
                f'<rect x="{number * step:.1f}" y="{height - 1 - tall:.1f}" '
                f'width="{step - 1:.1f}" height="{tall:.1f}"/>'
            )
    return (
        f'<svg class="strip" viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'role="img">{"".join(bars)}<path d="M0 {height - 0.5}H{width}"/></svg>'
    )


def _dots(axes: Any, variants: Sequence[Variant], values: Sequence[float]) -> None:
    """One dot a variant with its number, the chosen one on top."""
    for number, (variant, value) in enumerate(zip(variants, values, strict=True), start=1):
        color = _CHOSEN if variant.chosen else _OTHER
        x, order = variant.figures.p50_us, 3 if variant.chosen else 2
        axes.plot(x, value, "o", ms=9 if variant.chosen else 6, color=color, zorder=order)
        axes.annotate(
            str(number),
            (x, value),
            xytext=(6, 4),
            textcoords="offset points",
            color=color,
            fontweight="bold" if variant.chosen else "normal",
        )


def _scale(set_scale: Any, set_limits: Any, values: Sequence[float]) -> None:
    """From 0, or logarithmic where the small ones would lie in a heap."""
    low, high = min(values), max(values)
    if low > 0 and high / low >= _LOG_FROM:
        set_scale("log")
        set_limits(low / 1.6, high * 1.8)
    else:
        set_limits(0, high * 1.15 or 1)


def _svg(figure: Any) -> str:
    """The figure's ``<svg>`` element, without the XML prologue that HTML has no place for."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
