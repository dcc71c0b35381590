"""What signed metadata say of bundles: which ones exist, and which one a device is to run.

The metadata are those of The Update Framework (TUF, https://theupdateframework.io). Nothing is
downloaded under the paths of its targets: all that a device needs stands in their ``custom``.

================================  =================================  ===================
path of the target                signed by                          ``custom``
================================  =================================  ===================
``bundles/all/SHA256``            ``targets``, offline               :class:`Approval`
``bundles/GROUP/SHA256``          ``group-GROUP``, offline           :class:`Approval`
``rollout/device/DEVICE/MODEL``   ``rollout``, online                :class:`Order`
``rollout/group/GROUP/MODEL``     ``rollout``, online                :class:`Order`
``rollout/group/all/MODEL``       ``rollout``, online                :class:`Order`
================================  =================================  ===================

So whoever holds the online keys can only choose among bundles that the offline keys have approved.
Everything here is a value or a pure rule; unknown fields are accepted, senders may be newer.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

import msgspec

from edge_agent.contract.experiment import Experiment
from edge_agent.contract.names import is_sha256, name_fault, version_fault

RELEASE_SCHEMA: Final = 1
EXPERIMENT_SCHEMA: Final = 2
"""Of orders with an experiment: an agent that would not compare must not take them."""

SCOPE_ALL: Final = "all"
"""The scope of bundles that every device may run, and the group to which every device belongs; no
group that is configured may have this name."""

ISSUED: Final = "edge-issued"
"""Signed field of the timestamp: when it was made, in whole seconds since 1970."""

Encoding = Literal["raw", "zstd", "zstd-prefix", "subtract"]
"""How a payload becomes the bundle file.

``raw`` is the file; ``zstd`` its compressed form; ``zstd-prefix`` the same with the base bundle as
the prefix that matches may refer to; ``subtract`` the compressed difference, byte by byte modulo
256, of the base bundle and a file of the same length.
"""


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """One form in which a bundle travels, cut into blobs.

    Attributes:
        encoding: see :data:`Encoding`.
        base: digest of the bundle that ``zstd-prefix`` and ``subtract`` start from; else empty.
        sha256: of the payload, its name where it lies as one file.
        bytes: size of the payload.
        chunk_bytes: size of every chunk but the last.
        index: digests of the blobs whose concatenation is the chunk list: 32 raw bytes a chunk.
    """

    encoding: Encoding
    base: str = ""
    sha256: str
    bytes: int
    chunk_bytes: int
    index: tuple[str, ...]

    @property
    def fault(self) -> str | None:
        """The first contradiction, or None."""
        digests = (self.sha256, *self.index, *((self.base,) if self.base else ()))
        if not all(is_sha256(digest) for digest in digests):
            return "a digest is malformed"
        if self.bytes < 1 or self.chunk_bytes < 1:
            return "bytes and chunk_bytes must be at least 1"
        if bool(self.base) != (self.encoding in ("zstd-prefix", "subtract")):
            return f"the encoding {self.encoding} and the base do not go together"
        return None


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that may be run. Its digest and size are those of the signed target.

    Attributes:
        model: name in the bundle's manifest.
        version: in the bundle's manifest.
        payloads: how it travels; the first needs no base.
        approved: when, in milliseconds since 1970: files of metadata have no order.
    """

    schema: int = RELEASE_SCHEMA
    model: str
    version: str
    payloads: tuple[Payload, ...]
    approved: int = 0


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One approved bundle.

    Attributes:
        scope: where it is approved: ``all``, or a group that the device must belong to.
    """

    sha256: str
    version: str
    scope: str = SCOPE_ALL


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """A share of the devices, the same ones for the same salt.

    Attributes:
        salt: of a rollout, so that it is not always the same devices that go first.
        share_ppm: in millionths: signed JSON has no fractions.
    """

    salt: str
    share_ppm: int

    def holds(self, device: str) -> bool:
        """Whether a device belongs to it; a larger share of the same salt holds it too."""
        return stable_fraction(f"{self.salt}/{device}") * 1_000_000 < self.share_ppm


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Which bundle a model is to run. Of all that apply to a device, the highest revision wins.

    Of equal ones, those of a rollout, the device's own comes first, then those of its groups.

    Attributes:
        revision: rises with every order, but not with the rings of a rollout: a device that has
            obeyed has nothing more to do; milliseconds since 1970.
        choice: for devices inside ``ring``, or for all where there is no ring.
        base: for devices outside ``ring``; None leaves them what they have.
        start_within_s: devices begin at a stable random moment within so many seconds.
        experiment: how ``choice`` is compared with what runs before it may; ``schema`` is 2 then.
    """

    schema: int = RELEASE_SCHEMA
    revision: int
    model: str
    choice: Choice
    ring: Ring | None = None
    base: Choice | None = None
    start_within_s: int = 0
    experiment: Experiment | None = None

    def chosen(self, device: str) -> Choice | None:
        """What one device is to run; None for what it has."""
        return self.choice if self.ring is None or self.ring.holds(device) else self.base

    @property
    def fault(self) -> str | None:
        """The first contradiction, or None."""
        if self.schema > EXPERIMENT_SCHEMA:
            return f"the order has schema {self.schema}: update the agent first"
        if self.revision < 1 or self.start_within_s < 0:
            return "revision must be at least 1, start_within_s at least 0"
        if self.experiment and (fault := self.experiment.fault):
            return f"experiment: {fault}"
        for choice in (self.choice, *((self.base,) if self.base else ())):
            if not is_sha256(choice.sha256):
                return "a digest is malformed"
            if fault := version_fault(choice.version) or name_fault("scope", choice.scope):
                return fault
        return name_fault("model", self.model)


def stable_fraction(key: str) -> float:
    """A number in [0, 1) that is the same for the same key on every machine: SHA-256's top bits."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / (1 << 48)


def bundle_path(scope: str, sha256: str) -> str:
    """The target path of an approved bundle."""
    return f"bundles/{scope}/{sha256}"


def device_path(device: str, model: str) -> str:
    """The target path of the order for one model of one device."""
    return f"rollout/device/{device}/{model}"


def group_path(group: str, model: str) -> str:
    """The target path of the order for one model of every device of a group."""
    return f"rollout/group/{group}/{model}"
