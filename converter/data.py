"""Validation data: CSV or NPZ files as windows with the truth of each.

Windows are cut as the device cuts them, and none spans two recordings. The truth of a window is
the label of its last reading.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.recipe import DataRecipe
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Channel, WindowSpec

WINDOWS_MIN: Final = 16
WINDOW_BYTES_MAX: Final = 2**30
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)

Text = NDArray[np.str_]


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
    """

    windows: F32
    truth: Text | None
    ends: NDArray[np.int64]
    unit: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Readings:
    """Recordings one after the other: values (readings, channels), bounds as offsets."""

    values: F32
    truth: Text | None
    bounds: Sequence[int]
    places: NDArray[np.int64]
    unit: str
    classes: tuple[str, ...] = ()


def read_validation(
    data: DataRecipe, channels: Sequence[Channel], window: WindowSpec
) -> Validation:
    """Read and check validation data.

    Raises:
        ConfigError: unreadable, wrong shapes, values that are not finite numbers (with the line or
            index), too few windows or too many.
    """
    path = Path(data.path)
    if path.suffix.lower() == ".csv":
        names = [channel.name for channel in channels]
        validation = _cut(_read_csv(path, data, names), window, path)
    else:
        validation = _read_npz(path, data, len(channels), window)
    if len(validation.windows) < WINDOWS_MIN:
        raise ConfigError(
            f"{path}: {len(validation.windows)} windows, at least {WINDOWS_MIN} are needed: give "
            "more recordings or a smaller window.hop"
        )
    return replace(validation, notes=tuple(_notes(validation.windows, channels)))


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """At most ``wanted`` indices that lie evenly over ``range(count)``; always the same ones."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64)


# --- CSV -----------------------------------------------------------------------------------------


def _read_csv(path: Path, data: DataRecipe, names: Sequence[str]) -> _Readings:
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
    return _Readings(
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


_FIX: Final = "fill the gap or leave the line out"


# --- NPZ -----------------------------------------------------------------------------------------


def _read_npz(path: Path, data: DataRecipe, width: int, window: WindowSpec) -> Validation:
    """Recordings (``signal``) or ready windows (``windows``), never a pickle."""
    wanted = {data.signal, data.offsets, data.windows, data.classes, *data.label_columns}
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name in wanted}
            names = ", ".join(archive.files)
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as exc:
        raise ConfigError(f"{path}: cannot be read as NPZ without pickles: {exc}") from exc
    classes = tuple(str(name) for name in arrays.get(data.classes, np.empty(0)).ravel())
    for label in data.label_columns:
        if label not in arrays:
            raise ConfigError(f"{path}: there is no array {label!r}; there are {names}")
    if data.windows in arrays:
        windows = _float32(path, data.windows, arrays[data.windows], (window.length, width))
        count = len(windows)
        truth = _truth(path, arrays, data.label_columns, {count: np.arange(count)})
        return Validation(windows, truth, np.arange(count), "window", classes)
    if data.signal not in arrays:
        raise ConfigError(
            f"{path}: there is no array {data.signal!r} or {data.windows!r}; there are {names}"
        )
    values = _float32(path, data.signal, arrays[data.signal], (width,))
    bounds = _bounds(path, data.offsets, arrays.get(data.offsets), len(values))
    each = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    rows = {len(bounds) - 1: each, len(values): np.arange(len(values))}
    truth = _truth(path, arrays, data.label_columns, rows)
    places = np.arange(len(values))
    readings = _Readings(values, truth, bounds, places, "reading", classes)
    return _cut(readings, window, path)


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


# --- windows -------------------------------------------------------------------------------------


def _cut(readings: _Readings, window: WindowSpec, path: Path) -> Validation:
    """Cut windows as the device does: the first at ``length`` readings, then every ``hop``."""
    length, hop = window.length, window.hop
    pairs = zip(readings.bounds[:-1], readings.bounds[1:], strict=True)
    starts = np.concatenate(
        [np.empty(0, np.int64), *(np.arange(a, b - length + 1, hop) for a, b in pairs)]
    )
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
