"""The process that checks signed metadata: python-tuf's client, fed by the agent through pipes.

Run as ``python -m edge_agent.update.trust.child``; :mod:`.protocol` is what it says. It knows no
network. python-tuf is heavy to import, and on a device nothing else imports it.

The clock that expiry is judged by is never behind the day on which this agent was made, nor behind
the newest time that was signed for; a Pi has no battery clock. What was signed for counts up to the
day on which the offline roles expire: a thief of the online keys cannot make these expire for us.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from edge_agent.contract.errors import BundleError, StorageError
from edge_agent.contract.messages import Desired
from edge_agent.contract.release import ISSUED
from edge_agent.update.bounds import bound
from edge_agent.update.disk import Disk
from edge_agent.update.trust.mark import Mark, read_mark, write_mark
from edge_agent.update.trust.protocol import ABSENT, LENGTH, Answer, Ask
from edge_agent.update.trust.resolve import Target, resolve

MADE: Final = datetime(2026, 11, 27, tzinfo=UTC)
"""No clock of a device that runs this agent is before this day; moved with every release."""

_URL: Final = "edge:/"
_NOT_FOUND: Final = 404


class Piped(FetcherInterface):
    """Fetches by asking whoever started this process.

    Args:
        get: gives a file's content by its name, or None.
    """

    def __init__(self, get: Callable[[str], bytes | None]) -> None:
        self._get = get

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(_URL)
        data = self._get(name)
        if data is None:
            raise DownloadHTTPError(f"there is no {name}", _NOT_FOUND)
        return iter([data])


def main() -> None:
    """Answer the question on standard input."""
    source, sink = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not stand in the answer
    ask = msgspec.json.decode(source.readline(), type=Ask)
    bound(ask.seconds, ask.bytes_max)

    def get(name: str) -> bytes | None:
        sink.write(msgspec.json.encode({"want": name}) + b"\n")
        sink.flush()
        (length,) = LENGTH.unpack(source.read(LENGTH.size))
        return None if length == ABSENT else source.read(length)

    sink.write(msgspec.json.encode(answer(ask, get)) + b"\n")
    sink.flush()


def answer(ask: Ask, get: Callable[[str], bytes | None]) -> Answer:
    """Bring the metadata up to date and look up what the device is to run."""
    folder, disk = Path(ask.folder), Disk()
    try:
        root = Path(ask.root).read_bytes()
        updater = refresh(
            folder / "metadata", folder / "mark.json", root=root, get=get, now=ask.now, disk=disk
        )
        found = _resolved(updater, ask)
        sync(folder, disk)
    except ExpiredMetadataError as exc:
        reason = f"{exc}: edge-fleet refresh or keys renew mends it, or the clock of this device"
        return Answer(ok=False, later=True, reason=reason)
    except DownloadError as exc:
        return Answer(ok=False, later=True, reason=f"the signed metadata are not whole: {exc}")
    except RepositoryError as exc:
        return Answer(ok=False, reason=f"the signed metadata cannot be trusted: {exc}")
    except (RollbackError, StorageError) as exc:
        return Answer(ok=False, reason=str(exc))
    except OSError as exc:
        return Answer(ok=False, later=True, reason=f"{exc.filename}: {exc.strerror}")
    return found


class RollbackError(BundleError):
    """The metadata are older than what was trusted before."""


def refresh(
    cache: Path,
    mark_path: Path,
    *,
    root: bytes,
    get: Callable[[str], bytes | None],
    now: float,
    url: str = _URL,
    made: datetime = MADE,
    disk: Disk | None = None,
) -> Updater:
    """An updater whose metadata are verified, current, and not below the mark, which is raised.

    Args:
        cache: folder for python-tuf's files; made when absent.
        mark_path: where the mark is.
        root: the root metadata that the device was provisioned with.
        get: gives files by name.
        now: seconds since 1970 by the device's clock.
        url: what names begin with, and python-tuf needs; ``get`` sees the rest.
        made: no clock is before this day.
        disk: the file operations; python-tuf's own go past it, and are synced here.

    Raises:
        RepositoryError, DownloadError: of python-tuf.
        RollbackError: they are older than what was trusted before.
        StorageError: the mark cannot be read or written.
    """
    disk = disk or Disk()
    for folder in dict.fromkeys((mark_path.parent, cache)):
        disk.make_folder(folder)
        disk.sync(folder.parent)  # or a power cut could take the mark with its folder
    mark = read_mark(mark_path)
    try:
        updater = _refreshed(cache, root, get, url, floor(now, mark.issued, made))
    except ExpiredMetadataError:
        if keys_of(Metadata[Root].from_file(str(cache / "root.json")).signed) == mark.keys:
            raise
        updater = _refreshed(
            cache, root, get, url, floor(now, 0.0, made)
        )  # the time was that of other keys
    seen = seen_in(cache)
    if fault := mark.rollback(seen):
        raise RollbackError(f"an older release is offered: {fault}")
    sync(cache, disk)
    raised = mark.raised(seen)
    if raised != mark:
        write_mark(mark_path, raised, disk)
    return updater


def _refreshed(
    cache: Path, root: bytes, get: Callable[[str], bytes | None], url: str, at: datetime
) -> Updater:
    updater = Updater(str(cache), url, fetcher=Piped(get), bootstrap=root)
    # There is no public way to say what time it is.
    updater._trusted_set.reference_time = at  # noqa: SLF001 (see above)
    updater.refresh()
    return updater


def keys_of(root: Root) -> str:
    """A name for the keys that sign timestamp and snapshot."""
    online = [root.roles[name] for name in (Timestamp.type, Snapshot.type)]
    keys = "/".join(f"{role.threshold}:{','.join(sorted(role.keyids))}" for role in online)
    return sha256(keys.encode()).hexdigest()[:16]


def floor(now: float, issued: float, made: datetime = MADE) -> datetime:
    """The time to judge expiry by, for a device whose clock says ``now``."""
    return max(made, datetime.fromtimestamp(max(now, issued, 0.0), UTC))


def seen_in(cache: Path) -> Mark:
    """The versions of the metadata that python-tuf has verified and kept."""
    root = Metadata[Root].from_file(str(cache / "root.json")).signed
    timestamp = Metadata[Timestamp].from_file(str(cache / "timestamp.json")).signed
    snapshot = Metadata[Snapshot].from_file(str(cache / "snapshot.json")).signed
    targets = Metadata[Targets].from_file(str(cache / "targets.json")).signed
    issued = timestamp.unrecognized_fields.get(ISSUED, 0.0)
    latest = min(root.expires, targets.expires).timestamp() - 1  # expired is from that second on
    return Mark(
        root=root.version,
        keys=keys_of(root),
        timestamp=timestamp.version,
        snapshot=snapshot.version,
        roles={name: file.version for name, file in snapshot.meta.items()},
        issued=min(issued, latest) if isinstance(issued, int | float) else 0.0,
    )


def sync(folder: Path, disk: Disk) -> None:
    """Make everything in a folder durable: python-tuf does not."""
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink():
            disk.sync(path)
    disk.sync(folder)


def _resolved(updater: Updater, ask: Ask) -> Answer:
    desired, refused = dict[str, Desired](), dict[str, str]()
    for model in ask.models:
        try:
            found = resolve(_finder(updater), device=ask.device, groups=ask.groups, model=model)
        except BundleError as exc:
            refused[model] = str(exc)
            continue
        if found is not None:
            desired[model] = found
    return Answer(ok=True, desired=desired, refused=refused)


def _finder(updater: Updater) -> Callable[[str], Target | None]:
    def find(path: str) -> Target | None:
        info = updater.get_targetinfo(path)
        if info is None:
            return None
        return Target(info.length, info.hashes.get("sha256", ""), info.custom or {})

    return find


if __name__ == "__main__":
    main()
