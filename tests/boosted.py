"""Data and checks for the boosting libraries' frontends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx_runs import assert_same_answers

from converter.forms.compact import compact
from converter.frontends import Imported, import_model

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
TREES = {"TreeEnsembleRegressor", "TreeEnsemble"}


def readings(*, missing=False):
    """800 rows: a category code from 0 to 39, and three numbers that often repeat; 3 classes."""
    rng = np.random.default_rng(0)
    x = np.c_[rng.integers(0, 40, 800), rng.normal(size=(800, 3)).round(1)].astype(np.float32)
    y = ((x[:, 0] % 3) + (x[:, 1] > 0)).astype(np.int64) % 3
    if missing:
        x[:, 1:][rng.random((800, 3)) < 0.1] = np.nan
    return x, y


def at_cuts(x, cuts):
    """The rows, and rows whose numbers are at, just above and just below each cut."""
    cuts = np.unique(np.clip(cuts, -1e30, 1e30).astype(np.float32))
    above, below = np.nextafter(cuts, np.float32(np.inf)), np.nextafter(cuts, np.float32(-np.inf))
    extra = np.resize(x, (3 * len(cuts), x.shape[1])).copy()
    extra[:, 1:] = np.concatenate([cuts, above, below])[:, None]
    return np.concatenate([x, extra])


def load(path, x, **options):
    """The model of a file whose inputs are the columns of ``x``."""
    names = tuple(f"c{at}" for at in range(x.shape[1]))
    return import_model(path, **{"length": 1, "channels": names, "rate_hz": 1.0, **options})


def assert_answers(imported: Imported, x, **tolerance):
    """Equal labels and close scores on every row, as one tree node, compacted or not."""
    assert sum(node.op_type in TREES for node in imported.graph.graph.node) == 1
    for graph in (imported.graph, compact(imported.graph)):
        assert_same_answers(replace(imported, graph=graph), x[:, None, :], **tolerance)
