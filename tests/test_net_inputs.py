"""What each input of a network takes, told from names and shapes alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converter.frontends import import_model
from converter.model_io import ModelIO
from converter.nets.net_inputs import Tensor, plan_inputs
from converter.parity import answer_all

FLOAT = np.dtype(np.float32)


def tensor(name, *axes):
    return Tensor(name, FLOAT, axes)


@pytest.mark.parametrize(("before", "after"), [("state", "stateN"), ("h_in", "h_out"), ("h", "hn")])
def test_an_input_and_an_output_are_no_state_by_being_called_so(before, after):
    given = [tensor("input", None, None), tensor(before, 2, None, 8)]
    made = [tensor("output", None, 1), tensor(after, None, None, None)]
    plan = plan_inputs(given, made, ModelIO(), length=16, channels=("sound",))
    assert [feed.name for feed in plan.feeds] == ["input"]
    assert [(state.input, state.output) for state in plan.states] == [(before, after)]


def test_axes_of_minus_one_are_open(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["m"]),
         helper.make_node("Flatten", ["m"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [-1, 2, -1, -1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [-1, 2])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    io = ModelIO(task="regression", layout="channels_first", shapes={"x": (1, 2, 4, 4)})
    imported = import_model(
        tmp_path / "net.onnx", length=16, channels=("a", "b"), rate_hz=1.0, model_io=io
    )
    windows = np.arange(64, dtype=np.float32).reshape(2, 16, 2)
    np.testing.assert_allclose(imported.original(windows).scores, windows.mean(axis=1))


def test_a_branch_may_use_what_stands_around_it(tmp_path):
    def branch(name, operator):
        node = helper.make_node(operator, ["x", "weight"], [name])
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2])
        return helper.make_graph([node], name, [], [info])

    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "border"], ["large"]),
            helper.make_node(
                "If",
                ["large"],
                ["y"],
                then_branch=branch("product", "Mul"),
                else_branch=branch("difference", "Sub"),
            ),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [
            helper.make_tensor("weight", TensorProto.FLOAT, [2], [2.0, 3.0]),
            helper.make_tensor("border", TensorProto.FLOAT, [], [0.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    imported = import_model(
        tmp_path / "net.onnx",
        length=1,
        channels=("a", "b"),
        rate_hz=1.0,
        model_io=ModelIO(task="regression"),
    )
    windows = np.array([[[1.0, 1.0]], [[-1.0, -1.0]]], np.float32)
    answers = answer_all(
        imported.graph.SerializeToString(), windows, imported.outputs, imported.task
    )
    np.testing.assert_array_equal(answers.scores, [[2.0, 3.0], [-3.0, -4.0]])
