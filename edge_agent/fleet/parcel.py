"""What is published, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from edge_agent.contract.chunks import Cut, cut, cut_blobs
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import Desired, Status
from edge_agent.contract.names import name_fault
from edge_agent.contract.release import SCOPE_ALL, Approval, device_path, group_path
from edge_agent.contract.requests import IndexEntry, TrustIndex
from edge_agent.contract.topics import Topics
from edge_agent.fleet.trust.release import make_release

_GROUP_MARK: Final = "group:"
Blobs = dict[str, bytes]  # by digest


class Target(msgspec.Struct, frozen=True):
    """Whom a bundle is for: one device, or every device of a group, or of the whole fleet."""

    name: str
    group: bool

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``DEVICE``, ``group:NAME`` or ``all``; no name can hold a colon.

        Raises:
            ConfigError: not such a name.
        """
        name = text.removeprefix(_GROUP_MARK)
        group = name != text or name == SCOPE_ALL
        if fault := name_fault("group" if group else "device", name):
            raise ConfigError(fault)
        return cls(name, group)

    def addresses(self, status: Status) -> bool:
        """Whether the device with this status is meant."""
        if self.group:
            return self.name == SCOPE_ALL or self.name in status.groups
        return self.name == status.device

    def topic(self, topics: Topics, model: str) -> str:
        """Where the desired state goes."""
        if self.group:
            return topics.desired_for_group(self.name, model)
        return topics.desired_for_device(self.name, model)

    def path(self, model: str) -> str:
        """Where the signed order stands."""
        return (group_path if self.group else device_path)(self.name, model)

    def __str__(self) -> str:
        marked = self.group and self.name != SCOPE_ALL
        return f"{_GROUP_MARK}{self.name}" if marked else self.name


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that is ready to be published.

    Attributes:
        sha256: of the bundle file.
        bytes: size of the bundle file.
        cuts: its payloads, the whole first.
    """

    model: str
    version: str
    sha256: str
    bytes: int
    cuts: tuple[Cut, ...]

    @property
    def blobs(self) -> Blobs:
        """Every blob of every payload, by digest, in the order in which they are put out."""
        return {digest: data for pieces in self.cuts for digest, data in pieces.blobs.items()}

    def desired(self, revision: int, start_within_s: int = 0) -> Desired:
        """The desired state that asks for it."""
        return Desired(
            revision=revision,
            model=self.model,
            version=self.version,
            sha256=self.sha256,
            bytes=self.bytes,
            payloads=tuple(pieces.payload for pieces in self.cuts),
            start_within_s=start_within_s,
        )


def read_parcel(path: Path) -> Parcel:
    """Read, check, compress and cut a bundle file.

    Raises:
        BundleError: see :func:`edge_agent.contract.bundle.read_bundle`.
    """
    release = make_release(path, {})
    return Parcel(
        model=release.manifest.name,
        version=release.manifest.version,
        sha256=release.sha256,
        bytes=len(release.data),
        cuts=tuple(pieces for pieces, _ in release.payloads),
    )


def approved_parcel(sha256: str, size: int, approval: Approval, files: dict[str, bytes]) -> Parcel:
    """The parcel of a bundle that was approved.

    Args:
        sha256: of the bundle.
        size: of the bundle.
        approval: what was signed of it.
        files: its payloads, by digest.
    """
    cuts = tuple(
        cut(files[payload.sha256], payload.encoding, payload.base) for payload in approval.payloads
    )
    return Parcel(
        model=approval.model, version=approval.version, sha256=sha256, bytes=size, cuts=cuts
    )


class TrustFiles(msgspec.Struct, frozen=True):
    """Signed metadata, ready to be published: the index and the blobs that it names."""

    index: TrustIndex
    blobs: dict[str, bytes]


def trust_files(files: dict[str, bytes]) -> TrustFiles:
    """Cut files of metadata, by name, into blobs."""
    entries, blobs = dict[str, IndexEntry](), dict[str, bytes]()
    for name, data in files.items():
        order, pieces = cut_blobs(data)
        entries[name] = IndexEntry(bytes=len(data), blobs=order)
        blobs |= pieces
    return TrustFiles(TrustIndex(files=entries), blobs)
