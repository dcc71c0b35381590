"""Scalers in front of a linear layer disappear, and the answers stay."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_runs import run
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

from converter.forms.fold import fold_scalers
from converter.frontends.sklearn import import_estimator
from converter.lowering.graph import Graph
from edge_agent.contract.manifest import Output

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(300, 6)) * [1, 10, 0.1, 5, 1, 1] + [0, 50, 1, 0, -3, 2]).astype(np.float32)
Y = np.digitize(X[:, 0] + X[:, 1] / 10, [4.5, 5.5])


def lowered(*steps):
    model = make_pipeline(*steps).fit(X, Y)
    names = tuple("abcdef")
    return import_estimator(model, length=1, channels=names, rate_hz=1.0).graph


def ops(graph):
    return [node.op_type for node in graph.graph.node]


@pytest.mark.parametrize(
    "scalers",
    [
        (StandardScaler(),),
        (MinMaxScaler(),),
        (MaxAbsScaler(), StandardScaler()),
        (RobustScaler(),),
    ],
    ids=lambda steps: "-".join(type(step).__name__ for step in steps),
)
def test_scalers_of_every_kind_fold(scalers) -> None:
    graph = lowered(*scalers, LogisticRegression(max_iter=500))
    folded = fold_scalers(graph)
    assert ops(folded) == ["Flatten", "Gemm", "Softmax"]
    expected, got = run(graph, X[:, None]), run(folded, X[:, None])
    np.testing.assert_allclose(got["scores"], expected["scores"], atol=2e-5)


def test_only_the_first_layer_of_a_network_changes() -> None:
    graph = lowered(StandardScaler(), MLPClassifier((8,), max_iter=50, random_state=0))
    before = graph.SerializeToString()
    folded = fold_scalers(graph)
    assert ops(folded) == ["Flatten", "Gemm", "Relu", "Gemm", "Softmax"]
    assert graph.SerializeToString() == before
    assert len(folded.graph.initializer) == 4


def test_a_clip_between_scaler_and_layer_stops_the_fold() -> None:
    graph = lowered(MinMaxScaler(clip=True), Ridge())
    assert fold_scalers(graph) is graph


def test_a_scaled_tensor_that_others_read_stays() -> None:
    graph = Graph()
    x = graph.add("Flatten", "window", axis=1)
    scaled = graph.add("Mul", x, graph.constant([1.0, 2.0]))
    product = graph.add("MatMul", scaled, graph.constant(np.eye(2)))
    outputs = [(Output(name="value", role="value", width=2), graph.add("Add", product, scaled))]
    model = graph.finish(outputs, length=1, channels=2)
    assert fold_scalers(model) is model


def test_a_product_of_windows_is_no_layer_on_rows() -> None:
    graph = Graph()
    scaled = graph.add("Mul", "window", graph.constant(2.0))
    product = graph.add("MatMul", scaled, graph.constant(np.eye(2)))
    flat = graph.add("Flatten", product, axis=1)
    outputs = [(Output(name="value", role="value", width=6), flat)]
    model = graph.finish(outputs, length=3, channels=2)
    assert fold_scalers(model) is model


def test_weights_beyond_float32_are_not_folded() -> None:
    graph = Graph()
    x = graph.add("Flatten", "window", axis=1)
    scaled = graph.add("Div", x, graph.constant([1e-30, 1.0]))
    product = graph.add("MatMul", scaled, graph.constant([[1e30], [1.0]]))
    outputs = [(Output(name="value", role="value", width=1), product)]
    model = graph.finish(outputs, length=1, channels=2)
    assert fold_scalers(model) is model
