"""Follows a fleet: statuses and records as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec

from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import (
    Decision,
    ExperimentReport,
    Ledger,
    Started,
    Status,
    UpdateReport,
    decode,
)
from edge_agent.contract.topics import Topics
from edge_agent.fleet.devices import read_status
from edge_agent.fleet.records import Row, parse_batch
from edge_agent.fleet.session import ConnectionLostError, Session
from edge_agent.link import Message

_AGAIN_S = 3.0  # subscriptions are made twice: the first answer may be silence

Shown = Decision | Started | Ledger | UpdateReport | ExperimentReport


class Seen(msgspec.Struct, frozen=True):
    """Something that a device said.

    Attributes:
        status: a status; or else None, and
        row: a record as it came, and
        record: the same decoded, of the kinds that are shown to people; None for others.
    """

    status: Status | None = None
    row: Row | None = None
    record: Shown | None = None


def follow(
    session: Session,
    topics: Topics,
    *,
    device: str,
    until: Callable[[], bool],
    connect_s: float,
    tell: Callable[[str], None],
) -> Iterator[Seen | None]:
    """Give what devices say, and None when nothing has come for a while.

    Args:
        session: entered.
        topics: names of the topics.
        device: only this one; ``+`` for all.
        until: asked between two messages.
        connect_s: how long the broker may be away.
        tell: takes one sentence for people.

    Raises:
        LinkError: the broker stays away, or forbids to read.
    """
    filters = [topics.status(device), topics.records(device, "+")]
    while not until():
        session.connect(connect_s)
        try:
            yield from _follow(session, topics, filters, until)
        except ConnectionLostError as exc:
            tell(f"{exc}: connecting again")


def _follow(
    session: Session, topics: Topics, filters: list[str], until: Callable[[], bool]
) -> Iterator[Seen | None]:
    session.subscribe(filters)
    again: float | None = time.monotonic() + _AGAIN_S
    while not until():
        if again is not None and time.monotonic() > again:
            session.subscribe(filters)
            again = None
        message = session.receive(0.25)
        if message is None:
            yield None
        else:
            yield from _read(topics, message)


def _read(topics: Topics, message: Message) -> Iterator[Seen]:
    try:
        status = read_status(topics, message.topic, message.payload)
        if status is not None:
            yield Seen(status=status)
        elif message.topic.split("/")[-2] == "records":
            for row in parse_batch(topics, message.topic, message.payload).rows:
                yield Seen(row=row, record=_shown(row))
    except LinkError:
        return  # a viewer has no use for what cannot be read; the collector counts it


def _shown(row: Row) -> Shown | None:
    forms: dict[str, type[Shown]] = {
        "decision": Decision,
        "started": Started,
        "ledger": Ledger,
        "update": UpdateReport,
        "experiment": ExperimentReport,
    }
    form = forms.get(row.kind)
    return decode(row.body, form) if form else None
