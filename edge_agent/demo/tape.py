"""What the device is given to see: exercises of one person, one after another, with their truth."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.arrays import F32
from edge_agent.contract.errors import SourceError
from edge_agent.demo.recording import CHANNELS, RATE_HZ, Take

TRUTH_COLUMN = "exercise"

Text = NDArray[np.str_]
Ints = NDArray[np.int64]


class Tape(msgspec.Struct, frozen=True):
    """A recording in memory.

    Attributes:
        rows: float32 (readings, channels).
        truth: (readings,): the exercise.
    """

    rows: F32
    truth: Text

    @property
    def seconds(self) -> float:
        """How long it lasts at its real rate."""
        return len(self.rows) / RATE_HZ

    def due(self, length: int, hop: int) -> Ints:
        """The last reading, from 1, of every window that a device owes a decision."""
        return np.arange(length, len(self.rows) + 1, hop)

    def windows(self, last: Ints, length: int) -> F32:
        """The windows (n, length, channels) that end with these readings, counted from 1."""
        found: F32 = self.rows[last[:, None] - np.arange(length, 0, -1)]
        return found

    def write_csv(self, path: Path) -> None:
        """Write readings and truth; nine digits give every float32 back exactly."""
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow([*CHANNELS, TRUTH_COLUMN])
            for row, exercise in zip(self.rows, self.truth, strict=True):
                table.writerow([*(f"{value:.9g}" for value in row), exercise])


def make_tape(takes: Iterable[Take], subject: int, *, piece_s: float) -> Tape:
    """A piece from the middle of each exercise that somebody did with the right arm.

    Args:
        takes: of everybody.
        subject: whose.
        piece_s: how long each piece is.

    Raises:
        SourceError: a recording is shorter than that.
    """
    count = round(piece_s * RATE_HZ)
    chosen = [take for take in takes if take.subject == subject and take.right]
    if short := [take.exercise for take in chosen if len(take.rows) < count]:
        raise SourceError(f"subject {subject} did {short[0]} for less than {piece_s:g} s")
    pieces = [
        take.rows[(start := (len(take.rows) - count) // 2) : start + count] for take in chosen
    ]
    names = [take.exercise for take in chosen]
    return Tape(np.concatenate(pieces), np.repeat(np.array(names), count))


def cut(takes: Sequence[Take], length: int, hop: int) -> tuple[F32, Text]:
    """Windows (n, length, channels) of whole recordings, and the exercise of each."""
    windows: list[F32] = []
    names: list[str] = []
    for take in takes:
        starts = np.arange(0, len(take.rows) - length + 1, hop)
        windows.append(take.rows[starts[:, None] + np.arange(length)])
        names += [take.exercise] * len(starts)
    return np.concatenate(windows), np.array(names)


def write_npz(takes: Sequence[Take], path: Path) -> None:
    """Write whole recordings as validation data: ``signal``, ``offsets`` and ``label``."""
    arrays: dict[str, NDArray[Any]] = {
        "signal": np.concatenate([take.rows for take in takes]),
        "offsets": np.cumsum([0, *(len(take.rows) for take in takes)]),
        "label": np.array([take.exercise for take in takes]),
    }
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
