"""Records as one JSON object a line, for one collector; made to be read by other programs.

A line is ``{"device": …, "boot": …, "late": …, "received_t": …, "record": {…}}``. What is stored
already is kept as ranges in memory, and found again by reading the file at the start. What a
status said of the end of a boot is not in the file: after a start the next status says it again.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from edge_agent.contract.errors import StorageError
from edge_agent.contract.messages import Head
from edge_agent.fleet.ranges import Ranges, acknowledgements, runs
from edge_agent.fleet.records import Row, ledger_of, ledger_ranges, started_of, unsequenced
from edge_agent.fleet.sinks import Boot, Extent, Stored, Tally, tally

log = logging.getLogger(__name__)

_TAIL_BYTES: Final = 64 * 1024


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    device: str
    boot: str
    late: bool
    received_t: float
    record: msgspec.Raw


class _BootIndex:
    """What the file holds of one boot."""

    def __init__(self) -> None:
        self.stored = Ranges()
        self.covered = Ranges()
        self.last = 0
        self.unsequenced = 0


class JsonlSink:
    """Conforms to :class:`edge_agent.fleet.sinks.Sink`.

    Raises:
        StorageError: not writable, or another collector has it open.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._boots: defaultdict[Boot, _BootIndex] = defaultdict(_BootIndex)
        with self._translated():
            self._file = path.open("rb" if read_only else "a+b", buffering=0)
            try:
                if not read_only:
                    self._lock()
                    self._repair()
                    self._sync_folder()
                self._read()
            except BaseException:
                self._file.close()
                raise

    def store(
        self, rows: Sequence[Row], *, received_t: float, seen: Mapping[Boot, int] | None = None
    ) -> Stored:
        """See :meth:`Sink.store <edge_agent.fleet.sinks.Sink.store>`."""
        fresh: dict[tuple[str, str, int], Row] = {}
        duplicates: dict[str, int] = defaultdict(int)
        touched: dict[Boot, set[int]] = defaultdict(set)
        for row in rows:
            touched[row.device, row.boot].add(row.seq)
            if row.seq in self._boots[row.device, row.boot].stored or _key(row) in fresh:
                duplicates[row.device] += 1
            else:
                fresh[_key(row)] = row
        if fresh:
            self._append(b"".join(_encode(row, received_t) for row in fresh.values()))
        for row in fresh.values():
            for boot in self._index(row):
                touched[boot] |= set()  # acknowledged too: its unbroken run may have grown
        for boot, last in (seen or {}).items():
            self._boots[boot].last = max(self._boots[boot].last, last)
        acks = [
            (boot[0], ack)
            for boot, seqs in touched.items()
            for ack in acknowledgements(boot[1], self._boots[boot].covered, runs(seqs))
        ]
        return Stored(new=len(fresh), duplicates=dict(duplicates), acks=acks)

    def tallies(self) -> list[Tally]:
        """See :meth:`Sink.tallies <edge_agent.fleet.sinks.Sink.tallies>`."""
        return tally(
            Extent(
                device=device,
                last=max(index.last, index.covered.last()),
                stored=index.stored.count,
                covered=index.covered.count,
                unsequenced=index.unsequenced,
            )
            for (device, _), index in self._boots.items()
        )

    def close(self) -> None:
        """See :meth:`Sink.close <edge_agent.fleet.sinks.Sink.close>`."""
        self._file.close()

    def _index(self, row: Row) -> list[Boot]:
        """Take a stored row into the index; the boots whose ledgered ranges grew."""
        index = self._boots[row.device, row.boot]
        index.stored.add(row.seq, row.seq)
        index.covered.add(row.seq, row.seq)
        if (started := started_of(row)) and started.previous_boot:
            previous = self._boots[row.device, started.previous_boot]
            previous.last = max(previous.last, started.previous_seq)
        if ledger := ledger_of(row):
            about = self._boots[row.device, ledger.boot]
            about.unsequenced += unsequenced(ledger)
            for first, last in ledger_ranges(ledger):
                about.covered.add(first, last)
            return [(row.device, ledger.boot)]
        return []

    # --- the file --------------------------------------------------------------------------------

    def _append(self, data: bytes) -> None:
        """Write and sync, or leave the file as it was."""
        with self._translated():
            size = os.fstat(self._file.fileno()).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[self._file.write(view) :]
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(size)
                raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"{self._path} is in use by another collector: "
                "give each its own file, or share a .db file"
            ) from None

    def _repair(self) -> None:
        """Cut off a last line that a power cut tore; it was never acknowledged."""
        size = end = self._file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _TAIL_BYTES)
            self._file.seek(start)
            newline = self._file.read(end - start).rfind(b"\n")
            end = start + newline + 1 if newline >= 0 else start
            if newline >= 0:
                break
        if end < size:
            log.warning("%s: cut off a torn last line of %d bytes", self._path, size - end)
            self._file.truncate(end)
            os.fsync(self._file.fileno())

    def _sync_folder(self) -> None:
        """Make sure that a file just created is still there after a power cut."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self) -> None:
        """Build the index. A damaged line is left alone and counts as not stored."""
        damaged = 0
        with self._path.open("rb") as file:
            for row in _rows(file):
                if row is None:
                    damaged += 1
                else:
                    self._index(row)
        if damaged:
            log.warning("%s: %d damaged lines are not counted as stored", self._path, damaged)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise StorageError(
                f"{self._path}: {exc.strerror}: check the disk and the rights"
            ) from exc


def _rows(file: BinaryIO) -> Iterator[Row | None]:
    """The rows of a file; None for a line that is not one."""
    decoder = msgspec.json.Decoder(_Line)
    head_decoder = msgspec.json.Decoder(Head)
    for line in file:
        try:
            read = decoder.decode(line)
            head = head_decoder.decode(read.record)
        except (msgspec.DecodeError, UnicodeDecodeError):
            yield None
            continue
        yield Row(
            device=read.device,
            boot=read.boot,
            seq=head.seq,
            kind=head.kind,
            t=head.t,
            late=read.late,
            body=bytes(read.record),
        )


def _key(row: Row) -> tuple[str, str, int]:
    return row.device, row.boot, row.seq


def _encode(row: Row, received_t: float) -> bytes:
    line = _Line(
        device=row.device,
        boot=row.boot,
        late=row.late,
        received_t=received_t,
        record=msgspec.Raw(row.body),
    )
    return msgspec.json.encode(line) + b"\n"
