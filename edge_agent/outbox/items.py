"""What the outbox keeps, how important it is, and in which form it comes out again."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

from edge_agent.contract.messages import Decision, Ledger, Metrics, RawWindow, Record, encode
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


def item_of(record: Record) -> Item:
    """Encode a record and say how important it is."""
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
