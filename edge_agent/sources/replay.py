"""A recording (CSV or NPZ) as a source, at its own speed or as fast as possible."""

from __future__ import annotations

import csv
import time
import zipfile
import zlib
from array import array
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edge_agent.arrays import F32
from edge_agent.clock import Clock
from edge_agent.contract.errors import SourceError
from edge_agent.settings import Kind
from edge_agent.sources.pace import Pace


class ReplayConfig(Kind, frozen=True, kw_only=True, tag="replay"):
    """Replay a recording.

    Attributes:
        path: ``.csv`` with a header that names the channels, or ``.npz``; relative to the
            configuration file.
        array: for NPZ, the array to read: shape (readings, channels).
        rate_hz: readings per second; None gives them as fast as they are taken.
        loop: begin again at the end, without end.
    """

    path: str
    array: str = "signal"
    rate_hz: Annotated[float, Meta(gt=0)] | None = None
    loop: bool = False


class ReplaySource:
    """Gives the rows of a recording, which it holds in memory as float32 while it is open.

    In a CSV, an empty cell and ``nan`` are missing values; a row with too few or too many cells
    counts as ``malformed`` and one with a cell that is not a number as ``torn``, and both are left
    out. Columns that are not channels are ignored.

    Args:
        config: what the configuration file says.
        channels: names, in the order of a row.
        base: folder that a relative path starts from.
        clock: for the pace.
        sleep: waits for a number of seconds.

    Attributes:
        used: of a CSV that has been opened: for each reading, the number of its row below the
            header, from 0, so that other columns can be matched to the readings.
    """

    def __init__(
        self,
        config: ReplayConfig,
        channels: Sequence[str],
        *,
        base: Path,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config = config
        self._channels = tuple(channels)
        self._path = base / config.path
        self._clock = clock
        self._sleep = sleep
        self._faults = {"torn": 0, "malformed": 0}
        self._rows: F32 = np.empty((0, len(self._channels)), np.float32)
        self.used: array[int] = array("L")
        self._next = 0
        self._pace = Pace(None, clock)

    def open(self) -> None:
        """Load the recording; its first reading is due at once.

        Raises:
            SourceError: no such file, column or array; the message names those that there are.
        """
        match self._path.suffix.lower():
            case ".csv":
                self._rows = self._load_csv()
            case ".npz":
                self._rows = self._load_npz()
            case _:
                raise SourceError(f"{self._path}: a recording is a .csv or an .npz file")
        self._next = 0
        self._pace = Pace(self._config.rate_hz, self._clock, sleep=self._sleep)

    def read(self, out: F32) -> int:
        """Give the readings that are due."""
        if self._next == len(self._rows):
            if not self._config.loop or not len(self._rows):
                raise EOFError(f"{self._path}: the recording has ended")
            self._next = 0
        count = self._pace.take(min(len(out), len(self._rows) - self._next))
        out[:count] = self._rows[self._next : self._next + count]
        self._next += count
        return count

    def close(self) -> None:
        """Let the recording go."""
        self._rows = self._rows[:0].copy()
        self._next = 0

    @property
    def faults(self) -> dict[str, int]:
        """``torn`` and ``malformed`` rows of the CSV file."""
        return dict(self._faults)

    def _load_csv(self) -> F32:
        """The channels' columns as float32 (readings, channels)."""
        try:
            # A damaged byte must cost one cell, not the file.
            with self._path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
                table = csv.reader(file)
                header = [name.strip() for name in next(table, ())]
                columns = [self._column(header, name) for name in self._channels]
                values = self._cells(table, len(header), columns)
        except OSError as exc:
            raise SourceError(f"{self._path}: cannot be read: {exc.strerror}") from exc
        except csv.Error as exc:
            raise SourceError(f"{self._path}: line {table.line_num}: {exc}") from exc
        return np.frombuffer(values, np.float32).reshape(-1, len(columns))

    def _column(self, header: list[str], name: str) -> int:
        if header.count(name) == 1:
            return header.index(name)
        fault = "has no column" if name not in header else "has more than one column"
        raise SourceError(f"{self._path}: {fault} {name!r}; its columns are {', '.join(header)}")

    def _cells(self, table: Any, width: int, columns: list[int]) -> array[float]:
        """The values of the usable rows, one row after another."""
        pick = itemgetter(*columns, columns[0])  # one more, so that one channel gives a tuple too
        channels = len(columns)
        values = array("f")
        self.used = array("L")
        for number, row in enumerate(table):
            if not row:
                continue  # a blank line
            if len(row) != width:
                self._faults["malformed"] += 1
                continue
            cells = pick(row)[:channels]
            try:
                values.extend([float(cell) for cell in cells])
            except ValueError:  # some cell is empty, or not a number
                try:
                    values.extend([float(cell) if cell.strip() else np.nan for cell in cells])
                except ValueError:
                    self._faults["torn"] += 1
                    continue
            self.used.append(number)
        return values

    def _load_npz(self) -> F32:
        """The array as float32 (readings, channels)."""
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                if self._config.array not in arrays:
                    raise SourceError(
                        f"{self._path}: has no array {self._config.array!r}; "
                        f"its arrays are {', '.join(arrays)}"
                    )
                found: NDArray[Any] = arrays[self._config.array]
        except OSError as exc:
            raise SourceError(f"{self._path}: cannot be read: {exc.strerror or exc}") from exc
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
            raise SourceError(f"{self._path}: not a usable NPZ file: {exc}") from exc
        if found.dtype.kind not in "fiub":
            raise SourceError(f"{self._path}: {self._config.array!r} does not hold numbers")
        if found.ndim != 2 or found.shape[1] != len(self._channels):
            raise SourceError(
                f"{self._path}: {self._config.array!r} has the shape {found.shape}, "
                f"(readings, {len(self._channels)}) is needed for {', '.join(self._channels)}"
            )
        with np.errstate(over="ignore"):  # beyond float32 is infinite, counted as missing later
            return found.astype(np.float32)
