"""From a message on a records topic to rows that can be stored."""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import (
    MESSAGE_SCHEMA,
    Batch,
    Head,
    Ledger,
    Started,
    UpdateReport,
    decode,
)
from edge_agent.contract.names import name_fault
from edge_agent.contract.topics import Topics

_BOOT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
SEQ_MAX: Final = 2**53
"""Beyond it JSON readers elsewhere lose digits; it also fits SQLite."""

_T = TypeVar("_T")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One record as a collector stores it.

    Attributes:
        late: it came on the backlog topic.
        t: seconds since 1970 by the device's clock.
        body: the record's JSON object with its ``seq``, as received.
    """

    device: str
    boot: str
    seq: int
    kind: str
    t: float
    late: bool
    body: bytes


class Parsed(msgspec.Struct, frozen=True):
    """The rows of one message, and how many of its records could not be read."""

    rows: list[Row]
    malformed: int


def parse_batch(topics: Topics, topic: str, payload: bytes) -> Parsed:
    """Read one message of a records topic.

    Raises:
        LinkError: not a batch, of a newer schema, or of another device than its topic says.
    """
    batch = decode(payload, Batch)
    if batch.schema > MESSAGE_SCHEMA:
        raise LinkError(f"a batch of schema {batch.schema}: update edge-fleet")
    if batch.device != topics.device_of(topic) or name_fault("device", batch.device):
        raise LinkError(f"a batch of device {batch.device!r} came on {topic}")
    if not _BOOT.fullmatch(batch.boot):
        raise LinkError(f"a batch of {batch.device} names boot {batch.boot!r}")
    late = topic.endswith("/backlog")
    rows = [row for raw in batch.records if (row := _row(batch, bytes(raw), late=late))]
    return Parsed(rows, len(batch.records) - len(rows))


def ledger_of(row: Row) -> Ledger | None:
    """The ledger record in a row; None for other kinds, and for one that cannot be understood."""
    ledger = _known(row, "ledger", Ledger)
    return ledger if ledger and _BOOT.fullmatch(ledger.boot) else None


def started_of(row: Row) -> Started | None:
    """The started record in a row; None for other kinds, and for one that cannot be understood."""
    started = _known(row, "started", Started)
    if started is None or not 0 <= started.previous_seq <= SEQ_MAX:
        return None
    return started if _BOOT.fullmatch(started.previous_boot or "-") else None


def update_of(row: Row) -> UpdateReport | None:
    """The update report in a row; None for other kinds, and for one that cannot be understood."""
    return _known(row, "update", UpdateReport)


def ledger_ranges(ledger: Ledger) -> list[tuple[int, int]]:
    """The ranges of a ledger that mean something."""
    return [(first, last) for first, last in ledger.ranges if 1 <= first <= last <= SEQ_MAX]


def unsequenced(ledger: Ledger) -> int:
    """How many records were dropped before they had a seq."""
    named = sum(last - first + 1 for first, last in ledger_ranges(ledger))
    return max(0, ledger.count - named)


def _row(batch: Batch, body: bytes, *, late: bool) -> Row | None:
    """One record as a row; None, which the caller counts, when even its head cannot be read."""
    try:
        head = decode(body, Head)
        body.decode()  # the decoder does not look into what it skips
        if b"\n" in body:
            body = msgspec.json.format(body, indent=-1)  # a record must fit on one line
    except (LinkError, UnicodeDecodeError, RecursionError):
        return None
    if not 1 <= head.seq <= SEQ_MAX:
        return None
    return Row(
        device=batch.device,
        boot=batch.boot,
        seq=head.seq,
        kind=head.kind,
        t=head.t,
        late=late,
        body=body,
    )


def _known(row: Row, kind: str, form: type[_T]) -> _T | None:
    if row.kind != kind:
        return None
    try:
        return decode(row.body, form)
    except LinkError:
        return None  # a newer sender's form: the record is kept, only not understood
