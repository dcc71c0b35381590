"""Validation data: recordings as windows, with the truth of each.

Windows are cut as the device cuts them, and none spans two recordings. The truth of a window is
the label of its last reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from converter.recipe import DataRecipe
from converter.recordings import Readings, Text, read_recordings
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Channel, WindowSpec

WINDOWS_MIN: Final = 16
WINDOW_BYTES_MAX: Final = 2**30


@dataclass(frozen=True)
class Validation:
    """Validation windows.

    Attributes:
        windows: float32 (n, length, channels), all values finite.
        truth: what the label columns say at the last reading of each window, as written: text
            (n, columns); None without a label.
        ends: (n,) where each window's last reading stands in the file.
        unit: what ``ends`` counts: ``line`` (from 1), ``reading`` or ``window`` (from 0).
        classes: names that whole-number labels are an index into; mostly empty.
        notes: what is odd about the data, as sentences.
        begins: the first window of each recording that has any, rising from 0.
    """

    windows: F32
    truth: Text | None
    ends: NDArray[np.int64]
    unit: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    begins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))


def read_validation(
    data: DataRecipe, channels: Sequence[Channel], window: WindowSpec
) -> Validation:
    """Read and check validation data.

    Raises:
        ConfigError: unreadable, wrong shapes, values that are not finite numbers (with the line or
            index), too few windows or too many.
    """
    path = Path(data.path)
    names = [channel.name for channel in channels]
    validation = _cut(read_recordings(data, names, window.length), window, path)
    if len(validation.windows) < WINDOWS_MIN:
        raise ConfigError(
            f"{path}: {len(validation.windows)} windows, at least {WINDOWS_MIN} are needed: give "
            "more recordings or a smaller window.hop"
        )
    return replace(validation, notes=tuple(_notes(validation.windows, channels)))


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """At most ``wanted`` indices that lie evenly over ``range(count)``; always the same ones."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64)


def _cut(readings: Readings, window: WindowSpec, path: Path) -> Validation:
    """Cut windows as the device does: the first at ``length`` readings, then every ``hop``."""
    length, hop = window.length, window.hop
    pairs = zip(readings.bounds[:-1], readings.bounds[1:], strict=True)
    recordings = [np.arange(a, b - length + 1, hop) for a, b in pairs]
    starts = np.concatenate([np.empty(0, np.int64), *recordings])
    counts = np.array([found.size for found in recordings if found.size], np.int64)
    if (size := starts.size * length * readings.values.shape[1] * 4) > WINDOW_BYTES_MAX:
        raise ConfigError(
            f"{path}: {starts.size} windows would take {size >> 20} MiB of memory, "
            f"{WINDOW_BYTES_MAX >> 20} are allowed: give fewer recordings or a larger window.hop"
        )
    last = starts + length - 1
    return Validation(
        windows=readings.values[starts[:, None] + np.arange(length)],
        truth=None if readings.truth is None else readings.truth[last],
        ends=readings.places[last],
        begins=np.cumsum(counts) - counts,
        unit=readings.unit,
        classes=readings.classes,
    )


def _notes(windows: F32, channels: Sequence[Channel]) -> Iterator[str]:
    """What the author of the recipe should know about the data."""
    for number, channel in enumerate(channels):
        values = windows[:, :, number]
        if values.min() == values.max():
            yield (
                f"Channel {channel.name!r} is {values.flat[0]:g} in every window: nothing says "
                "how the model answers when it moves."
            )
        low = -np.inf if channel.minimum is None else channel.minimum
        high = np.inf if channel.maximum is None else channel.maximum
        if outside := int(((values < low) | (values > high)).any(axis=1).sum()):
            yield (
                f"{outside} of {len(windows)} windows have values of channel {channel.name!r} "
                f"outside its range; the device will treat those as {channel.on_range!r} says."
            )
