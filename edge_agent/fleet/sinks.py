"""Where a collector keeps records: one interface, a file of lines or a SQLite file behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from edge_agent.contract.errors import StorageError
from edge_agent.contract.messages import Ack
from edge_agent.fleet.records import Row

Boot = tuple[str, str]
"""(device, boot)."""

_SQLITE_SUFFIXES: Final = (".db", ".sqlite", ".sqlite3")


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What one durable commit did.

    Attributes:
        new: records that were not stored before.
        duplicates: records that were, by device.
        acks: (device, acknowledgement) to send now that the commit has succeeded.
    """

    new: int
    duplicates: dict[str, int]
    acks: list[tuple[str, Ack]]


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What a file knows of one device, over all its boots.

    Attributes:
        produced: records that the device is known to have given a seq.
        received: records stored.
        ledgered: seqs that the device said it dropped and that are not stored.
        missing: produced, but neither received nor ledgered.
        unsequenced: records that the device said it dropped before they had a seq.
    """

    device: str
    produced: int = 0
    received: int = 0
    ledgered: int = 0
    missing: int = 0
    unsequenced: int = 0


class Extent(msgspec.Struct, frozen=True, kw_only=True):
    """What a file knows of one boot.

    Attributes:
        last: the highest seq that the boot is known to have used.
        stored: how many seqs are stored.
        covered: how many seqs are stored or ledgered.
        unsequenced: see :class:`Tally`.
    """

    device: str
    last: int
    stored: int
    covered: int
    unsequenced: int


class Sink(Protocol):
    """A durable place for records. One thread uses it."""

    def store(
        self, rows: Sequence[Row], *, received_t: float, seen: Mapping[Boot, int] | None = None
    ) -> Stored:
        """Store rows in one durable commit; when it returns, a power cut loses none of them.

        Args:
            rows: in any order, duplicates allowed.
            received_t: seconds since 1970 by this machine's clock.
            seen: highest seqs that devices said they had used, from their status.

        Raises:
            StorageError: nothing was stored.
        """
        ...

    def tallies(self) -> list[Tally]:
        """What is known of each device, by name."""
        ...

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        ...


def open_sink(target: str, *, read_only: bool = False) -> Sink:
    """Open or create the file that ``--to`` names.

    Args:
        target: ``sqlite:PATH``, or a path: SQLite by its suffix .db, .sqlite or .sqlite3, else
            one JSON object a line.
        read_only: for tallies alone, also of a file that a collector is writing; it must exist.

    Raises:
        StorageError: it cannot be used; the message says why.
    """
    from edge_agent.fleet.sink_jsonl import JsonlSink  # noqa: PLC0415  # they import this module
    from edge_agent.fleet.sink_sqlite import SqliteSink  # noqa: PLC0415

    path = Path(target.removeprefix("sqlite:"))
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent} is not a folder: create it first")
    if target.startswith("sqlite:") or path.suffix in _SQLITE_SUFFIXES:
        return SqliteSink(path, read_only=read_only)
    return JsonlSink(path, read_only=read_only)


def tally(extents: Iterable[Extent]) -> list[Tally]:
    """Sum the boots of each device."""
    sums: dict[str, Tally] = {}
    for extent in extents:
        before = sums.get(extent.device, Tally(device=extent.device))
        sums[extent.device] = Tally(
            device=extent.device,
            produced=before.produced + extent.last,
            received=before.received + extent.stored,
            ledgered=before.ledgered + extent.covered - extent.stored,
            missing=before.missing + extent.last - extent.covered,
            unsequenced=before.unsequenced + extent.unsequenced,
        )
    return [sums[device] for device in sorted(sums)]
