"""The figures of the demo, and how they read."""

from __future__ import annotations

import msgspec

from edge_agent.contract.messages import Latency
from edge_agent.demo.scoring import Score


class Percentiles(msgspec.Struct, frozen=True):
    """Of one stage, in microseconds."""

    p50: float
    p99: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo has measured.

    Attributes:
        accuracy_device: see :class:`~edge_agent.demo.scoring.Score`, as the next two.
        accuracy_original: of the original models on the same windows.
        accuracy_device_within: on the windows that lie within one exercise.
        label_flips: windows that device and original answer differently.
        windows: decided windows that were received.
        versions: versions that decided, and how many windows each.
        records_produced: records of every kind, counted in the device's own outbox.
        records_received: of these, by the collector, which saw only the broker.
        records_lost: produced and not received, whatever the reason.
        swap_missed_readings: readings without exactly one decision, over the whole recording.
        offline_s: how long there was no broker.
        offline_windows: windows that were decided meanwhile, and received.
        latency_us: of each stage on the device.
        broker: the program that was used.
        elapsed_s: from the start of the demo to these figures.
    """

    accuracy_device: float
    accuracy_original: float
    accuracy_device_within: float
    label_flips: int
    windows: int
    versions: dict[str, int]
    records_produced: int
    records_received: int
    records_lost: int
    swap_missed_readings: int
    offline_s: float
    offline_windows: int
    latency_us: dict[str, Percentiles]
    broker: str
    elapsed_s: float


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the records, see :class:`Figures`."""

    produced: int
    received: int
    lost: int
    offline_s: float
    offline_windows: int


def make_figures(
    found: Score,
    delivery: Delivery,
    latencies: dict[str, Latency],
    *,
    broker: str,
    elapsed_s: float,
) -> Figures:
    """Put everything together, in figures that are not longer than they are exact."""
    return Figures(
        accuracy_device=round(found.accuracy_device, 4),
        accuracy_original=round(found.accuracy_original, 4),
        accuracy_device_within=round(found.accuracy_device_within, 4),
        label_flips=found.label_flips,
        windows=found.windows,
        versions=found.versions,
        records_produced=delivery.produced,
        records_received=delivery.received,
        records_lost=delivery.lost,
        swap_missed_readings=found.missed_readings,
        offline_s=round(delivery.offline_s, 1),
        offline_windows=delivery.offline_windows,
        latency_us={
            stage: Percentiles(round(took.p50, 1), round(took.p99, 1))
            for stage, took in latencies.items()
        },
        broker=broker,
        elapsed_s=round(elapsed_s, 1),
    )


def faults(figures: Figures, *, due: int, versions: int) -> list[str]:
    """What has not come out as it must, each as a sentence; empty when all is well.

    Args:
        figures: of the run.
        due: windows that the recording owes.
        versions: how many versions had to decide.
    """
    said = []
    if figures.records_lost:
        said.append(f"{figures.records_lost} of {figures.records_produced} records did not arrive")
    if figures.swap_missed_readings or figures.windows != due:
        said.append(
            f"{figures.windows} decisions came for {due} windows, "
            f"{figures.swap_missed_readings} readings have not exactly one"
        )
    if len(figures.versions) != versions:
        said.append(f"only {', '.join(figures.versions)} decided, not {versions} versions")
    return said


def format_text(figures: Figures) -> str:
    """The figures for people."""
    by = ", then ".join(f"{version} ({count})" for version, count in figures.versions.items())
    delivered = (
        f"produced {figures.records_produced}, received {figures.records_received}, "
        f"lost {figures.records_lost}"
    )
    away = f"{figures.offline_s:.1f} s; {figures.offline_windows} windows decided meanwhile"
    rows = [
        ("windows decided", f"{figures.windows}, by {by}"),
        ("accuracy on the device", f"{figures.accuracy_device:.4f}"),
        ("of the original models", f"{figures.accuracy_original:.4f}"),
        ("answered differently", f"{figures.label_flips}"),
        ("within one exercise", f"{figures.accuracy_device_within:.4f} on the device"),
        ("records", delivered),
        ("broker away", away),
        ("readings missed", f"{figures.swap_missed_readings}, the change of the model included"),
    ]
    lines = [f"  {name:27}{value}" for name, value in rows]
    lines.append(f"  {'latency on the device, us':27}{'p50':>7}{'p99':>8}")
    for stage, took in figures.latency_us.items():
        lines.append(f"    {stage:25}{took.p50:7.1f}{took.p99:8.1f}")
    lines.append("    (between two decisions the core sleeps; `edge-agent replay` shows it awake)")
    return "\n".join(lines)
