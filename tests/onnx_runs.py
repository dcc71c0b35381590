"""Running imported models in the tests of the converter."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from converter.frontends import Imported
from converter.lowering.graph import Graph
from edge_agent.contract.manifest import Output


def run(model, windows):
    """All outputs of a model by name."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"window": windows}), strict=True))


def one_by_one(model, windows):
    """The same, one window at a time, as a device does it."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = [session.run(names, {"window": window[None]}) for window in windows]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}


def labels_of(imported: Imported, outputs):
    """The label of each window by the rules of the manifest."""
    if "label" in outputs:
        return outputs["label"]
    if imported.task == "anomaly":
        return (outputs["scores"][:, 0] > 0).astype(np.int64)
    return outputs["scores"].argmax(axis=1)


def as_graph(step, shape, width):
    """A window transformer alone, as a model."""
    graph = Graph()
    tensor = step.onnx_form(graph, "window")
    output = Output(name="value", role="value", width=width)
    return graph.finish([(output, tensor)], length=shape[0], channels=shape[1])


def assert_same_answers(imported: Imported, windows, *, rtol=2e-5, atol=2e-6):
    """Equal labels on every window, close scores, and no difference between batch sizes."""
    answers = imported.original(windows)
    together, alone = run(imported.graph, windows), one_by_one(imported.graph, windows[:7])
    for name, values in alone.items():
        np.testing.assert_allclose(values, together[name][:7], rtol=1e-5, atol=1e-6)
    scores = together["value" if imported.task == "regression" else "scores"]
    assert scores.shape == answers.scores.shape
    np.testing.assert_allclose(scores, answers.scores, rtol=rtol, atol=atol)
    if answers.labels is not None:
        np.testing.assert_array_equal(labels_of(imported, together), answers.labels)
    assert [output.name for output in imported.outputs] == list(together)
