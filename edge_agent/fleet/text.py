"""Plain text for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def clean(text: str) -> str:
    """The text with whatever a terminal might obey replaced.

    Everything that came from a device or a broker passes through here before it is printed, so
    that nobody can write to the operator's terminal what they like.
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns in plain text; numbers to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if _is_number(cell) else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
