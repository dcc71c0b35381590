"""Draw the kept figures: ``results/NAME.svg`` beside every ``results/NAME.json``, and their page.

Usage: python benchmarks/plots.py [NAME ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from charts import Panel, draw

RESULTS: Final = Path(__file__).resolve().parent / "results"
Figures = Mapping[str, Any]


def main() -> int:
    """Draw the results that are named, or all that there are."""
    names = sys.argv[1:] or sorted(PLOTS)
    for name in names:
        path = RESULTS / f"{name}.json"
        if path.exists():
            print(draw_kept(path).relative_to(RESULTS.parent.parent))
        elif sys.argv[1:]:
            print(f"{path} does not exist: measure first", file=sys.stderr)
            return 1
    write_page(RESULTS)
    return 0


def write_page(folder: Path) -> None:
    """All drawings on one page, ``README.md`` in their folder."""
    lines = [
        "# Results",
        "",
        "Made by `make plots` and by every run; [how to repeat them](../README.md).",
    ]
    for name, (title, _) in PLOTS.items():
        if (folder / f"{name}.svg").exists():
            lines += [
                "",
                f"## {title}",
                "",
                f"[figures]({name}.json)",
                "",
                f"![{title}]({name}.svg)",
            ]
    (folder / "README.md").write_text("\n".join(lines) + "\n")


def draw_kept(path: Path) -> Path:
    """Draw one kept result; where it was drawn to.

    Raises:
        KeyError: there is no description of such a plot.
    """
    kept = json.loads(path.read_text())
    title, describe = PLOTS[path.stem]
    panels = [panel for panel in describe(kept["figures"]) if panel.rows]
    target = path.with_suffix(".svg")
    target.write_text(draw(title, _origin(kept), panels))
    return target


def _origin(kept: Figures) -> list[str]:
    machine, versions = kept["machine"], kept["versions"]
    engine = f"onnxruntime {versions['onnxruntime']}, " if "onnxruntime" in versions else ""
    place = f"{machine['cpu']}, {machine['cores']} cores, {machine['arch']}"
    return [f"{place}; Python {versions['python']}, {engine}commit {kept['commit']}"]


# --- what is drawn -------------------------------------------------------------------------------


def columns(rows: Figures, names: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Of every row that is a table of figures, those that are named, by their label."""
    found = {
        label: {name: row[key] for key, name in names.items() if _is_figure(row.get(key))}
        for label, row in rows.items()
        if isinstance(row, dict)
    }
    return {label: row for label, row in found.items() if row}


