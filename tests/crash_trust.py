"""Power cuts in what a device believes: the mark, and the cache that python-tuf never syncs.

A file of metadata that is torn, full of zeros or empty is one thing to python-tuf, whose only
question is whether it can be read; that is checked here too. So a file may be as it was, new, or
unreadable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from fleets import DEVICE, SECRET, Fleet
from power import UNREAD, RecordingDisk, power_cuts, put, tree, watched
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Metadata
from tuf.api.serialization import DeserializationError

from edge_agent.contract.errors import EdgeError
from edge_agent.contract.release import device_path
from edge_agent.update.trust.child import refresh
from edge_agent.update.trust.mark import Mark, read_mark

TARGET = device_path(DEVICE, "motion")


def checks(make_disk: Callable[[], RecordingDisk], place: Path) -> Iterator[str | None]:
    """What is wrong with each state, or None, of three trust checks in a row.

    The first is of a new device, the second finds a newer release, the third new online keys.
    Every one that has returned is a promise: nothing older is believed any more.
    """
    place.mkdir()
    fleet, disk = Fleet(place), make_disk()
    folder = place / "data" / "trust"
    folder.parent.mkdir()
    before = tree(folder.parent)
    offers = list(_offers(fleet))
    for number, files in enumerate(offers):
        _checked(fleet, folder, files, disk)
        disk.log.append(("promise", number))
    for promised, state in power_cuts(before, disk.log, same=readable):
        left = put(state, folder.parent, place / "left") / "trust"
        yield _fault(fleet, left, offers, promised or 0)


def readable(path: Path, content: bytes) -> object:
    """What of a file can be told apart: metadata by whether they can be read."""
    if path.name.startswith("."):  # left over; emptied before it is used again
        return UNREAD
    if path.parent.name in ("metadata", "root_history"):
        return content if parses(content) else None
    return content


def _offers(fleet: Fleet) -> Iterator[dict[str, bytes]]:
    """What is on the broker, one time after the other."""
    fleet.order(fleet.approve(fleet.release("1.0.0")))
    yield fleet.files()
    fleet.order(fleet.approve(fleet.release("1.1.0")))
    yield fleet.files()
    fleet.repository.rotate("online", fleet.keys, SECRET)
    fleet.reopen()
    yield fleet.files()


def _checked(fleet: Fleet, folder: Path, files: dict[str, bytes], disk: RecordingDisk) -> Mark:
    """A trust check as the child process makes it; the mark after it."""
    with watched(folder / "metadata", disk.log):
        updater = refresh(
            folder / "metadata",
            folder / "mark.json",
            root=fleet.root.read_bytes(),
            get=files.get,
            now=time.time(),
            disk=disk,
        )
        assert updater.get_targetinfo(TARGET) is not None
    return read_mark(folder / "mark.json")


def _fault(fleet: Fleet, left: Path, offers: list[dict[str, bytes]], promised: int) -> str | None:
    """Everything older than what was promised is refused, and the newest believed."""
    for number, files in enumerate(offers[:promised]):
        try:
            _checked(fleet, left, files, RecordingDisk())
        except (RepositoryError, DownloadError, EdgeError):
            continue
        return f"release {number} is believed after release {promised}"
    try:
        mark = _checked(fleet, left, offers[-1], RecordingDisk())
    except (RepositoryError, DownloadError, EdgeError, OSError) as exc:
        return f"the newest release is not believed: {type(exc).__name__}: {exc}"
    newest = Metadata.from_bytes(offers[-1]["timestamp.json"]).signed.version
    return None if mark.timestamp == newest else f"the mark is at {mark.timestamp}"


@cache
def parses(content: bytes) -> bool:
    try:
        Metadata.from_bytes(content)
    except DeserializationError:
        return False
    return True
