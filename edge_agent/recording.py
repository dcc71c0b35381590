"""A labelled recording, for :mod:`edge_agent.replay`: readings, their truth, and where to cut."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.arrays import F32
from edge_agent.clock import SystemClock
from edge_agent.contract.errors import SourceError
from edge_agent.contract.manifest import Manifest
from edge_agent.sources.replay import ReplayConfig, ReplaySource

F64 = NDArray[np.float64]

_READ_N = 4096


class Recording(msgspec.Struct, frozen=True):
    """A recording in memory.

    Attributes:
        rows: float32 (readings, channels).
        truth: float64 (readings,): index of the label, or the value for regression; NaN for none.
        spans: first reading and end of each separate recording.
        faults: rows of the file that are not among the readings, by reason.
    """

    rows: F32
    truth: F64
    spans: tuple[tuple[int, int], ...]
    faults: dict[str, int]


def load_recording(
    path: Path, manifest: Manifest, *, labels: str | None = None, array: str = "signal"
) -> Recording:
    """Read a CSV or an NPZ.

    Args:
        path: of the file; its readings are taken as :class:`ReplaySource` takes them.
        manifest: says which channels are wanted, and what the labels mean.
        labels: CSV column or NPZ array of the truth; None for a recording without.
        array: NPZ array of the readings.

    Raises:
        SourceError: the file has not what is asked for.
    """
    config = ReplayConfig(path=str(path.absolute()), array=array)
    names = [channel.name for channel in manifest.channels]
    source = ReplaySource(config, names, base=Path(), clock=SystemClock())
    rows = _read_all(source, len(names))
    spans: tuple[tuple[int, int], ...] = ((0, len(rows)),)
    found: Sequence[Any] = ()
    if path.suffix.lower() == ".csv":
        if labels is not None:
            column = _csv_column(path, labels)
            found = [column[number] for number in source.used]
    else:
        offsets, truths = _npz_extras(path, labels)
        if offsets is not None:
            spans = _spans(path, offsets, len(rows))
        if labels is not None:
            found = _per_reading(f"{path}: {labels!r}", truths, spans, len(rows))
    truth = np.full(len(rows), np.nan)
    if labels is not None:
        truth = _truth(f"{path}: {labels!r}", found, manifest)
    return Recording(rows, truth, spans, source.faults)


def _read_all(source: ReplaySource, channels: int) -> F32:
    """All readings of a recording."""
    parts: list[F32] = []
    source.open()
    try:
        while True:
            block = np.empty((_READ_N, channels), np.float32)
            parts.append(block[: source.read(block)])
    except EOFError:
        return np.concatenate([np.empty((0, channels), np.float32), *parts])
    finally:
        source.close()


def _csv_column(path: Path, name: str) -> list[str]:
    """One column of a CSV that could be read already; "" where a row is too short."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        table = csv.reader(file)
        header = [cell.strip() for cell in next(table, ())]
        if header.count(name) != 1:
            raise SourceError(
                f"{path}: one column {name!r} is needed; its columns are {', '.join(header)}"
            )
        at = header.index(name)
        return [row[at] if at < len(row) else "" for row in table]


def _npz_extras(path: Path, labels: str | None) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """The arrays ``offsets``, if there, and that of the labels, if asked for."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if labels is not None and labels not in arrays:
                raise SourceError(
                    f"{path}: has no array {labels!r}; its arrays are {', '.join(arrays)}"
                )
            offsets = arrays.get("offsets")
            return offsets, arrays[labels] if labels is not None else np.empty(0)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
        raise SourceError(f"{path}: not a usable NPZ file: {exc}") from exc


def _spans(path: Path, offsets: NDArray[Any], readings: int) -> tuple[tuple[int, int], ...]:
    """The recordings that ``offsets`` cuts the readings into."""
    cuts = offsets.tolist() if offsets.ndim == 1 and offsets.dtype.kind in "iu" else []
    if len(cuts) < 2 or cuts[0] != 0 or cuts[-1] != readings or cuts != sorted(cuts):
        raise SourceError(
            f"{path}: 'offsets' must be whole numbers that rise from 0 to {readings}, the readings"
        )
    return tuple(pairwise(cuts))


def _per_reading(
    what: str, truths: NDArray[Any], spans: Sequence[tuple[int, int]], readings: int
) -> Sequence[Any]:
    """One truth for each reading, from that or from one for each recording."""
    if truths.shape == (readings,):
        return list(truths)
    if truths.shape == (len(spans),):
        return list(np.repeat(truths, [end - first for first, end in spans]))
    raise SourceError(
        f"{what} has the shape {truths.shape}; one for each of {readings} readings or "
        f"{len(spans)} recordings is needed"
    )


def _truth(what: str, found: Sequence[Any], manifest: Manifest) -> F64:
    """Labels as indices, by name if all are names, else by index; values as they are."""
    texts = [str(item).strip() for item in found]
    known = {"": np.nan, "nan": np.nan}
    if manifest.labels:
        names = known | {label: float(at) for at, label in enumerate(manifest.labels)}
        if all(text in names for text in texts):
            return np.array([names[text] for text in texts])
    try:
        numbers = np.array([known[t] if t in known else float(t) for t in texts])
    except ValueError as exc:
        raise SourceError(f"{what}: {exc}; {_wanted(manifest)}") from exc
    given = numbers[~np.isnan(numbers)]
    if manifest.labels and not np.isin(given, np.arange(len(manifest.labels))).all():
        strange = sorted(set(given.tolist()) - set(range(len(manifest.labels))))
        raise SourceError(f"{what}: {strange[0]:g} is no label; {_wanted(manifest)}")
    return numbers


def _wanted(manifest: Manifest) -> str:
    if not manifest.labels:
        return "numbers are wanted"
    last = len(manifest.labels) - 1
    return f"the labels are {', '.join(manifest.labels)}, or 0 to {last}"
