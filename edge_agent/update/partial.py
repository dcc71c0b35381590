"""A payload on its way to disk: what has arrived, what is missing, resumed exactly after a kill.

::

    partial/SHA256/index-N    index blobs
    partial/SHA256/data       the payload, its full size reserved at once

There is no list of what has arrived: on resuming every chunk is hashed, which no kill or power cut
can lie about. A kill costs no chunk that was written, a power cut those since the last sync.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from edge_agent.contract.chunks import chunk_list
from edge_agent.contract.errors import BundleError, StorageError
from edge_agent.contract.messages import Desired
from edge_agent.contract.release import Payload
from edge_agent.contract.topics import CHUNK_BYTES
from edge_agent.update.disk import Disk, DiskFile, storage
from edge_agent.update.ways.base import Blob

ROOM_BYTES: Final = 64 * 1024 * 1024
"""What a bundle must leave free on the disk: the outbox shares it."""

_CHUNK_BYTES_MIN: Final = 256  # keeps a chunk list below an eighth of its bundle
_DIGEST_BYTES: Final = 32
_FRAME_BYTES: Final = 1024  # that compression may add to what cannot be compressed


def announced_fault(desired: Desired, bytes_max: int) -> str | None:
    """Why the announced sizes must not even be tried; None when they are sound."""
    if desired.bytes > bytes_max:
        return (
            f"the bundle has {desired.bytes} bytes, update.bundle_bytes_max allows {bytes_max}: "
            "raise it, or publish a smaller bundle"
        )
    faults = (_payload_fault(payload, desired.bytes) for payload in desired.payloads)
    return next(filter(None, faults), None)


def _payload_fault(payload: Payload, bundle_bytes: int) -> str | None:
    if not _CHUNK_BYTES_MIN <= payload.chunk_bytes <= CHUNK_BYTES:
        return (
            f"chunks of {payload.chunk_bytes} bytes are announced, "
            f"{_CHUNK_BYTES_MIN} to {CHUNK_BYTES} are allowed: publish the bundle again"
        )
    if payload.bytes > bundle_bytes + bundle_bytes // 64 + _FRAME_BYTES:
        return (
            f"a payload of {payload.bytes} bytes is announced for a bundle of {bundle_bytes}: "
            "publish the bundle again"
        )
    list_bytes = -(-payload.bytes // payload.chunk_bytes) * _DIGEST_BYTES
    if len(payload.index) != -(-list_bytes // CHUNK_BYTES):
        return (
            f"{len(payload.index)} index blobs are announced for a chunk list of {list_bytes} "
            "bytes: publish the bundle again"
        )
    return None


class WrongBlobError(BundleError):
    """An answer without the announced digest; another one may be right."""


class Partial:
    """The folder of one payload. One thread.

    Args:
        folder: made when absent; what it holds already is checked and used.
        payload: without an :func:`announced_fault`.
        disk: the file operations.
        room_bytes: what the payload must leave free on the disk.

    Attributes:
        missing: digests of the blobs to fetch next, with a name for messages: the index blobs;
            when all are there, the chunks; when all are there, none.

    Raises:
        StorageError: the disk refused, or has no room for the payload.
        BundleError: the index does not fit the announced size.
    """

    def __init__(
        self,
        folder: Path,
        payload: Payload,
        *,
        disk: Disk | None = None,
        room_bytes: int = ROOM_BYTES,
    ) -> None:
        self._folder, self._payload, self._disk = folder, payload, disk or Disk()
        self._room_bytes = room_bytes
        self._index: dict[str, bytes] = {}
        self._places: dict[str, list[int]] = {}
        self._unsynced = False
        self._data: DiskFile | None = None  # open when the index is there
        self.missing: dict[str, str] = {}
        self._disk.make_folder(folder)
        self._disk.sync(folder.parent)  # or a power cut could take it with what is synced in it
        for number, digest in enumerate(payload.index):
            if not self._resume_index(number, digest):
                self.missing[digest] = f"index blob {number}"
        if not self.missing:
            self._open_data()

    @property
    def file(self) -> Path:
        """The payload; whole once :attr:`complete`."""
        return self._folder / "data"

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return self._data is not None and not self.missing

    @property
    def chunks(self) -> int:
        """How many chunks the payload has."""
        return -(-self._payload.bytes // self._payload.chunk_bytes)

    def want(self, digest: str) -> Blob:
        """How to ask for a missing blob."""
        places = self._places.get(digest)
        if places is None:
            number = self._payload.index.index(digest)
            left = self.chunks * _DIGEST_BYTES - number * CHUNK_BYTES
            return Blob(digest, "", 0, min(CHUNK_BYTES, left))
        offset = places[0] * self._payload.chunk_bytes
        return Blob(digest, self._payload.sha256, offset, self._size(places[0]))

    def put(self, digest: str, content: bytes) -> None:
        """Take a blob in; one that is not missing is ignored.

        Raises:
            WrongBlobError: not the blob with this digest.
            BundleError: it cannot belong there: the bundle contradicts itself.
            StorageError: the disk refused; the blob stays missing.
        """
        if (name := self.missing.get(digest)) is None:
            return
        if hashlib.sha256(content).hexdigest() != digest:
            raise WrongBlobError(f"{name} does not have the announced digest {digest[:12]}…")
        if digest in self._places:
            self._put_chunk(digest, content)
        else:
            self._put_index(digest, content)

    def sync(self) -> None:
        """Make what has arrived durable; what is complete is so already.

        Raises:
            StorageError: the disk refused.
        """
        if self._unsynced and self._data:
            self._data.sync()
            self._unsynced = False

    def close(self) -> None:
        """Let the file go, without a sync. May be called twice."""
        if self._data:
            self._data.close()
            self._data = None

    def _put_chunk(self, digest: str, content: bytes) -> None:
        assert self._data is not None, "the index is there"
        for place in self._places[digest]:
            if len(content) != self._size(place):
                raise BundleError(
                    f"chunk {place} has {len(content)} bytes, {self._size(place)} belong there"
                )
            self._data.write(place * self._payload.chunk_bytes, content)
        del self.missing[digest]
        self._unsynced = True
        if not self.missing:
            self.sync()

    def _put_index(self, digest: str, content: bytes) -> None:
        for number, wanted in enumerate(self._payload.index):
            if wanted == digest:
                # Not durable: one that a power cut spoils shows by its digest, and comes again.
                self._disk.write(self._folder / f"index-{number}", content)
        self._index[digest] = content
        del self.missing[digest]
        if not self.missing:
            self._open_data()

    def _resume_index(self, number: int, digest: str) -> bool:
        path = self._folder / f"index-{number}"
        if path.exists():
            with storage(path):
                content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == digest:
                self._index[digest] = content
        return digest in self._index

    def _open_data(self) -> None:
        """Reserve the whole size, then find out which chunks a run before has left."""
        digests = chunk_list(self._payload, [self._index[d] for d in self._payload.index])
        for place, digest in enumerate(digests):
            self._places.setdefault(digest, []).append(place)
        self._data = self._disk.open(self.file)
        try:
            self._resume_data(self._data)
        except StorageError:
            self.close()
            raise

    def _resume_data(self, data: DiskFile) -> None:
        self._require_room(data)
        is_new = data.size == 0
        data.reserve(self._payload.bytes)
        if is_new:
            self._disk.sync(self._folder)  # so that what is complete is also there
        for digest, places in self._places.items():
            for place in places:
                if is_new or not self._holds(data, place, digest):
                    self.missing.setdefault(digest, f"chunk {place}")

    def _require_room(self, data: DiskFile) -> None:
        """Asked beforehand: an allocation that fails leaves the disk full for everybody."""
        free = data.free_bytes
        needed = self._payload.bytes - data.taken_bytes + self._room_bytes
        if free < needed:
            raise StorageError(
                f"{self.file}: {free} bytes are free, the update and what must stay free for "
                f"the records need {needed}: make room, and it goes on by itself"
            )

    def _holds(self, data: DiskFile, place: int, digest: str) -> bool:
        content = data.read(place * self._payload.chunk_bytes, self._size(place))
        return hashlib.sha256(content).hexdigest() == digest

    def _size(self, place: int) -> int:
        whole = self._payload.chunk_bytes
        return min(whole, self._payload.bytes - place * whole)
