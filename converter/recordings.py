"""Recordings in CSV or NPZ files, every fault named by its line and column, or its index."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.recipe import DataRecipe
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

Text = NDArray[np.str_]

_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_FIX: Final = "fill the gap or leave the line out"


@dataclass(frozen=True)
class Readings:
    """Recordings, one after the other.

    Attributes:
        values: float32 (readings, channels), all finite.
        truth: text (readings, label columns); None without a label.
        bounds: recording i is ``values[bounds[i]:bounds[i + 1]]``.
        places: (readings,) where each reading stands in the file.
        unit: what ``places`` counts: ``line`` (from 1), ``reading`` or ``window`` (from 0).
        classes: names that whole-number labels are an index into; mostly empty.
    """

    values: F32
    truth: Text | None
    bounds: Sequence[int]
    places: NDArray[np.int64]
    unit: str
    classes: tuple[str, ...] = ()


def read_recordings(data: DataRecipe, names: Sequence[str], length: int) -> Readings:
    """Read a CSV or NPZ file.

    Args:
        data: which file, and what is where in it.
        names: of the channels.
        length: readings in a window, for files of ready windows: each is a recording.

    Raises:
        ConfigError: unreadable, wrong shapes, or values that are not finite numbers; says where.
    """
    path = Path(data.path)
    if path.suffix.lower() == ".csv":
        return _read_csv(path, data, names)
    return _read_npz(path, data, len(names), length)


# --- CSV -----------------------------------------------------------------------------------------


def _read_csv(path: Path, data: DataRecipe, names: Sequence[str]) -> Readings:
    """Every line of a CSV file; a wrong cell is named by line and column."""
    values: list[list[float]] = []
    truth: list[list[str]] = []
    places: list[int] = []
    bounds: list[int] = []
    recording: str | None = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            channels = _columns(path, header, names)
            labels = _columns(path, header, data.label_columns)
            (split,) = _columns(path, header, (data.recording,)) if data.recording else (None,)
            for row in rows:
                where = f"{path}:{rows.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    raise ConfigError(f"{where}: {len(row)} cells, the header has {len(header)}")
                if not bounds or (split is not None and row[split] != recording):
                    bounds.append(len(values))
                    recording = row[split] if split is not None else None
                values.append([_number(where, header[at], row[at]) for at in channels])
                truth.append([_filled(where, header[at], row[at]) for at in labels])
                places.append(rows.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ConfigError(f"{path}: cannot be read as UTF-8 CSV: {exc}") from exc
    return Readings(
        values=np.asarray(values, np.float32).reshape(-1, len(channels)),
        truth=np.asarray(truth, np.str_).reshape(-1, len(labels)) if labels else None,
        bounds=[*bounds, len(values)],
        places=np.asarray(places, np.int64),
        unit="line",
    )


def _columns(path: Path, header: list[str], names: Sequence[str]) -> list[int]:
    """Where the named columns stand."""
    for name in names:
        if (count := header.count(name)) != 1:
            found = "appears twice" if count else "is missing"
            raise ConfigError(f"{path}:1: column {name!r} {found}; there are {', '.join(header)}")
    return [header.index(name) for name in names]


def _number(where: str, column: str, cell: str) -> float:
    """A cell as a finite number within float32, which is what sensors and models exchange."""
    text = _filled(where, column, cell)
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(f"{where}: column {column!r}: {text!r} is not a number") from None
    if not abs(number) <= _FLOAT32_MAX:
        raise ConfigError(
            f"{where}: column {column!r}: {text} is not a finite float32 number: {_FIX}"
        )
    return number


def _filled(where: str, column: str, cell: str) -> str:
    if text := cell.strip():
        return text
    raise ConfigError(f"{where}: column {column!r} is empty: {_FIX}")


# --- NPZ -----------------------------------------------------------------------------------------


def _read_npz(path: Path, data: DataRecipe, width: int, length: int) -> Readings:
    """Recordings (``signal``) or ready windows (``windows``), never a pickle."""
    arrays, names = _load(path, data)
    classes = tuple(str(name) for name in arrays.get(data.classes, np.empty(0)).ravel())
    if data.windows in arrays:
        windows = _float32(path, data.windows, arrays[data.windows], (length, width))
        values = windows.reshape(-1, width)
        bounds = list(range(0, len(values) + 1, length))
    elif data.signal in arrays:
        values = _float32(path, data.signal, arrays[data.signal], (width,))
        bounds = _bounds(path, data.offsets, arrays.get(data.offsets), len(values))
    else:
        raise ConfigError(
            f"{path}: there is no array {data.signal!r} or {data.windows!r}; there are {names}"
        )
    each = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    rows = {len(bounds) - 1: each, len(values): np.arange(len(values))}
    truth = _truth(path, arrays, data.label_columns, rows)
    if data.windows in arrays:
        return Readings(values, truth, bounds, each, "window", classes)
    return Readings(values, truth, bounds, np.arange(len(values)), "reading", classes)


def _load(path: Path, data: DataRecipe) -> tuple[dict[str, NDArray[Any]], str]:
    """The arrays that a recipe names, and the names of all."""
    wanted = {data.signal, data.offsets, data.windows, data.classes, *data.label_columns}
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name in wanted}
            names = ", ".join(archive.files)
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as exc:
        raise ConfigError(f"{path}: cannot be read as NPZ without pickles: {exc}") from exc
    for label in data.label_columns:
        if label not in arrays:
            raise ConfigError(f"{path}: there is no array {label!r}; there are {names}")
    return arrays, names


def _float32(path: Path, name: str, array: NDArray[Any], shape: tuple[int, ...]) -> F32:
    """A numeric array whose axes after the first are ``shape``, every value finite in float32."""
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape or array.dtype.kind not in "fiub":
        wanted = ", ".join(str(size) for size in shape)
        raise ConfigError(
            f"{path}: array {name!r} is {array.dtype} {array.shape}, the recipe needs numbers "
            f"(count, {wanted}): check window.length and channels"
        )
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, np.float32)
    if (bad := np.argwhere(~np.isfinite(values))).size:
        at = ", ".join(str(index) for index in bad[0])
        raise ConfigError(
            f"{path}: {name}[{at}] is {array[tuple(bad[0])]}, not a finite float32 number "
            f"({len(bad)} such values): fill the gap or leave the reading out"
        )
    return values


def _bounds(path: Path, name: str, offsets: NDArray[Any] | None, readings: int) -> list[int]:
    if offsets is None:
        return [0, readings]
    rising = offsets.ndim == 1 and offsets.dtype.kind in "iu" and (np.diff(offsets) >= 0).all()
    if not rising or len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != readings:
        raise ConfigError(
            f"{path}: array {name!r} must rise from 0 to the number of readings, {readings}"
        )
    return [int(offset) for offset in offsets]


def _truth(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    labels: tuple[str, ...],
    rows: dict[int, NDArray[np.int64]],
) -> Text | None:
    """The label arrays as text, one row for each reading or window.

    ``rows`` says for each length that a label array may have which of its values belongs to each
    row.
    """
    columns: list[Text] = []
    for name in labels:
        array = arrays[name]
        if array.ndim not in {1, 2} or len(array) not in rows or array.dtype.kind not in "fiubUS":
            raise ConfigError(
                f"{path}: array {name!r} is {array.dtype} {array.shape}, expected one label for "
                f"each of {' or '.join(str(count) for count in rows)}"
            )
        text = array.astype(np.str_).reshape(len(array), -1)
        columns.append(text[rows[len(array)]])
    return np.concatenate(columns, axis=1) if columns else None
