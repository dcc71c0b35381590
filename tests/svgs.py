"""What is in a drawing."""

from __future__ import annotations

from xml.etree import ElementTree as ET

_SVG = "{http://www.w3.org/2000/svg}"


def words_of(svg: str) -> list[str]:
    """Its lines of text; fails when it is no SVG."""
    root = ET.fromstring(svg)
    assert root.tag == f"{_SVG}svg"
    return [item.text or "" for item in root.iter(f"{_SVG}text")]


def boxes_of(svg: str) -> list[float]:
    """The widths of its rectangles; the first is the background."""
    return [float(item.get("width", 0)) for item in ET.fromstring(svg).iter(f"{_SVG}rect")]
