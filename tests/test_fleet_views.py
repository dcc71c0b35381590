"""What people and programs get to see."""

import json

import pytest
from msgspec import structs

from edge_agent.contract.experiment import Arm, Comparison
from edge_agent.contract.messages import (
    Decision,
    ExperimentReport,
    Latency,
    Ledger,
    Metrics,
    OutboxStatus,
    PipelineStatus,
    Started,
    Status,
    UpdateReport,
    encode,
    with_seq,
)
from edge_agent.contract.topics import Topics
from edge_agent.fleet.collect import CollectReport, DeviceReport
from edge_agent.fleet.devices import read_statuses
from edge_agent.fleet.records import Row
from edge_agent.fleet.session import Session
from edge_agent.fleet.text import clean, text_table
from edge_agent.fleet.views import (
    REPORT_HEADER,
    STATUS_HEADER,
    report_rows,
    seen_json,
    seen_line,
    status_notes,
    status_rows,
)
from edge_agent.fleet.watch import Seen, follow
from edge_agent.testing.broker import SimulatedBroker

TOPICS = Topics("edge")
LATENCY = Latency(n=10, p50=41.6, p99=99.2, p999=120, max=150)
UPDATE = UpdateReport(
    t=1.0,
    model="motion",
    version="2.0.0",
    sha256="0" * 64,
    revision=1,
    state="refused",
    reason="channels differ",
)
STATUS = Status(
    device="pi-1",
    boot="b1",
    host="h",
    agent="0.1.0",
    online=True,
    t=110.0,
    started_t=10.0,
    conflicts=("b2 on copy",),
    pipelines=(
        PipelineStatus(
            name="left",
            model="motion",
            version="1.0.0",
            state="running",
            counts={"readings": 5000},
            latency_us={"total": LATENCY},
        ),
        PipelineStatus(name="right", model="sound", state="failed", fault="no sensor"),
    ),
    outbox=OutboxStatus(
        records=7, file_bytes=1, seq_last=9, oldest_t=1.0, dropped=0, fault="disk full"
    ),
    updates=(UPDATE,),
)
WILL = Status(
    device="pi-2", boot="b1", host="h", agent="0.1.0", online=False, reason="connection lost"
)


def row_of(record, *, kind, device="pi-1"):
    body = with_seq(4, encode(record))
    return Row(device=device, boot="b1", seq=4, kind=kind, t=record.t, late=True, body=body)


def test_a_status_is_one_row_a_pipeline():
    left, right, will = (
        dict(zip(STATUS_HEADER, cells, strict=True)) for cells in status_rows([STATUS, WILL])
    )
    assert (left["device"], left["state"], left["model"]) == ("pi-1", "online", "motion 1.0.0")
    assert (left["readings"], left["per s"], left["outbox"]) == ("5000", "50.0", "7")
    assert (left["p50 µs"], left["p99 µs"]) == ("42", "99")
    assert (right["device"], right["runs"], right["model"]) == ("", "failed", "sound -")
    assert (will["device"], will["state"]) == ("pi-2", "offline: connection lost")


def test_clones_faults_and_refusals_are_named():
    notes = "\n".join(status_notes([STATUS, WILL]))
    for part in (
        "b2 on copy",
        "pipeline right: no sensor",
        "outbox: disk full",
        "update to motion 2.0.0: refused: channels differ",
    ):
        assert part in notes


def test_two_models_side_by_side_are_told():
    a = Arm(version="1.0.0", windows=1000, fired=3, labelled=10, correct=8, p50_us=6.0, p99_us=9.0)
    b = Arm(version="2.0.0", windows=1000, errors=1, labelled=10, correct=9, p50_us=12.0)
    found = Comparison(compared=1000, disagreed=25, left_out=2, won=2, lost=1, a=a, b=b)
    pipeline = structs.replace(STATUS.pipelines[0], comparison=found)
    notes = status_notes([structs.replace(STATUS, pipelines=(pipeline,))])
    for part in (
        "decides: 1.0.0: 1000 windows, 3 fired, 0 errors, p50 6 µs, p99 9 µs, right 80.00% of 10",
        "compared: 2.0.0: 1000 windows, 0 fired, 1 errors",
        "alike on 97.50% of 1000 windows, 2 left out",
        "right alone: 2.0.0 2, 1.0.0 1",
    ):
        assert any(note.startswith(f"pi-1: pipeline left: {part}") for note in notes), notes


