"""How blobs and files of signed metadata are named, asked for and answered over a broker."""

from __future__ import annotations

import msgspec

from edge_agent.contract.messages import MESSAGE_SCHEMA, decode


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the signed metadata: the blobs whose concatenation it is."""

    bytes: int
    blobs: tuple[str, ...]


class TrustIndex(msgspec.Struct, frozen=True, kw_only=True):
    """Which blobs make up which file of the signed metadata. Nobody trusts it."""

    schema: int = MESSAGE_SCHEMA
    files: dict[str, IndexEntry]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Things that a device wants, by their paths below a repository.

    Attributes:
        names: ``blob/SHA256`` and ``trust/FILE``, at most 64.
    """

    schema: int = MESSAGE_SCHEMA
    names: tuple[str, ...]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What stands before the bytes of an answer to a :class:`Request`.

    Attributes:
        name: what was asked for.
        part: number of this part, from 0.
        parts: how many there are; 0 says that there is no such thing.
    """

    name: str
    part: int = 0
    parts: int


def encode_part(part: Part, content: bytes) -> bytes:
    """One line of JSON, then the bytes."""
    return msgspec.json.encode(part) + b"\n" + content


def decode_part(data: bytes) -> tuple[Part, bytes]:
    """The inverse of :func:`encode_part`.

    Raises:
        LinkError: it is none.
    """
    head, _, content = data.partition(b"\n")
    return decode(head, Part), content
