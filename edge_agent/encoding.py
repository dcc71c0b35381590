"""The forms in which a bundle travels: compressed, or as what differs from one that is there.

The only importer of zstd, whose calls release the GIL; imported where an update needs it.

A frame from outside may claim anything: its window is bounded, so that a small device can hold it,
and it is read piece by piece up to the size that was signed for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from edge_agent.contract.errors import BundleError
from edge_agent.contract.release import Encoding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DELTA_SHARE_MAX: Final = 0.7
"""Of the compressed whole: a larger delta is not worth its chance to fail."""

BASE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bundles beyond this travel whole: a device would need twice as much memory for a delta."""

_LEVEL: Final = 19
_WINDOW_LOG: Final = 22  # 4 MiB: what a device needs to unpack a whole
_DELTA_WINDOW_LOG: Final = 27  # the base and the bundle must fit into it
_PIECE: Final = 1024 * 1024
_Options = zstd.CompressionParameter
_Limits = zstd.DecompressionParameter


def compress(data: bytes) -> bytes:
    """The payload of encoding ``zstd``."""
    return zstd.compress(data, options=_options(_WINDOW_LOG))


def smallest_delta(data: bytes, base: bytes, whole_bytes: int) -> tuple[Encoding, bytes] | None:
    """The smallest payload that starts from another bundle, if it is worth it.

    Args:
        data: the bundle.
        base: the bundle that devices have.
        whole_bytes: size of the compressed whole.
    """
    if max(len(data), len(base)) > BASE_BYTES_MAX:
        return None
    prefix = zstd.ZstdDict(base, is_raw=True).as_prefix
    found: list[tuple[Encoding, bytes]] = [
        ("zstd-prefix", zstd.compress(data, options=_options(_DELTA_WINDOW_LOG), zstd_dict=prefix))
    ]
    if len(data) == len(base):
        difference = np.frombuffer(data, np.uint8) - np.frombuffer(base, np.uint8)
        found.append(("subtract", compress(difference.tobytes())))
    encoding, payload = min(found, key=lambda pair: len(pair[1]))
    return (encoding, payload) if len(payload) < DELTA_SHARE_MAX * whole_bytes else None


def unpack(encoding: Encoding, source: Path, *, base: Path | None, size: int) -> Iterator[bytes]:
    """The bundle that a payload stands for, in pieces; its digest is for the caller to check.

    Args:
        encoding: of the payload.
        source: the payload.
        base: the bundle that the payload starts from, where it does.
        size: bytes of the bundle, as signed.

    Raises:
        BundleError: the payload is damaged, or does not give so many bytes.
        OSError: a file cannot be read.
    """
    written = 0
    with ExitStack() as stack:
        payload = stack.enter_context(source.open("rb"))
        start = stack.enter_context(base.open("rb")) if base else None
        for piece in _unpacked(encoding, payload, start):
            written += len(piece)
            if written > size:
                raise BundleError(f"the payload unpacks to more than the {size} bytes announced")
            yield piece
    if written != size:
        raise BundleError(f"the payload unpacks to {written} bytes, {size} are announced")


def _unpacked(encoding: Encoding, payload: BinaryIO, base: BinaryIO | None) -> Iterator[bytes]:
    """The bytes of the bundle, piece by piece."""
    if encoding == "raw":
        while piece := payload.read(_PIECE):
            yield piece
        return
    if encoding == "zstd":
        yield from _inflated(payload, _WINDOW_LOG)
        return
    assert base is not None, "whoever chose this payload has its base"
    if encoding == "zstd-prefix":
        yield from _inflated(payload, _DELTA_WINDOW_LOG, base.read(BASE_BYTES_MAX + 1))
        return
    for piece in _inflated(payload, _WINDOW_LOG):
        before = base.read(len(piece))
        if len(before) != len(piece):
            raise BundleError("the bundle that the payload starts from is shorter than it")
        yield (np.frombuffer(piece, np.uint8) + np.frombuffer(before, np.uint8)).tobytes()


def _inflated(payload: BinaryIO, window_log: int, prefix: bytes | None = None) -> Iterator[bytes]:
    options: dict[int, int] = {_Limits.window_log_max: window_log}
    raw = zstd.ZstdDict(prefix, is_raw=True).as_prefix if prefix is not None else None
    unpacker = zstd.ZstdDecompressor(zstd_dict=raw, options=options)
    try:
        while not unpacker.eof:
            packed = payload.read(_PIECE) if unpacker.needs_input else b""
            if unpacker.needs_input and not packed:
                raise BundleError("the payload ends in the middle")
            if piece := unpacker.decompress(packed, max_length=_PIECE):
                yield piece
    except zstd.ZstdError as exc:
        raise BundleError(f"the payload cannot be unpacked: {exc}") from exc
    if unpacker.unused_data or payload.read(1):
        raise BundleError("the payload goes on after its end")


def _options(window_log: int) -> dict[int, int]:
    return {
        _Options.compression_level: _LEVEL,
        _Options.window_log: window_log,
        _Options.enable_long_distance_matching: 1,
        _Options.checksum_flag: 1,
    }