def test_columns_line_up():
    table = text_table(("name", "n"), [("a", "1"), ("long name", "1000")])
    assert table.splitlines() == ["name       n", "a             1", "long name  1000"]


def test_a_report_has_a_row_for_each_device_and_their_sum():
    devices = tuple(
        DeviceReport(device=name, produced=5, received=4, missing=1) for name in ("a", "b")
    )
    sums = CollectReport(
        produced=10, received=8, ledgered=0, missing=2, unsequenced=0, duplicates=0, devices=devices
    )
    rows = [dict(zip(REPORT_HEADER, cells, strict=True)) for cells in report_rows(sums)]
    assert [(row["device"], row["missing"]) for row in rows] == [
        ("a", "1"),
        ("b", "1"),
        ("all", "2"),
    ]


@pytest.mark.parametrize(
    ("record", "kind", "part"),
    [
        (
            Decision(t=1.0, pipeline="p", model="1.0.0", reading=1, label="walk", score=0.93,
                     state="walk", fired=True),
            "decision",
            "pi-1: p 1.0.0: walk 0.930, state walk, fired",
        ),
        (Decision(t=1.0, pipeline="p", model="1", reading=1, score=20.5), "decision", "p 1: 20.5"),
        (Started(t=1.0, agent="0.1.0"), "started", "started, agent 0.1.0"),
        (Ledger(t=1.0, boot="b", count=3, reason="byte cap"), "ledger", "dropped 3 records: byte"),
        (UPDATE, "update", "motion 2.0.0: refused: channels differ"),
        (
            ExperimentReport(t=1.0, model="motion", version="2.0.0", sha256="0", revision=1,
                             incumbent="1.0.0", outcome="look", reason="7 windows"),
            "experiment",
            "motion 2.0.0 beside 1.0.0: look: 7 windows",
        ),
    ],
)  # fmt: skip
def test_records_become_lines_and_json(record, kind, part):
    row = row_of(record, kind=kind)
    assert part in seen_line(Seen(row=row, record=record))
    read = json.loads(seen_json(Seen(row=row, record=record)))
    assert (read["device"], read["boot"], read["late"]) == ("pi-1", "b1", True)
    assert read["record"]["seq"] == 4


def test_metrics_are_for_programs_only():
    row = row_of(
        Metrics(t=1.0, pipeline="p", counts={}, latency_us={}, rss_bytes=1), kind="metrics"
    )
    assert seen_line(Seen(row=row)) is None
    assert json.loads(seen_json(Seen(row=row)))["record"]["rss_bytes"] == 1


def test_no_device_can_write_control_sequences_to_the_terminal():
    assert clean("\x1b[2Jwalk\r\n\u202e") == "?[2Jwalk???"
    evil = Decision(t=1.0, pipeline="p", model="1", reading=1, label="\x1b[2J", score=1.0)
    assert "\x1b" not in seen_line(Seen(row=row_of(evil, kind="decision"), record=evil))


def test_statuses_that_cannot_be_read_are_said_and_the_others_shown():
    answers = {
        TOPICS.status("pi-1"): encode(STATUS),
        TOPICS.status("pi-3"): encode(STATUS),
        TOPICS.status("pi-4"): b"{",
        TOPICS.status("pi-5"): b"",
        TOPICS.ack("pi-1"): b"{}",
    }
    found, faults = read_statuses(TOPICS, answers)
    assert found == [STATUS]
    assert len(faults) == 2


def test_following_goes_on_after_the_broker_was_away():
    broker = SimulatedBroker()
    broker.retained[TOPICS.status("pi-1")] = encode(STATUS)
    seen, told = [], []
    with Session(broker.link("viewer")) as session:
        for item in follow(
            session,
            TOPICS,
            device="+",
            until=lambda: len(seen) == 2,
            connect_s=5.0,
            tell=told.append,
        ):
            if item is not None:
                seen.append(item.status.device)
                broker.restart()
    assert seen == ["pi-1", "pi-1"]
    assert len(told) == 1
