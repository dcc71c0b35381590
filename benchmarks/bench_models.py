"""Bundles to measure with, trained on made-up data: latency does not depend on what they mean."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converter import build
from edge_agent.contract.bundle import Bundle, read_bundle

CHANNELS, CLASSES = 6, 4
NAMES: Final = tuple(f"c{number}" for number in range(CHANNELS))
LENGTHS: Final = {"logistic": 16, "mlp": 16, "forest": 16, "cnn": 128}
_WINDOWS: Final = 1200

# The shape of the CNN: windows of 128 readings of 6 values, two convolutions, pooled.
_CNN: Final = """
<ir_version: 9, opset_import: ["": 18]>
cnn (float[N,128,6] window) => (float[N,4] scores) {
    x = Transpose<perm=[0, 2, 1]>(window)
    a = Conv<pads=[2, 2]>(x, w1, b1)
    b = Relu(a)
    c = MaxPool<kernel_shape=[2], strides=[2]>(b)
    d = Conv<pads=[2, 2]>(c, w2, b2)
    e = Relu(d)
    f = GlobalAveragePool(e)
    g = Flatten(f)
    h = Gemm(g, w3, b3)
    scores = Softmax(h)
}
"""
_SKLEARN: Final[dict[str, Callable[[], Any]]] = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
    "mlp": lambda: make_pipeline(StandardScaler(), MLPClassifier((64, 32), max_iter=30)),
    "forest": lambda: RandomForestClassifier(100, random_state=0, n_jobs=1),
}


def bundle_of(name: str) -> Bundle:
    """Train and convert one of :data:`LENGTHS`, hop 1."""
    with tempfile.TemporaryDirectory() as folder:
        return read_bundle(bundle_file(name, Path(folder)))


def bundle_file(name: str, folder: Path) -> Path:
    """The same as a file below ``folder``, which exists."""
    length, chance = LENGTHS[name], np.random.default_rng(0)
    windows = chance.normal(size=(_WINDOWS, length, CHANNELS)).astype(np.float32)
    means = windows[:, :, :CLASSES].mean(axis=1)
    labels = (means + chance.normal(size=means.shape)).argmax(1)
    recipe: dict[str, object] = {
        "name": name,
        "version": "1.0.0",
        "model": "model.onnx" if name == "cnn" else "model.skops",
        "data": {"path": "validation.npz", "label": "label"},
        "rate_hz": 100,
        "window": {"length": length, "hop": 1},
        "channels": [{"name": channel} for channel in NAMES],
        "decide": {"debounce": 10},  # noise makes labels flip: a decision that fires is dearer
    }
    np.savez(folder / "validation.npz", windows=windows[:200], label=labels[:200])
    if name == "cnn":
        recipe["labels"] = [str(label) for label in range(CLASSES)]
        recipe["quantize"] = {"int8": False}
        onnx.save(_cnn(chance), folder / "model.onnx")
    else:
        model = _SKLEARN[name]()
        model.fit(windows.reshape(_WINDOWS, -1), labels)
        skops.io.dump(model, folder / "model.skops")
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return build(folder / "recipe.yaml").bundle


def _cnn(chance: np.random.Generator) -> onnx.ModelProto:
    """The CNN with random weights."""
    model = onnx.parser.parse_model(_CNN)
    shapes = {
        "w1": (16, CHANNELS, 5),
        "b1": (16,),
        "w2": (16, 16, 5),
        "b2": (16,),
        "w3": (16, CLASSES),
        "b3": (CLASSES,),
    }
    for name, shape in shapes.items():
        weights = (chance.normal(size=shape) / 4).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    return model
