"""The report as a page: for a phone, a screen and print, without any other file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from converter.reports.plots import error_plot, strip, trade_off_plot
from converter.reports.report import Report
from edge_agent.contract.reference import Histogram, Reference

STRIPS_SHOWN: Final = 24  # histograms of one kind; the bundle has all


def render(report: Report, reference: Reference) -> str:
    """The report as one self-contained HTML page.

    Args:
        report: what it says.
        reference: how the validation data were distributed.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plots = {
        "trade_off": trade_off_plot(report.variants, report.accuracy_loss_max),
        "errors": error_plot(report.errors),
    }
    return environment.get_template("page.html.j2").render(
        report=report,
        plots={name: Markup(svg) for name, svg in plots.items()},  # noqa: S704 (our own SVG)
        reference=reference,
        strips=_strips(reference),
        operators_us=sum(operator.us for operator in report.profile.operators),
    )


def _strips(reference: Reference) -> dict[str, list[tuple[Histogram, Markup]]]:
    """By kind of quantity, its first histograms with their drawings."""
    kinds = {
        "Readings": reference.channels,
        "Features": reference.features if reference.features != reference.channels else (),
        "Scores of the original model": reference.scores,
    }
    return {
        kind: [(each, Markup(strip(each))) for each in found[:STRIPS_SHOWN]]  # noqa: S704 (own SVG)
        for kind, found in kinds.items()
        if found
    }
