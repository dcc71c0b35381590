"""What is published, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.chunks import Cut, cut
from edge_agent.contract.errors import BundleError, ConfigError
from edge_agent.contract.messages import Desired, Status
from edge_agent.contract.names import name_fault
from edge_agent.contract.topics import CHUNK_BYTES, Topics

_GROUP_MARK: Final = "group:"


class Target(msgspec.Struct, frozen=True):
    """Whom a bundle is for: one device, or every device of a group."""

    name: str
    group: bool

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``DEVICE`` or ``group:NAME``; neither name can hold a colon.

        Raises:
            ConfigError: not such a name.
        """
        name = text.removeprefix(_GROUP_MARK)
        group = name != text
        if fault := name_fault("group" if group else "device", name):
            raise ConfigError(fault)
        return cls(name, group)

    def addresses(self, status: Status) -> bool:
        """Whether the device with this status is meant."""
        return self.name in status.groups if self.group else self.name == status.device

    def topic(self, topics: Topics, model: str) -> str:
        """Where the desired state goes."""
        if self.group:
            return topics.desired_for_group(self.name, model)
        return topics.desired_for_device(self.name, model)

    def __str__(self) -> str:
        return f"{_GROUP_MARK}{self.name}" if self.group else self.name


class Parcel(msgspec.Struct, frozen=True):
    """A bundle that is ready to be published."""

    model: str
    version: str
    bytes: int
    cut: Cut

    def desired(self, revision: int) -> Desired:
        """The desired state that asks for it."""
        return Desired(
            revision=revision,
            model=self.model,
            version=self.version,
            sha256=self.cut.sha256,
            bytes=self.bytes,
            chunk_bytes=CHUNK_BYTES,
            index=self.cut.index,
        )


def read_parcel(path: Path) -> Parcel:
    """Read, check and cut a bundle file.

    Raises:
        BundleError: see :func:`edge_agent.contract.bundle.read_bundle`.
    """
    bundle = read_bundle(path)
    data = path.read_bytes()
    pieces = cut(data)
    if pieces.sha256 != bundle.digest:
        raise BundleError(f"{path} changed while it was read: publish it again")
    return Parcel(bundle.manifest.name, bundle.manifest.version, len(data), pieces)
