"""A small vector drawing: axes, boxes, lines and words. Pure, and without any library.

Light, with a background of its own, so that it reads on dark pages too; words are a system font.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from xml.sax.saxutils import escape

INK: Final = "#24292f"
FAINT: Final = "#6e7781"
GRID: Final = "#d8dee4"
COLOURS: Final = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#9a6700", "#cf222e")
Anchor = Literal["start", "middle", "end"]


class Drawing:
    """Grows by its methods; all lengths are in pixels, from the upper left.

    Args:
        width: of the whole.
        height: of the whole.
        title: what it shows, for those who cannot see it.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
        look = 'role="img" font-family="system-ui, sans-serif" font-size="12"'
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look}>',
            f"<title>{_safe(title)}</title>",
        ]
        self.box(0, 0, width, height, "#ffffff")

    def box(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        """A filled rectangle."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" '
            f'fill="{fill}"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, *, stroke: str, wide: float) -> None:
        """A straight line, ``wide`` pixels."""
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
            f'stroke="{stroke}" stroke-width="{wide:g}"/>'
        )

    def dot(self, x: float, y: float, radius: float, stroke: str) -> None:
        """An open circle."""
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="#ffffff" stroke="{stroke}"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        anchor: Anchor = "start",
        fill: str = INK,
        size: int = 12,
        bold: bool = False,
    ) -> None:
        """One line of words whose baseline begins, or ends, at (x, y)."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight} '
            f'fill="{fill}">{_safe(words)}</text>'
        )

    def render(self) -> str:
        """The file."""
        return "\n".join([*self._parts, "</svg>", ""])


@dataclass(frozen=True)
class Scale:
    """From values to pixels.

    Attributes:
        low: value at ``start``; above 0 where ``log``.
        high: value at ``end``.
        start: pixels.
        end: pixels.
        log: equal factors are equal lengths.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value stands; what is outside stands at the edge."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values to mark: powers of ten, or some five in equal steps."""
        if self.log:
            first = math.ceil(math.log10(self.low) - 1e-9)
            last = math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1)]
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def scale_of(values: Sequence[float], start: float, end: float, *, log: bool) -> Scale:
    """A scale that holds all values: from 0, or between powers of ten."""
    if not log:
        top = max([*values, 0.0]) or 1.0
        return Scale(0.0, top * 1.02, start, end)
    above = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(above))), math.ceil(math.log10(max(above)))
    return Scale(10.0**low, 10.0 ** max(high, low + 1), start, end, log=True)


def short(value: float) -> str:
    """A number in few characters: 0.25, 12.3, 1234, 2.5M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough)


def _safe(words: str) -> str:
    return escape("".join(letter if letter.isprintable() else "?" for letter in words))
