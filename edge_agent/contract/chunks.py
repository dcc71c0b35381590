"""How a bundle becomes content-addressed blobs of at most 48 KiB, and back.

The bundle is cut into chunks; the chunk list is the concatenation of their raw SHA-256 digests,
itself cut into index blobs. A desired state names the index blobs; whoever has those knows every
chunk topic and can check every byte that arrives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from edge_agent.contract.errors import BundleError
from edge_agent.contract.messages import Desired
from edge_agent.contract.topics import CHUNK_BYTES

_DIGEST_BYTES = 32


class Cut(msgspec.Struct, frozen=True):
    """A bundle cut into blobs.

    Attributes:
        sha256: of the whole.
        index: digests of the index blobs, in order.
        blobs: every blob once, by digest: index blobs first, then the chunks in order.
    """

    sha256: str
    index: tuple[str, ...]
    blobs: dict[str, bytes]


def cut(data: bytes) -> Cut:
    """Cut the bytes of a bundle into blobs."""
    chunks = {hashlib.sha256(chunk).hexdigest(): chunk for chunk in _pieces(data)}
    digests = b"".join(hashlib.sha256(chunk).digest() for chunk in _pieces(data))
    index = {hashlib.sha256(piece).hexdigest(): piece for piece in _pieces(digests)}
    order = tuple(hashlib.sha256(piece).hexdigest() for piece in _pieces(digests))
    return Cut(hashlib.sha256(data).hexdigest(), order, {**index, **chunks})


def chunk_list(desired: Desired, index_blobs: list[bytes]) -> list[str]:
    """The chunk digests of a bundle, in order, from its index blobs (each already checked).

    Raises:
        BundleError: the list does not have one digest for each chunk of the stated size.
    """
    joined = b"".join(index_blobs)
    expected = -(-desired.bytes // desired.chunk_bytes)
    if len(joined) != expected * _DIGEST_BYTES:
        raise BundleError(
            f"the chunk list has {len(joined)} bytes, {expected} chunks need "
            f"{expected * _DIGEST_BYTES}: publish the bundle again"
        )
    step = range(0, len(joined), _DIGEST_BYTES)
    return [joined[start : start + _DIGEST_BYTES].hex() for start in step]


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
