"""The forms in which a bundle travels, made once, when it is approved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.chunks import Cut, cut
from edge_agent.contract.errors import BundleError
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.release import Approval
from edge_agent.encoding import compress, smallest_delta


class Release(msgspec.Struct, frozen=True):
    """A bundle and its payloads.

    Attributes:
        manifest: of the bundle.
        sha256: of the bundle file.
        data: the bundle file.
        payloads: its forms, the whole first; descriptions and bytes.
    """

    manifest: Manifest
    sha256: str
    data: bytes
    payloads: tuple[tuple[Cut, bytes], ...]

    @property
    def approval(self) -> Approval:
        """What is signed of it."""
        return Approval(
            model=self.manifest.name,
            version=self.manifest.version,
            payloads=tuple(pieces.payload for pieces, _ in self.payloads),
        )

    @property
    def files(self) -> Iterator[tuple[str, bytes]]:
        """The payloads by their digests."""
        return ((pieces.payload.sha256, data) for pieces, data in self.payloads)


def make_release(path: Path, bases: Mapping[str, bytes]) -> Release:
    """Read and check a bundle, and make its payloads.

    Args:
        path: of the bundle file.
        bases: bundles that devices may have, by digest, for deltas.

    Raises:
        BundleError: see :func:`edge_agent.contract.bundle.read_bundle`.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise BundleError(f"{path}: {exc.strerror}: give the path of a .bundle file") from exc
    try:
        bundle = parse_bundle(data)
    except BundleError as exc:
        raise BundleError(f"{path}: {exc}") from exc
    whole = compress(data)
    payloads = [(cut(whole, "zstd"), whole)]
    for sha256, base in bases.items():
        if sha256 != bundle.digest and (delta := smallest_delta(data, base, len(whole))):
            payloads.append((cut(delta[1], delta[0], sha256), delta[1]))
    return Release(bundle.manifest, bundle.digest, data, tuple(payloads))
