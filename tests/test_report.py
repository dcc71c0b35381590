"""The HTML report: self-contained, escaped, the same bytes for the same values."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from converter.profile import Profile
from converter.reports.page import STRIPS_SHOWN, render
from converter.reports.plots import strip
from converter.reports.report import ClassFlips, PlacedFlip, Report
from edge_agent.contract.bench import Operator
from edge_agent.contract.manifest import (
    Figures,
    Golden,
    Parity,
    Provenance,
    Variant,
    WindowSpec,
)
from edge_agent.contract.reference import Histogram, Reference

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
        profile=Profile(
            engine_bytes=50 * 2**20,
            agent_bytes=60 * 2**20,
            operators=(
                Operator(kind="FusedGemm", nodes=2, us=30.0),
                Operator(kind="Softmax", nodes=1, us=10.0),
            ),
        ),
    )


def histogram(name: str) -> Histogram:
    return Histogram(name=name, edges=(0.0, 1.0, 3.0), counts=(1, 4, 4, 1))


REFERENCE = Reference(
    windows=10,
    channels=(histogram("ax"), Histogram(name="ay", edges=(3.0,), counts=(0, 10))),
    features=tuple(histogram(f"{HOSTILE}{number}") for number in range(30)),
    scores=(histogram("sit"),),
    labels={"sit": 6, HOSTILE: 4},
)


def page_of(report: Report, reference: Reference = REFERENCE) -> Page:
    return Page(render(report, reference))


def test_everything_is_said(report: Report) -> None:
    text = " ".join(page_of(report).texts)
    for said in (
        *("It works.", "Mostly.", "Why float32.", "Why int8-static.", "Because.", "Some CPU"),
        *("Channel 'ay' is 3", "line 301", "0.12", "StandardScaler > MLPClassifier", "a" * 64),
        *("numpy 2.0", "32, scores equal within 1e-05", "100 readings of ax, ay"),
    ):
        assert said in text, said


def test_the_page_needs_no_other_file_and_runs_no_script(report: Report) -> None:
    page = page_of(report)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.tags.count("svg") == 2 + 2 + STRIPS_SHOWN + 1
    assert all(link.startswith("#") for link in page.links)
    assert HOSTILE in " ".join(page.texts)  # as text


def test_the_same_values_give_the_same_page(report: Report) -> None:
    assert render(report, REFERENCE) == render(report, REFERENCE)
    other = msgspec.structs.replace(report, version="1.0.1")
    assert render(other, REFERENCE) != render(report, REFERENCE)


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
        {"profile": Profile(engine_bytes=1, agent_bytes=1, operators=())},
    ],
)
def test_parts_may_be_absent(report: Report, changes: dict[str, Any]) -> None:
    page = page_of(msgspec.structs.replace(report, **changes))
    assert "It works." in page.texts


def test_the_report_survives_json(report: Report) -> None:
    data = msgspec.json.encode(report, order="sorted")
    again = msgspec.json.decode(data, type=Report)
    assert render(again, REFERENCE) == render(report, REFERENCE)


def test_the_forecast_adds_up(report: Report) -> None:
    forecast = report.forecast
    assert forecast.running == 61 * 2**20  # the agent's 60 and the model's 1
    assert forecast.trial == 51 * 2**20
    assert forecast.updating == 112 * 2**20
    text = " ".join(page_of(report).texts)
    assert "agent that runs this model 61.0 MiB" in text
    assert "the most during an update 112.0 MiB" in text


def test_the_time_of_an_answer_is_shared_out(report: Report) -> None:
    text = " ".join(page_of(report).texts)
    assert "FusedGemm 2 3.8 75 %" in " ".join(text.split())  # of 5.0 µs
    assert "Softmax 1 1.2 25 %" in " ".join(text.split())


def test_more_histograms_than_fit_are_said(report: Report) -> None:
    assert f"The first {STRIPS_SHOWN} of 30 features" in " ".join(page_of(report).texts)
    few = msgspec.structs.replace(REFERENCE, features=REFERENCE.features[:2])
    assert "reference.json" not in " ".join(page_of(report, few).texts)
    same = msgspec.structs.replace(REFERENCE, features=REFERENCE.channels)
    assert "Features" not in page_of(report, same).texts  # they would be drawn twice


def test_a_drawing_shows_where_the_values_are() -> None:
    bars = re.findall(r'height="([\d.]+)"/>', strip(histogram("a")))
    heights = [float(bar) for bar in bars]
    assert heights[0] == max(heights)  # 4 values between 0 and 1
    assert heights[-1] == pytest.approx(heights[0] / 2, abs=0.1)  # 4 between 1 and 3
    assert "rect" not in strip(Histogram(name="constant", edges=(3.0,), counts=(0, 10)))
