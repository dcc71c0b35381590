"""What the tests of sources share."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from edge_agent.sources.base import Source

NAN = float("nan")
DEADLINE_S = 20.0


def rows_of(
    source: Source, channels: int, *, block: int = 3, most: int = 10_000
) -> list[list[float]]:
    """All readings until the end, at most ``most``, as float64 lists."""
    out = np.empty((block, channels), np.float32)
    rows: list[list[float]] = []
    try:
        while len(rows) < most:
            rows += out[: source.read(out)].tolist()
    except EOFError:
        pass
    return rows


def assert_rows(got: list[list[float]], want: list[list[float]]) -> None:
    assert len(got) == len(want)
    np.testing.assert_array_equal(np.float32(got), np.float32(want))


def until(holds: Callable[[], bool]) -> None:
    """Poll until it holds; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.005)
