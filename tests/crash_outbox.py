"""Power cuts in the outbox: what SQLite itself writes and syncs, and every state it may leave.

The outbox runs on another build of SQLite (apsw's), whose file functions write down what they do;
what is left is opened by the outbox as it is on a device. Two reductions, both of what SQLite
cannot see, where more than a few writes are open at once:

- *The log.* The checksum of a frame covers all frames before it: behind the first damaged one
  nothing is read. So one write is damaged in every way, with all before it whole and all behind it
  there or not.
- *The main file* is written from a log that is durable, and a page that the log holds is not read
  from it: each page is damaged alone, and all of them together.

SQLite syncs the folder with the first sync of a log or journal that it has made, and after the
removal of one where the caller asks for it (its ``os_unix.c``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import apsw
from outboxes import CLOCK, MIB, append_all, body, decision, kept, noted, open_outbox
from power import File, Operation, fates, power_cuts, put, tree

from edge_agent.contract.errors import EdgeError
from edge_agent.outbox.capped_db import CappedDb, pages_of
from edge_agent.outbox.items import Item, Rank, item_of
from edge_agent.outbox.outbox import _MIGRATIONS, Outbox
from edge_agent.spans import Spans

FULL_N: Final = 4  # open writes up to which every combination is built
LARGE: Final = 6_000  # bytes of a record that soon fills an outbox
VFS: Final = "recording"
_NEW_JOURNALS: Final = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL

Promise = tuple[int, int]
"""The last position that was acknowledged, and the last that was given free."""

Records = dict[tuple[str, int], dict[str, object]]
"""Content by boot and seq."""


class RecordingFile(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], log: list[Operation]) -> None:
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        is_new = not path.exists()
        super().__init__("", name, flags)
        self._path, self._log = path, log
        self._syncs_folder = is_new and bool(flags[0] & _NEW_JOURNALS)
        if is_new:
            log.append(("create", path))

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._log.append(("write", self._path, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        super().xTruncate(size)
        self._log.append(("size", self._path, size))

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._log.append(("sync", self._path))
        if self._syncs_folder:
            self._log.append(("sync", self._path.parent))
            self._syncs_folder = False


class RecordingVfs(apsw.VFS):
    def __init__(self, log: list[Operation]) -> None:
        self._log = log
        super().__init__(VFS, "")

    def xOpen(self, name: Any, flags: list[int]) -> RecordingFile:  # noqa: N802
        return RecordingFile(name, flags, self._log)

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: N802, FBT001
        super().xDelete(name, syncdir)
        self._log.append(("remove", Path(name)))
        if syncdir:
            self._log.append(("sync", Path(name).parent))


class Connection:
    """What the outbox uses of a connection of ``sqlite3``, on the recording files."""

    def __init__(self, path: Path, **_: object) -> None:
        self._db = apsw.Connection(str(path), vfs=VFS)
        self.execute, self.executescript = self._db.execute, self._db.execute
        self.executemany, self.close = self._db.executemany, self._db.close

    @property
    def in_transaction(self) -> bool:
        return bool(self._db.in_transaction)


def boots(
    place: Path, *, without: Callable[[Operation], bool] = lambda _: False
) -> Iterator[str | None]:
    """What is wrong with each state, or None: two boots of a new outbox, and one that is full.

    Args:
        place: an empty folder.
        without: operations that the disk did not do after all, to see that it is noticed.
    """
    for number, (prepare, live) in enumerate(((_nothing, _two_boots), (_fill, _drop))):
        folder = place / str(number)
        folder.mkdir(parents=True)
        path, log, wrote = folder / "outbox.db", list[Operation](), Records()
        vfs = RecordingVfs(log)
        prepare(path, wrote)
        before = tree(folder)
        log.clear()
        live(path, log, wrote)
        vfs.unregister()
        log = [operation for operation in log if not without(operation)]
        for promise, state in power_cuts(before, log, left=_left):
            left = put(state, folder, place / "left") / path.name
            try:
                yield _fault(left, promise or (0, 0), wrote)
            except EdgeError as exc:
                yield str(exc)


def _nothing(_: Path, __: Records) -> None:
    """A new device."""


def _two_boots(path: Path, log: list[Operation], wrote: Records) -> None:
    freed = _boot(path, log, wrote, 0)
    _boot(path, log, wrote, freed)


def _fill(path: Path, wrote: Records) -> None:
    """An outbox nearly up to its cap."""
    outbox = open_outbox(path)
    while outbox._db.pages_free >= pages_of([2 * LARGE]):
        append_all(outbox, [body(Rank.DECISION, LARGE)])
        wrote |= kept(outbox)
    outbox.close()


def _drop(path: Path, log: list[Operation], wrote: Records) -> None:
    """Records for which others, whose loss is noted, have to go."""
    log.append(("promise", (max(seq for _, seq in wrote), 0)))
    outbox = _opened(path)
    while not outbox.dropped:
        append_all(outbox, [body(Rank.FIRED, LARGE)])
        log.append(("promise", (outbox.position, 0)))
        wrote |= kept(outbox)
    outbox.close()


def _opened(path: Path) -> Outbox:
    """A new boot of an outbox on the recording files."""
    db = CappedDb(path, bytes_max=MIB, migrations=_MIGRATIONS, connect=Connection)
    outbox = Outbox(db, CLOCK)
    outbox._begin("0.1.0")
    return outbox


def _boot(path: Path, log: list[Operation], wrote: Records, freed: int) -> int:
    """A boot: small groups and large ones, confirmed or not, until the log was emptied again.

    Returns:
        The last position that may be gone, which is ``freed`` in the beginning.
    """
    outbox = _opened(path)

    def promise() -> None:
        log.append(("promise", (outbox.position, freed)))

    def keep(items: list[Item]) -> None:
        append_all(outbox, items)
        promise()

    promise()
    number = itertools.count(outbox.position)
    for turn in range(8):
        keep([item_of(decision(next(number), fired=True)) for _ in range(1 + turn % 3)])
    keep([item_of(decision(next(number))) for _ in range(300)])
    wrote |= kept(outbox)
    freed = outbox.position // 2
    promise()
    outbox.discard(Spans([(1, freed)]))
    for _ in range(4):
        keep([item_of(decision(next(number), fired=True))])
    outbox._db._empty_wal()
    keep([item_of(decision(next(number), fired=True))])
    wrote |= kept(outbox)
    outbox.close()
    return freed


def _left(path: Path, file: File) -> Iterator[bytes]:
    """What may be left of a file of SQLite, but for what it cannot see."""
    if len(file.since) <= FULL_N:
        yield from file.all()
        return
    whole, absent = list(file.since), [None] * len(file.since)
    yield file.after(whole)
    yield file.after(absent)
    if not path.name.endswith("-wal"):
        for fate in zip(*map(fates, file.since), strict=False):
            yield file.after(fate)
    for at, change in enumerate(file.since):
        for fate in fates(change)[1:]:
            yield file.after([*whole[:at], fate, *whole[at + 1 :]])
            if path.name.endswith("-wal"):
                yield file.after([*whole[:at], fate, *absent[at + 1 :]])


def _fault(path: Path, promise: Promise, wrote: Records) -> str | None:
    acknowledged, freed = promise
    outbox = open_outbox(path)
    try:
        if list(path.parent.glob("*.corrupt-*")):
            return "the outbox is damaged"
        there, started = kept(outbox), outbox.position
        said = {at for first, last in noted(outbox) for at in range(first, last + 1)}
        positions = {
            position
            for (boot, seq) in there
            for first, last in outbox.positions(boot, [(seq, seq)])
            for position in range(first, last + 1)
        }
    finally:
        outbox.close()
    if lost := set(range(freed + 1, acknowledged + 1)) - positions - said:
        return f"{len(lost)} acknowledged records are lost"
    if started <= acknowledged:
        return "a number is given again"
    if any(wrote.get(key, record) != record for key, record in there.items()):
        return "a record has changed"
    return None
