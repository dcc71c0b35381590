"""The high-water mark: the highest versions ever trusted, kept apart from python-tuf's own cache.

python-tuf does not sync its files, and takes one that a power cut has emptied for one that never
was: an attacker could then offer an older release again. The mark is written durably before
anything is installed, and what is below it is refused whatever the cache says.

The version numbers of the online roles begin anew when the root gives these roles other keys: that
is how an operator recovers from a thief who has signed a huge version (TUF specification, 5.3.11).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from edge_agent.contract.errors import StorageError
from edge_agent.update.disk import Disk, storage

MARK_FORMAT: Final = 1


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Versions of the metadata that were trusted together.

    Attributes:
        root: version of the root.
        keys: which keys sign timestamp and snapshot; other keys begin the numbers below anew.
        timestamp: version of the timestamp.
        snapshot: version of the snapshot.
        roles: versions of the targets roles, by file name as in the snapshot.
        issued: the newest time that any of them was signed at, in seconds since 1970.
    """

    format: int = MARK_FORMAT
    root: int = 0
    keys: str = ""
    timestamp: int = 0
    snapshot: int = 0
    roles: dict[str, int] = {}
    issued: float = 0.0

    def rollback(self, seen: Mark) -> str | None:
        """What ``seen`` offers that is older than this mark; None when nothing is."""
        if seen.root < self.root:
            return f"root.json has version {seen.root}, {self.root} was seen before"
        if seen.keys != self.keys:
            return None
        pairs = [
            ("timestamp.json", seen.timestamp, self.timestamp),
            ("snapshot.json", seen.snapshot, self.snapshot),
            *((name, seen.roles.get(name, 0), version) for name, version in self.roles.items()),
        ]
        for name, offered, known in pairs:
            if offered < known:
                return f"{name} has version {offered}, {known} was seen before"
        return None

    def raised(self, seen: Mark) -> Mark:
        """The mark after ``seen``, which is no rollback, was trusted.

        What the keys before have said of the time is forgotten with them: they may be a thief's.
        """
        issued = seen.issued if seen.keys != self.keys else max(self.issued, seen.issued)
        return msgspec.structs.replace(seen, issued=issued)


def read_mark(path: Path) -> Mark:
    """Read the mark; an empty one when there is none yet.

    Raises:
        StorageError: damaged, unreadable, or of a newer format: nothing may be installed then.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Mark()
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror}: check the card") from exc
    try:
        mark = msgspec.json.decode(data, type=Mark)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise StorageError(
            f"{path}: damaged ({exc}): no model is taken; remove its folder to trust anew from "
            "the root file"
        ) from exc
    if mark.format > MARK_FORMAT:
        raise StorageError(f"{path}: format {mark.format} is of a newer agent: update this one")
    return mark


def write_mark(path: Path, mark: Mark, disk: Disk) -> None:
    """Put the mark in place, durable on return.

    Raises:
        StorageError: the disk refused.
    """
    with storage(path):
        disk.replace(path, msgspec.json.encode(mark))
