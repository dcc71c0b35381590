"""The HTML report: self-contained, escaped, the same bytes for the same values."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from converter.report import ClassFlips, PlacedFlip, Report, render
from edge_agent.contract.manifest import (
    Figures,
    Golden,
    Parity,
    Provenance,
    Variant,
    WindowSpec,
)
from edge_agent.contract.reference import Histogram

HOSTILE = "<script>alert('walk')</script>"
VOID = {"meta", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """Notes texts, attributes and unclosed tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(" ".join(data.split()))


def variant(name: str, *, chosen: bool) -> Variant:
    return Variant(
        name=name,
        chosen=chosen,
        why=f"Why {name}.",
        figures=Figures(file_bytes=2048, load_ms=1.5, rss_bytes=2**20, p50_us=5.0, p99_us=9.0),
        parity=Parity(
            windows=10,
            metric="accuracy",
            original=0.9,
            converted=0.8,
            label_flips=1,
            score_error_max=0.25,
            score_error_mean=0.01,
        ),
    )


@pytest.fixture
def report() -> Report:
    return Report(
        name="motion",
        version="1.0.0",
        task="classification",
        summary=("It works.", "Mostly."),
        estimator="StandardScaler > MLPClassifier",
        labels=("sit", HOSTILE),
        channels=("ax", "ay"),
        window=WindowSpec(length=100, hop=50, rate_hz=50.0),
        machine="Some CPU",
        aim="latency",
        accuracy_loss_max=0.01,
        variants=(variant("float32", chosen=True), variant("int8-static", chosen=False)),
        absent={"int8-dynamic": "Because."},
        notes=("Channel 'ay' is 3 in every window.",),
        confusion_original=((5, 1), (0, 4)),
        confusion_converted=((4, 2), (0, 4)),
        class_flips=(
            ClassFlips(label="sit", windows=5, flips=1, distance_max=0.125),
            ClassFlips(label=HOSTILE, windows=5, flips=0, distance_max=0.0),
        ),
        flips=(
            PlacedFlip(
                window=3, original="sit", converted=HOSTILE, distance=0.125, place="line 301"
            ),
        ),
        errors=Histogram(name="score error", edges=(1e-6, 1e-3), counts=(7, 2, 1)),
        golden=Golden(count=32, atol=1e-5, rtol=1e-5),
        provenance=Provenance(
            model_sha256="a" * 64,
            data_sha256="b" * 64,
            estimator="StandardScaler > MLPClassifier",
            packages={"numpy": "2.0"},
        ),
    )


def test_everything_is_said(report: Report) -> None:
    text = " ".join(Page(render(report)).texts)
    for said in (
        *("It works.", "Mostly.", "Why float32.", "Why int8-static.", "Because.", "Some CPU"),
        *("Channel 'ay' is 3", "line 301", "0.12", "StandardScaler > MLPClassifier", "a" * 64),
        *("numpy 2.0", "32, scores equal within 1e-05", "100 readings of ax, ay"),
    ):
        assert said in text, said


def test_the_page_needs_no_other_file_and_runs_no_script(report: Report) -> None:
    page = Page(render(report))
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.tags.count("svg") == 2
    assert all(link.startswith("#") for link in page.links)
    assert HOSTILE in " ".join(page.texts)  # as text


def test_the_same_values_give_the_same_page(report: Report) -> None:
    assert render(report) == render(report)
    other = msgspec.structs.replace(report, version="1.0.1")
    assert render(other) != render(report)


@pytest.mark.parametrize(
    "changes",
    [
        {"confusion_original": (), "confusion_converted": ()},
        {
            "task": "regression",
            "labels": (),
            "class_flips": (),
            "flips": (),
            "confusion_original": (),
        },
        {"notes": (), "absent": {}},
        {"variants": (variant("float32", chosen=True),)},
    ],
)
def test_parts_may_be_absent(report: Report, changes: dict[str, Any]) -> None:
    page = Page(render(msgspec.structs.replace(report, **changes)))
    assert "It works." in page.texts


def test_the_report_survives_json(report: Report) -> None:
    data = msgspec.json.encode(report, order="sorted")
    assert render(msgspec.json.decode(data, type=Report)) == render(report)
