"""What the outbox keeps, how important it is, and in which form it comes out again."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Final

import msgspec

from edge_agent.contract.messages import Decision, Ledger, Metrics, RawWindow, Record, encode
from edge_agent.outbox.columns import fits, packed_bytes
from edge_agent.spans import Spans

BODY_BYTES_MAX: Final = 47 * 1024
"""Largest record or message: with its envelope it must still fit the largest publish."""


class Rank(IntEnum):
    """How important a record is; the byte cap drops the lowest first, and never the highest."""

    RAW = -1  # came after the others had their numbers on devices' disks
    METRICS = 0
    DECISION = 1
    MESSAGE = 2
    FIRED = 3
    EVENT = 4
    LEDGER = 5


RECORD_RANKS: Final = tuple(rank for rank in Rank if rank is not Rank.MESSAGE)


_PLAIN_BYTES_MAX: Final = 4096  # no body of so little is too large
_RANK_BITS: Final = 40
POSITIONS: Final = (1 << _RANK_BITS) - 1
"""Mask of the position in a row's key, and the last position that there can be."""


def key_of(rank: Rank, position: int) -> int:
    """The key of a row: one importance lies together, in the order of its age."""
    return rank << _RANK_BITS | position


class Item(msgspec.Struct, frozen=True):
    """Something to keep.

    Attributes:
        body: a record as JSON without ``seq``, or the payload of a message.
        topic: where a user's message goes; None for a record.
    """

    rank: Rank
    body: bytes
    topic: str | None = None

    @property
    def size(self) -> int:
        """Bytes of its content on disk."""
        return len(self.body) + len(self.topic or "")


class Plain(msgspec.Struct, frozen=True, gc=False):
    """A decision that may be packed with others, which is encoded only if it becomes a row.

    Attributes:
        size: bytes of its content in a pack, at most.
    """

    rank: ClassVar[Rank] = Rank.DECISION
    topic: ClassVar[None] = None

    decision: Decision
    size: int

    @property
    def body(self) -> bytes:
        """As of an :class:`Item`."""
        return encode(self.decision)

    @property
    def row(self) -> Item:
        """The same, encoded."""
        return Item(self.rank, self.body)


Kept = Item | Plain
"""What the outbox takes."""


class Slice(msgspec.Struct, frozen=True):
    """Records of one boot in rising order, ready to be sent.

    Attributes:
        through: last position that is covered; none is kept between the last record and it.
        spans: the positions of the records.
        records: in wire form.
    """

    boot: str
    through: int
    spans: Spans
    records: list[msgspec.Raw]


class Message(msgspec.Struct, frozen=True):
    """A kept message to a user's topic."""

    position: int
    topic: str
    payload: bytes


def item_of(record: Record) -> Kept:
    """Say how important a record is, and encode it unless it may be packed."""
    if isinstance(record, Decision) and fits(record):
        size = packed_bytes(record)
        if size <= _PLAIN_BYTES_MAX:
            return Plain(record, size)
    return encoded(record)


def encoded(record: Record) -> Item:
    """The same, encoded in any case."""
    match record:
        case Decision(fired=fired):
            rank = Rank.FIRED if fired else Rank.DECISION
        case RawWindow():
            rank = Rank.RAW
        case Metrics():
            rank = Rank.METRICS
        case Ledger():
            rank = Rank.LEDGER
        case _:
            rank = Rank.EVENT
    return Item(rank, encode(record))
