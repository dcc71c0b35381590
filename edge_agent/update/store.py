"""The installed bundles on disk: current and previous of each model, and one pointer file.

::

    FORMAT                        3
    blobs/SHA256.bundle           whole, checked bundles; models may share one
    partial/SHA256/               a payload that is being fetched, see partial.py
    models/NAME.json              the pointer: current, previous, update, refused
    models/NAME.earlier.json      the pointer before, should that one get damaged

Every file is put in place by temporary file, fsync, rename and fsync of the folder; the blob
first, then the pointer. So a power cut at any moment leaves the old or the new model to load.
A process holds a lock on the folder while it changes it: ``edge-agent install`` may run beside
the agent.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge_agent.contract.bundle import Bundle, parse_bundle, read_bundle
from edge_agent.contract.errors import BundleError, StorageError
from edge_agent.contract.manifest import Manifest
from edge_agent.update.disk import Disk, storage
from edge_agent.update.pointer import (
    FORMAT,
    DamagedError,
    Installed,
    Journal,
    Pointer,
    Refusal,
    read_pointer,
    require_known,
)

log = logging.getLogger(__name__)


class Store:
    """The folder. Any thread may call; every change is durable on return.

    Args:
        folder: made when absent; its parent must exist.
        disk: the file operations.

    Attributes:
        disk: the file operations, for what is brought into :meth:`partial`.
        repaired: what was wrong with pointers that were damaged when the store was opened, and
            what was done about it, by model. It has been logged.

    Raises:
        StorageError: unusable, or of a newer format; then nothing is touched.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self._folder = folder
        self.disk = disk or Disk()
        self._blobs, self._models = folder / "blobs", folder / "models"
        self._partial = folder / "partial"
        if (folder / "FORMAT").exists():
            self._migrate()
        elif self._models.exists():
            raise StorageError(f"{folder}: FORMAT is missing: write {FORMAT} into it to go on")
        else:
            self.disk.make_folder(folder)
            self.disk.sync(folder.parent)
            self._write_format()
        for part in (self._blobs, self._partial, self._models):
            self.disk.make_folder(part)
        self.disk.sync(folder)
        faults = {model: self.repair(model) for model in self._names()}
        self.repaired = {model: fault for model, fault in faults.items() if fault}

    def pointer(self, model: str) -> Pointer:
        """What is known of a model; an empty pointer when nothing is.

        Raises:
            StorageError: damaged (see :meth:`repair`), unreadable, or of a newer format.
        """
        path = self._pointer_path(model)
        found = read_pointer(path)
        if found is None and self._earlier_path(model).exists():
            raise DamagedError(f"{path}: the pointer is gone")
        return found or Pointer(model=model)

    def repair(self, model: str) -> str | None:
        """Put the earlier pointer, or an empty one, in the place of a damaged one.

        Returns:
            What was wrong and what was done, logged too; None when nothing was.

        Raises:
            StorageError: unusable, or of a newer format.
        """
        try:
            self.pointer(model)
        except DamagedError as exc:
            with self._locked():
                earlier = self._earlier(model)
                new = earlier or Pointer(model=model)
                self.disk.replace(self._pointer_path(model), msgspec.json.encode(new))
            outcome = "the one before is used" if earlier else "no model until one is installed"
            log.error("%s; %s", exc, outcome)  # noqa: TRY400 (a traceback says nothing about it)
            return f"{exc}; {outcome}"
        return None

    def has(self, sha256: str) -> bool:
        """Whether the bundle lies in the store, undamaged; a damaged one is removed."""
        path = self.path(sha256)
        if not path.exists():
            return False
        with storage(path), path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return True
        log.error("%s is damaged: removed", path)
        self.disk.remove(path)
        return False

    def path(self, sha256: str) -> Path:
        """Where a bundle lies, or would."""
        return self._blobs / f"{sha256}.bundle"

    def partial(self, sha256: str) -> Path:
        """The folder for a payload that is being fetched, or would be, by its digest."""
        return self._partial / sha256

    def forget_partial(self, sha256: str) -> None:
        """Remove what was fetched of a payload, so that it can be fetched anew."""
        folder = self.partial(sha256)
        if folder.exists():
            self.disk.remove_tree(folder)

    def read(self, sha256: str) -> Bundle:
        """Read a bundle and check every byte of it.

        Raises:
            BundleError: missing, damaged, or not for this agent.
        """
        bundle = read_bundle(self.path(sha256))
        if bundle.digest != sha256:
            raise BundleError(f"{self.path(sha256)} is damaged: its digest is not its name")
        return bundle

    def install(self, bundle: Path | bytes) -> Manifest:
        """Make a bundle current by hand; an agent takes it at its next start.

        A desired state that was decided on already does not take it back; a newer one does.
        Nothing is probed here.

        Returns:
            The manifest of what is now current.

        Raises:
            BundleError: not a bundle for this agent.
            StorageError: the disk refused.
        """
        data = bundle if isinstance(bundle, bytes) else _content(bundle)
        parsed = parse_bundle(data)
        name, version = parsed.manifest.name, parsed.manifest.version
        self.repair(name)
        with self._locked():
            old = self.pointer(name)
            self.disk.replace(self.path(parsed.digest), data)
            new = Installed(sha256=parsed.digest, version=version, revision=old.revision)
            self._write(old.committed(new))
            # Not collect(): an agent may be about to take a bundle that no pointer names yet.
            if old.previous and old.previous.sha256 not in self._used():
                self.disk.remove(self.path(old.previous.sha256))
        return parsed.manifest

    def adopt(self, sha256: str, file: Path) -> None:
        """Move a whole, checked bundle file from this file system into the store.

        It stays as long as a pointer names it or :meth:`collect` is told to keep it.
        """
        with self._locked():
            self.disk.sync(file)
            self.disk.rename(file, self.path(sha256))
            self.disk.sync(self._blobs)

    def record(self, model: str, journal: Journal | None) -> None:
        """Note the state of an update before anything acts on it; None when there is none."""
        with self._locked():
            self._write(msgspec.structs.replace(self.pointer(model), update=journal))

    def commit(self, model: str, installed: Installed) -> None:
        """Make a bundle of the store current; what was current becomes previous."""
        with self._locked():
            self._write(self.pointer(model).committed(installed))

    def refuse(self, model: str, refusal: Refusal) -> None:
        """Remember a bundle that must not be tried again for the same revision."""
        with self._locked():
            self._write(self.pointer(model).refusing(refusal))

    def fall_back(self, model: str, refusal: Refusal | None) -> None:
        """Give up the current bundle for the previous one.

        Args:
            model: whose.
            refusal: of the current one when it must not be fetched again; None when it was only
                damaged on this disk, so that it is.
        """
        with self._locked():
            new = self.pointer(model).fallen_back()
            self._write(new.refusing(refusal) if refusal else new)

    def collect(self, keep: Collection[str] = ()) -> None:
        """Remove every bundle and partial that no pointer names, but for ``keep``.

        Args:
            keep: digests of bundles and of payloads that are on their way.

        Only the owner of the running updates may call it: it knows what is on its way.
        """
        with self._locked():
            used = self._used() | set(keep)
            for file in self._blobs.iterdir():
                if file.name.removesuffix(".bundle") not in used:
                    self.disk.remove(file)
            for folder in self._partial.iterdir():
                if folder.name not in keep:
                    self.forget_partial(folder.name)

    def _names(self) -> set[str]:
        """The models that have a pointer, or had one before it got lost."""
        return {file.name.split(".")[0] for file in self._models.glob("[!.]*.json")}

    def _used(self) -> set[str]:
        """Digests that a pointer names, or the earlier one where it is damaged."""
        used: set[str] = set()
        for model in self._names():
            try:
                pointer = self.pointer(model)
            except DamagedError:
                pointer = self._earlier(model) or Pointer(model=model)
            used |= pointer.digests
        return used

    def _write(self, pointer: Pointer) -> None:
        """The pointer before is kept first, so that one of the two is whole at any time."""
        path = self._pointer_path(pointer.model)
        if path.exists():
            with storage(path):
                before = path.read_bytes()
            self.disk.replace(self._earlier_path(pointer.model), before)
        self.disk.replace(path, msgspec.json.encode(pointer))

    def _earlier(self, model: str) -> Pointer | None:
        try:
            return read_pointer(self._earlier_path(model))
        except DamagedError:
            return None

    def _pointer_path(self, model: str) -> Path:
        return self._models / f"{model}.json"

    def _earlier_path(self, model: str) -> Path:
        return self._models / f"{model}.earlier.json"  # a model's name has no dot

    def _migrate(self) -> None:
        """Bring an older store to this format; its pointers are read as they are."""
        path = self._folder / "FORMAT"
        with storage(path):
            text = path.read_text("ascii", "replace").strip()
        if not text.isdigit():
            raise StorageError(f"{path}: {text!r} is not a number: write {FORMAT} to go on")
        require_known(path, int(text))
        if int(text) < FORMAT:
            self._write_format()

    def _write_format(self) -> None:
        self.disk.replace(self._folder / "FORMAT", f"{FORMAT}\n".encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the folder; they hold it for moments only."""
        with storage(self._folder):
            handle = os.open(self._folder, os.O_RDONLY)
        try:
            with storage(self._folder):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise BundleError(f"{path}: {exc.strerror}: give the path of a .bundle file") from exc
