"""Tree ensembles in the small encoding answer the same, bit for bit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_runs import one_by_one, run
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)

from converter.forms.compact import compact, forests_of
from converter.frontends.sklearn import import_estimator
from converter.lowering.forest import plain_node, read_forest
from converter.lowering.graph import ML, Graph
from converter.lowering.trees import Tree, ensemble
from edge_agent.contract.manifest import Output

DIGITS = load_digits(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


def lowered(model, data):
    inputs = data[0].astype(np.float32)
    model.fit(inputs, data[1])
    names = tuple(f"c{at}" for at in range(inputs.shape[1]))
    graph = import_estimator(model, length=1, channels=names, rate_hz=1.0).graph
    return graph, inputs[:, None, :]


def grown(trees, *, width=2, average=False, base=()):
    """A model of hand-made trees."""
    graph = Graph()
    x = graph.add("Flatten", "window", axis=1)
    y = ensemble(graph, x, trees, average=average, base=base)
    targets = trees[0].values.shape[1]
    outputs = [(Output(name="value", role="value", width=targets), y)]
    return graph.finish(outputs, length=1, channels=width)


def tree(nodes, values, nan_left=None):
    """Nodes as (left, right, feature, threshold), -1 in leaves."""
    left, right, feature, threshold = (np.array(column) for column in zip(*nodes, strict=True))
    return Tree(
        left=left,
        right=right,
        feature=feature,
        threshold=threshold.astype(np.float64),
        nan_left=np.zeros(len(left), bool) if nan_left is None else np.array(nan_left),
        values=np.asarray(values, np.float64),
    )


def comparisons(model):
    node = next(node for node in model.graph.node if node.op_type == "TreeEnsemble")
    return len(next(entry.ints for entry in node.attribute if entry.name == "nodes_featureids"))


def assert_same_bits(before, after, windows):
    for ask in (run, one_by_one):
        expected, got = ask(before, windows), ask(after, windows)
        assert expected.keys() == got.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(got[name], values)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (RandomForestClassifier(20, random_state=0), DIGITS),
        (ExtraTreesClassifier(10, random_state=0), DIGITS),
        (HistGradientBoostingClassifier(max_iter=5), DIGITS),
        (RandomForestRegressor(10, random_state=0), DIABETES),
        (GradientBoostingRegressor(n_estimators=20, random_state=0), DIABETES),
        (IsolationForest(n_estimators=20, random_state=0), DIABETES),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_ensemble_answers_the_same_bits_from_a_smaller_file(model, data) -> None:
    graph, windows = lowered(model, data)
    before = graph.SerializeToString()
    small = compact(graph)
    onnx.checker.check_model(small, full_check=True)
    assert len(small.SerializeToString()) < 0.5 * len(before)
    assert_same_bits(graph, small, windows[:200])
    assert graph.SerializeToString() == before


def test_leaves_with_several_targets_keep_their_encoding() -> None:
    graph, _ = lowered(RandomForestClassifier(5, max_depth=3, random_state=0), DIGITS)
    assert compact(graph) is graph


def test_a_graph_without_trees_is_left_alone() -> None:
    graph = Graph()
    outputs = [(Output(name="value", role="value", width=2), graph.add("Flatten", "window"))]
    model = graph.finish(outputs, length=1, channels=2)
    assert compact(model) is model


def test_dead_branches_and_equal_leaves_go() -> None:
    # x0 <= 1, then x0 <= 2 (always true) above x1 <= 0 whose leaves are equal
    nodes = [(1, 6, 0, 1.0), (2, 5, 0, 2.0), (3, 4, 1, 0.0), *[(-1, -1, 0, 0.0)] * 4]
    model = grown([tree(nodes, [[0.0], [0.0], [0.0], [5.0], [5.0], [7.0], [9.0]])])
    small = compact(model)
    assert comparisons(small) == 1
    windows = np.array([[[0, -1]], [[1, 1]], [[1.5, 0]], [[3, 3]]], np.float32)
    assert run(small, windows)["value"][:, 0].tolist() == [5.0, 5.0, 9.0, 9.0]
    assert_same_bits(model, small, windows)


def test_a_branch_that_a_missing_value_reaches_stays() -> None:
    nodes = [(1, 4, 0, 1.0), (2, 3, 0, 2.0), *[(-1, -1, 0, 0.0)] * 3]
    nan_left = [True, False, False, False, False]
    model = grown([tree(nodes, [[0.0], [0.0], [5.0], [7.0], [9.0]], nan_left)])
    small = compact(model)
    assert comparisons(small) == 2
    windows = np.array([[[np.nan, 0]], [[0, 0]], [[3, 0]]], np.float32)
    assert run(small, windows)["value"][:, 0].tolist() == [7.0, 5.0, 9.0]


def test_trees_of_one_leaf_and_a_base_are_added() -> None:
    single = tree([(-1, -1, 0, 0.0)], [[2.0, 0.0]])
    stump = tree([(1, 2, 1, 0.5), *[(-1, -1, 0, 0.0)] * 2], [[0.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    model = grown([single, stump], base=(0.25, -1.0))
    windows = np.array([[[0, 0]], [[0, 1]]], np.float32)
    assert run(compact(model), windows)["value"].tolist() == [[2.25, 0.0], [2.25, 2.0]]
    assert_same_bits(model, compact(model), windows)


def test_a_forest_survives_reading_and_writing() -> None:
    graph, windows = lowered(RandomForestClassifier(5, max_depth=4, random_state=0), DIGITS)
    found = forests_of(graph)
    assert found is not None
    (name, forest), *_ = found.items()
    node = next(node for node in graph.graph.node if node.name == name)
    again = onnx.ModelProto()
    again.CopyFrom(graph)
    at = [node.name for node in again.graph.node].index(name)
    again.graph.node[at].CopyFrom(plain_node(node, forest))
    assert_same_bits(graph, again, windows[:100])


def test_a_node_that_says_more_is_not_read() -> None:
    graph, _ = lowered(RandomForestClassifier(2, max_depth=2, random_state=0), DIGITS)
    node = next(node for node in graph.graph.node if node.domain == ML)
    node.attribute.append(onnx.helper.make_attribute("post_transform", "SOFTMAX"))
    assert read_forest(node) is None
    assert compact(graph) is graph
