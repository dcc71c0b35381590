"""What a bundle is measured on: its golden vectors, or windows of a recording."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edge_agent.arrays import F32
from edge_agent.contract.bench import Input
from edge_agent.contract.bundle import Bundle
from edge_agent.contract.errors import SourceError
from edge_agent.infer import golden_windows
from edge_agent.recording import load_recording

_WINDOWS_N_MAX: Final = 1_024
_WINDOWS_BYTES_MAX: Final = 32 * 1024 * 1024
_ROWS_N_MAX: Final = 100_000


@dataclass(frozen=True)
class Feed:
    """Windows for the engine, and readings for the whole way.

    Attributes:
        windows: float32 (n, length, channels), finite.
        rows: float32 (readings, channels), as a source gives them.
        said: what the result says of them.
    """

    windows: F32
    rows: F32
    said: Input


def feed_of(bundle: Bundle, recording: Path | None, *, array: str = "signal") -> Feed:
    """The golden vectors, or up to 1,024 windows that are spread over a recording.

    Args:
        bundle: says what a window is.
        recording: a CSV whose header names the bundle's channels, or an NPZ; None for none.
        array: of an NPZ: the readings.

    Raises:
        BundleError: the golden vectors do not fit the manifest.
        SourceError: the recording holds no window.
    """
    manifest = bundle.manifest
    if recording is None:
        windows = golden_windows(bundle)
        rows: F32 = windows.reshape(-1, windows.shape[2])
        return _feed("golden", windows, rows)
    tape = load_recording(recording, manifest, array=array)
    length = manifest.window.length
    firsts = [
        at
        for first, end in tape.spans
        for at in range(first, end - length + 1, manifest.window.hop)
    ]
    firsts = [at for at in firsts if np.isfinite(tape.rows[at : at + length]).all()]
    if not firsts:
        raise SourceError(
            f"{recording}: holds no {length} readings in a row without a gap: give a longer one"
        )
    window_bytes = 4 * length * len(manifest.channels)
    n_max = max(1, min(_WINDOWS_N_MAX, _WINDOWS_BYTES_MAX // window_bytes))
    chosen = np.linspace(0, len(firsts) - 1, min(n_max, len(firsts))).astype(int)
    windows = np.stack([tape.rows[firsts[at] : firsts[at] + length] for at in chosen])
    return _feed(recording.name, windows, tape.rows[: max(_ROWS_N_MAX, length)])


def _feed(source: str, windows: F32, rows: F32) -> Feed:
    digest = hashlib.sha256(np.ascontiguousarray(windows, "<f4").tobytes()).hexdigest()
    return Feed(windows, rows, Input(source=source, windows=len(windows), sha256=digest))
