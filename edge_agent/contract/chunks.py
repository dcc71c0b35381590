"""How a payload becomes content-addressed blobs of at most 48 KiB, and back.

The payload is cut into chunks; the chunk list is the concatenation of their raw SHA-256 digests,
itself cut into index blobs. A payload's description names the index blobs; whoever has those knows
every chunk topic and can check every byte that arrives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from edge_agent.contract.errors import BundleError
from edge_agent.contract.release import Encoding, Payload
from edge_agent.contract.topics import CHUNK_BYTES

_DIGEST_BYTES = 32


class Cut(msgspec.Struct, frozen=True):
    """A payload cut into blobs.

    Attributes:
        payload: what is said of it.
        blobs: every blob once, by digest: index blobs first, then the chunks in order.
    """

    payload: Payload
    blobs: dict[str, bytes]


def cut(data: bytes, encoding: Encoding = "raw", base: str = "") -> Cut:
    """Cut the bytes of a payload into blobs.

    Args:
        data: the payload.
        encoding: how it became what it is.
        base: digest of the bundle that it starts from, if it does.
    """
    index, blobs = cut_blobs(b"".join(hashlib.sha256(chunk).digest() for chunk in _pieces(data)))
    payload = Payload(
        encoding=encoding,
        base=base,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        chunk_bytes=CHUNK_BYTES,
        index=index,
    )
    return Cut(payload, {**blobs, **cut_blobs(data)[1]})


def cut_blobs(data: bytes) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Cut any bytes: the digests of the pieces in order, and every piece once by its digest."""
    order = tuple(hashlib.sha256(piece).hexdigest() for piece in _pieces(data))
    return order, dict(zip(order, _pieces(data), strict=True))


def chunk_list(payload: Payload, index_blobs: list[bytes]) -> list[str]:
    """The chunk digests of a payload, in order, from its index blobs (each already checked).

    Raises:
        BundleError: the list does not have one digest for each chunk of the stated size.
    """
    joined = b"".join(index_blobs)
    expected = -(-payload.bytes // payload.chunk_bytes)
    if len(joined) != expected * _DIGEST_BYTES:
        raise BundleError(
            f"the chunk list has {len(joined)} bytes, {expected} chunks need "
            f"{expected * _DIGEST_BYTES}: publish the bundle again"
        )
    step = range(0, len(joined), _DIGEST_BYTES)
    return [joined[start : start + _DIGEST_BYTES].hex() for start in step]


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