def single(figures: Figures, names: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Plain figures, a row each, by their label."""
    return {
        label: {"": figures[key]} for key, label in names.items() if _is_figure(figures.get(key))
    }


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def hot_path(figures: Figures) -> list[Panel]:
    """``make bench``."""
    took = {"script_us": "script", "ours_us": "ours", "bound_call_us": "bound call"}
    return [
        Panel("A reading's whole way, µs (median)", columns(figures, took)),
        Panel("Ours to the script", columns(figures, {"ratio_vs_script": ""}), goal=0.5),
        Panel(
            "Added over the bound call",
            columns(
                {name: row for name, row in figures.items() if name in {"cnn", "forest"}},
                {"added_over_bound_call": ""},
            ),
            goal=1.25,
        ),
        Panel(
            "p99 while draining to p99 with nothing to send",
            columns(figures, {"p99_ratio_busy": ""}),
            goal=1.6,
        ),
        Panel(
            "Resident memory with one small model, MiB",
            single(figures, {"rss_mib": "after 10,000 readings"}),
            goal=72,
        ),
        Panel(
            "From the start to the first decision, s",
            single(figures, {"first_decision_s": "first decision"}),
            goal=0.4,
        ),
    ]


def peers(figures: Figures) -> list[Panel]:
    """``make bench-peers``."""
    return [
        Panel("Sustained readings per second", columns(figures, {"readings_per_s": ""})),
        Panel("p50 at 1,000 readings/s, µs", columns(figures, {"p50_us_at_1000": ""})),
        Panel("CPU at 1,000 readings/s, µs a reading", columns(figures, {"cpu_us_at_1000": ""})),
        Panel(
            "CPU at 50 readings/s, µs a reading (logarithmic)",
            columns(figures, {"cpu_us_at_50": ""}),
            log=True,
        ),
        Panel("Resident memory, MiB", columns(figures, {"rss_mib": ""})),
    ]


def outbox(figures: Figures) -> list[Panel]:
    """``make bench-outbox``."""
    opening = {"open_s_at_1m_killed": "after kill -9", "open_s_at_1m_clean": "after a clean stop"}
    service = {"p99_us_empty": "nothing to send", "p99_us_draining": "draining 100,000"}
    written = {
        "bytes_per_record": "at 10 records/s",
        "bytes_per_record_busy": "as fast as it goes",
        "alone_bytes_on_disk_per_record": "kept, in a week alone",
    }
    return [
        Panel(
            "Durable records per second",
            single(figures, {"records_per_s": "group commits"}),
            goal=50_000,
        ),
        Panel("To open with a million waiting, s", single(figures, opening), goal=0.2),
        Panel("p99 of the hot path at 1,000 readings/s, µs", single(figures, service)),
        Panel("Bytes written per record (logarithmic)", single(figures, written), log=True),
        Panel(
            "Seven days without a broker, MiB",
            single(figures, {"alone_mib": "10 decisions/s"}),
            goal=64,
        ),
    ]


def scale(figures: Figures) -> list[Panel]:
    """``make bench-scale``."""
    live = {name: row["live"] for name, row in figures.items() if isinstance(row, dict)}
    waits = {"wait_p50_ms": "p50", "wait_p99_ms": "p99"}
    return [
        Panel(
            "Throughput of batches to one run each (goal: 10; forest 1.5)",
            columns(figures, {"ratio_vs_one_each": ""}),
        ),
        Panel("Added wait at 1,000 sensors of 50 Hz, ms", columns(live, waits), goal=5),
        Panel("Share of one core", columns(live, {"cpu_share": ""})),
    ]


def swap(figures: Figures) -> list[Panel]:
    """``make bench-swap``."""
    late = {"p999_us_without": "without swaps", "p999_us_with": "while swapping"}
    return [
        Panel("p99.9 of a decision's lateness, µs", single(figures, late)),
        Panel("Its ratio", single(figures, {"p999_ratio": "with to without"}), goal=2),
        Panel(
            "Readings missed, of all swaps",
            single(figures, {"swaps": "swaps", "missed": "missed"}),
        ),
    ]


def push(figures: Figures) -> list[Panel]:
    """``make bench-push``."""
    return [
        Panel(
            "5 MB to one device: transferred, ms",
            single(figures, {"transfer_ms": "transfer"}),
            goal=50,
        ),
        Panel(
            "Active after the desired state, ms",
            single(figures, {"active_ms": "active"}),
            goal=1_500,
        ),
        Panel(
            "Broker's CPU a device, ms",
            single(figures, {"broker_cpu_ms_per_device": "group"}),
        ),
        Panel(
            "Fetched again after a kill, share of the file",
            single(figures, {"refetched_ratio_after_kill": "the worst"}),
            goal=0.05,
        ),
    ]


def convert(figures: Figures) -> list[Panel]:
    """``make bench-convert``."""
    sides = {"export_us": "plain export", "ours_us": "ours"}
    took = columns(figures.get("latency", {}), sides)
    panels = [Panel("One inference, µs (logarithmic)", took, log=True)]
    for name, model in figures.get("quantization", {}).items():
        rows = columns(model["variants"], {"p50_us": ""})
        chosen = {f"{'✓ ' if form == model['chosen'] else ''}{form}": rows[form] for form in rows}
        panels.append(Panel(f"{name}: p50 of every form, µs; ✓ was chosen", chosen))
    return panels


def coverage(figures: Figures) -> list[Panel]:
    """``make coverage-matrix``."""
    names = {"equal": "equal", "refused": "refused by name", "wrong": "wrong"}
    return [Panel("Estimators and settings of scikit-learn", single(figures, names))]


def crash(figures: Figures) -> list[Panel]:
    """``make crash``."""
    judged = {"trials": "kills", "bad": "bad", "acked_lost": "acknowledged and lost"}
    states = figures.get("killed_in", {})
    return [
        Panel("Agents killed at random moments of a push", single(figures, judged)),
        Panel("State in which they were killed", {state: {"": n} for state, n in states.items()}),
    ]


def demo(figures: Figures) -> list[Panel]:
    """``make demo``."""
    accuracy = {"accuracy_original": "the original", "accuracy_device": "the device"}
    stages = columns(figures.get("latency_us", {}), {"p50": "p50", "p99": "p99"})
    return [
        Panel("A reading's way on the device, µs", stages),
        Panel("Accuracy on the same windows", single(figures, accuracy)),
    ]


def tiny(figures: Figures) -> list[Panel]:
    """``make bench-tiny``."""
    panels = []
    for title, key, log in (
        ("p50 of one inference, µs (logarithmic)", "p50_us", True),
        ("p99, µs (logarithmic)", "p99_us", True),
        ("Memory that the model adds, MiB", "rss_mib", False),
    ):
        rows = {
            model: {side: found[key] for side, found in sides.items() if isinstance(found, dict)}
            for model, sides in figures.items()
        }
        panels.append(Panel(title, rows, log=log))
    return panels


PLOTS: Final[dict[str, tuple[str, Callable[[Figures], list[Panel]]]]] = {
    "bench": ("A reading's way against the script that people write", hot_path),
    "bench-convert": ("Converted models against plain exports, and the forms", convert),
    "bench-outbox": ("The outbox", outbox),
    "bench-peers": ("Readings over MQTT on one core", peers),
    "bench-push": ("A model update", push),
    "bench-scale": ("A thousand sensors on one model", scale),
    "bench-swap": ("A thousand models taken over while deciding", swap),
    "bench-tiny": ("Small networks: the bound call against plain run()", tiny),
    "coverage_matrix": ("What of scikit-learn converts", coverage),
    "crash": ("A thousand kills", crash),
    "demo": ("The demo", demo),
}


if __name__ == "__main__":
    sys.exit(main())
