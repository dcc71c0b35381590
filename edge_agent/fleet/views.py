"""How devices, records and counts look in a terminal. Pure: values in, text out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import msgspec

from edge_agent.contract.experiment import Arm, Comparison
from edge_agent.contract.messages import (
    Decision,
    ExperimentReport,
    Ledger,
    PipelineStatus,
    Started,
    Status,
)
from edge_agent.contract.messages import UpdateReport as Update
from edge_agent.fleet.collect import CollectReport
from edge_agent.fleet.text import clean
from edge_agent.fleet.watch import Seen, Shown

STATUS_HEADER: Final = (
    "device",
    "state",
    "agent",
    "pipeline",
    "model",
    "runs",
    "readings",
    "per s",
    "p50 µs",
    "p99 µs",
    "outbox",
)
REPORT_HEADER: Final = (
    "device",
    "produced",
    "received",
    "ledgered",
    "missing",
    "unsequenced",
    "duplicates",
)


def status_rows(statuses: Iterable[Status]) -> list[tuple[str, ...]]:
    """One row for each pipeline, and one for a device without any, by :data:`STATUS_HEADER`."""
    rows: list[tuple[str, ...]] = []
    for status in statuses:
        outbox = "" if status.outbox is None else str(status.outbox.records)
        state = "online" if status.online else f"offline: {status.reason or 'unknown'}"
        head = (status.device, clean(state), clean(status.agent))
        for pipeline in status.pipelines:
            rows.append((*head, *_pipeline_cells(status, pipeline), outbox))
            head, outbox = ("", "", ""), ""
        if not status.pipelines:
            rows.append((*head, *[""] * 7, outbox))
    return rows


def status_notes(statuses: Iterable[Status]) -> list[str]:
    """What does not fit a table: clones, faults and the last update of each model."""
    notes: list[str] = []
    for status in statuses:
        notes += [
            f"{status.device}: the same id is also used by {conflict}: is its SD card a copy?"
            for conflict in status.conflicts
        ]
        notes += [
            f"{status.device}: pipeline {pipeline.name}: {pipeline.fault}"
            for pipeline in status.pipelines
            if pipeline.fault
        ]
        notes += [
            f"{status.device}: pipeline {pipeline.name}: {line}"
            for pipeline in status.pipelines
            if pipeline.comparison
            for line in _comparison(pipeline.comparison)
        ]
        if status.outbox and status.outbox.fault:
            notes.append(f"{status.device}: outbox: {status.outbox.fault}")
        notes += [f"{status.device}: {_update(update)}" for update in status.updates]
    return [clean(note) for note in notes]


def status_line(status: Status) -> str:
    """One status in one line."""
    state = "online" if status.online else f"offline: {status.reason or 'unknown'}"
    parts = [f"{p.name} {p.model} {p.version or '-'} {p.state}" for p in status.pipelines]
    return clean(", ".join([f"{status.device}: {state}", *parts]))


def record_line(device: str, record: Shown) -> str:
    """One record in one line."""
    stamp = time.strftime("%H:%M:%S", time.localtime(record.t))
    return clean(f"{stamp} {device}: {_record(record)}")


def seen_line(seen: Seen) -> str | None:
    """One line for people; None for kinds of record that are not shown to them."""
    if seen.status is not None:
        return status_line(seen.status)
    if seen.row is None or seen.record is None:
        return None
    return record_line(seen.row.device, seen.record)


def seen_json(seen: Seen) -> str:
    """One line for programs: ``{"status": …}``, or ``{"device": …, "record": …}``."""
    if seen.row is None:
        return msgspec.json.encode({"status": seen.status}).decode()
    fields: dict[str, str | bool | msgspec.Raw] = {
        "device": seen.row.device,
        "boot": seen.row.boot,
        "late": seen.row.late,
        "record": msgspec.Raw(seen.row.body),
    }
    return msgspec.json.encode(fields).decode()


def report_rows(report: CollectReport) -> list[tuple[str, ...]]:
    """One row for each device, by :data:`REPORT_HEADER`, and the sums when there are several."""
    rows = [
        tuple(str(getattr(device, column)) for column in REPORT_HEADER) for device in report.devices
    ]
    if len(rows) > 1:
        rows.append(("all", *(str(getattr(report, column)) for column in REPORT_HEADER[1:])))
    return rows


def _pipeline_cells(status: Status, pipeline: PipelineStatus) -> tuple[str, ...]:
    readings = pipeline.counts.get("readings", 0)
    elapsed = status.t - status.started_t
    total = pipeline.latency_us.get("total")
    return (
        clean(pipeline.name),
        clean(f"{pipeline.model} {pipeline.version or '-'}"),
        pipeline.state,
        str(readings),
        f"{readings / elapsed:.1f}" if elapsed > 0 else "",
        f"{total.p50:.0f}" if total and total.n else "",
        f"{total.p99:.0f}" if total and total.n else "",
    )


def _record(record: Shown) -> str:
    match record:
        case Decision():
            answer = f"{record.label} {record.score:.3f}" if record.label else f"{record.score:g}"
            state = f", state {record.state}" if record.state else ""
            fired = ", fired" if record.fired else ""
            return f"{record.pipeline} {record.model}: {answer}{state}{fired}"
        case Started():
            return f"started, agent {record.agent}"
        case Ledger():
            return f"dropped {record.count} records: {record.reason}"
        case Update():
            return _update(record)
        case ExperimentReport():
            pair = f"{record.model} {record.version} beside {record.incumbent}"
            return f"{pair}: {record.outcome}: {record.reason}"


def _update(update: Update) -> str:
    reason = f": {update.reason}" if update.reason else ""
    return f"update to {update.model} {update.version}: {update.state}{reason}"


def _comparison(found: Comparison) -> list[str]:
    """Two models side by side: a line for each, and one for what they have in common."""
    lines = [f"{name}: {_arm(arm)}" for name, arm in (("decides", found.a), ("compared", found.b))]
    if found.compared:
        alike = 1 - found.disagreed / found.compared
        lines.append(
            f"alike on {alike:.2%} of {found.compared} windows, {found.left_out} left out, "
            f"score shift {found.score_shift:+.4f}"
        )
    if found.a.labelled or found.b.labelled:
        lines.append(f"right alone: {found.b.version} {found.won}, {found.a.version} {found.lost}")
    return lines


def _arm(arm: Arm) -> str:
    accuracy = "" if arm.accuracy is None else f", right {arm.accuracy:.2%} of {arm.labelled}"
    return (
        f"{arm.version}: {arm.windows} windows, {arm.fired} fired, {arm.errors} errors, "
        f"p50 {arm.p50_us:.0f} µs, p99 {arm.p99_us:.0f} µs{accuracy}"
    )
