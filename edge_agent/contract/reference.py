"""``reference.json``: how the validation data were distributed, for the device to notice drift."""

from __future__ import annotations

import msgspec

from edge_agent.contract.errors import BundleError


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Counts between rising edges.

    Attributes:
        name: of what was counted.
        edges: inner edges; values equal to an edge belong to the bin above it.
        counts: one more than edges; the first and the last bin are open-ended.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """Distributions on the validation windows.

    Attributes:
        windows: how many there were.
        channels: of the readings, by channel name, in the channel's unit.
        features: of the inputs of the model proper, by feature name.
        scores: of the scores or values that the original model gave.
        labels: how often the original model gave each label.
    """

    windows: int
    channels: tuple[Histogram, ...]
    features: tuple[Histogram, ...]
    scores: tuple[Histogram, ...]
    labels: dict[str, int] = {}


def encode_reference(reference: Reference) -> bytes:
    """Write ``reference.json``."""
    return msgspec.json.encode(reference)


def decode_reference(data: bytes) -> Reference:
    """Read ``reference.json``.

    Raises:
        BundleError: it is none.
    """
    try:
        return msgspec.json.decode(data, type=Reference)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BundleError(f"reference.json: {exc}") from exc
