"""The bundle file: a ZIP whose members are stored, not compressed, in a fixed order.

Stored members keep the file readable with ordinary tools, make the same inputs give the same
bytes, and leave a hostile file nothing to inflate. Members are read by their known names into
memory; nothing is ever unpacked to a path that the file names. Newer bundles may have further
members, but no member may name anything else than a plain file.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import Final

import msgspec

from edge_agent import __version__
from edge_agent.contract.errors import BundleError
from edge_agent.contract.manifest import FileEntry, Manifest, decode_manifest, encode_manifest

MANIFEST: Final = "manifest.json"
MEMBERS: Final = ("model.onnx", "golden.npz", "reference.json", "report.json")
MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time that ZIP can express


class Bundle(msgspec.Struct, frozen=True):
    """A bundle in memory, every digest checked.

    Attributes:
        manifest: what the bundle says of itself.
        digest: lower-case hexadecimal SHA-256 of the whole file, its identity everywhere.
        model: ``model.onnx``; float32 input ``window`` (N, length, channels).
        golden: ``golden.npz``, see :class:`~.manifest.Golden`.
        reference: ``reference.json``, histograms of features and scores on the validation data.
        report: ``report.json``, everything that the HTML report shows.
    """

    manifest: Manifest
    digest: str
    model: bytes
    golden: bytes
    reference: bytes
    report: bytes


def read_bundle(path: Path) -> Bundle:
    """Read and check a bundle file.

    Raises:
        BundleError: unreadable, not a bundle, damaged, of a newer schema, or for a newer agent.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise BundleError(f"{path}: {exc.strerror}: give the path of a .bundle file") from exc
    try:
        return parse_bundle(data)
    except BundleError as exc:
        raise BundleError(f"{path}: {exc}") from exc


def parse_bundle(data: bytes) -> Bundle:
    """Check the bytes of a bundle file; see :func:`read_bundle`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _require_plain(archive)
            manifest = decode_manifest(_member(archive, MANIFEST, MANIFEST_BYTES_MAX))
            _require_agent(manifest.agent_min)
            members = [_checked(archive, name, manifest.files.get(name)) for name in MEMBERS]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as exc:
        raise BundleError(f"not a bundle: {exc}") from exc
    return Bundle(manifest, hashlib.sha256(data).hexdigest(), *members)


def pack_bundle(manifest: Manifest, members: dict[str, bytes]) -> bytes:
    """The bytes of a bundle file: deterministic, with ``manifest.files`` filled in from members.

    Args:
        manifest: its ``files`` is replaced.
        members: exactly the names in :data:`MEMBERS`.

    Raises:
        BundleError: a member is missing or unknown, or the manifest contradicts itself.
    """
    if set(members) != set(MEMBERS):
        raise BundleError(f"a bundle holds exactly {', '.join(MEMBERS)}")
    files = {
        name: FileEntry(bytes=len(members[name]), sha256=hashlib.sha256(members[name]).hexdigest())
        for name in MEMBERS
    }
    manifest = msgspec.structs.replace(manifest, files=files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        contents = {MANIFEST: encode_manifest(manifest), **members}
        for name in (MANIFEST, *MEMBERS):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, contents[name])
    return buffer.getvalue()


def write_bundle(path: Path, data: bytes, *, private: bool = False) -> None:
    """Put a bundle in place whole or not at all: temporary file, fsync, rename, fsync of folder.

    Args:
        path: of the file.
        data: all of it.
        private: let its owner alone read it.

    Raises:
        BundleError: the disk refused.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        handle = os.open(temporary, flags, 0o600 if private else 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise BundleError(f"{path}: cannot be written: {exc.strerror}") from exc


def _checked(archive: zipfile.ZipFile, name: str, entry: FileEntry | None) -> bytes:
    """One member whose size and digest are those of the manifest."""
    if entry is None:
        raise BundleError(f"the manifest does not list {name}")
    content = _member(archive, name, entry.bytes)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleError(f"{name} does not have the digest that the manifest states")
    return content


def _member(archive: zipfile.ZipFile, name: str, bytes_max: int) -> bytes:
    """One stored member of at most ``bytes_max`` bytes."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise BundleError(f"{name} is missing") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise BundleError(f"{name} is compressed: the members of a bundle are stored")
    if info.file_size > bytes_max:
        raise BundleError(f"{name} has {info.file_size} bytes, {bytes_max} are allowed")
    return archive.read(info)


def _require_plain(archive: zipfile.ZipFile) -> None:
    """Refuse what an unpacking tool would write outside its folder, or twice."""
    names = set[str]()
    for info in archive.infolist():
        name = info.filename
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not _PLAIN.fullmatch(name) or kind not in (0, stat.S_IFREG):
            raise BundleError(f"the member {name[:80]!r} is no plain file in the bundle's folder")
        if name in names:
            raise BundleError(f"the member {name!r} occurs twice")
        names.add(name)


def _require_agent(agent_min: str) -> None:
    """Refuse a bundle that names a newer agent than this one."""
    if _numbers(agent_min) > _numbers(__version__):
        raise BundleError(
            f"the bundle needs agent {agent_min} or newer, this is {__version__}: update it first"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """``"1.12.0"`` as (1, 12, 0)."""
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        raise BundleError(f"agent_min {version!r} is not a version such as 1.2.0") from None
