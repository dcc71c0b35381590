"""ONNX files of anybody: whatever their inputs look like, the device answers as they do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_runs import assert_same_answers
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

import converter
from converter.frontends import Imported, import_model
from converter.model_io import ModelIO
from converter.recipe import ChannelRecipe, DataRecipe, QuantizeRecipe, Recipe, WindowRecipe
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.errors import ConfigError
from edge_agent.infer import Engine, Model

RNG = np.random.default_rng(0)
L, C = 12, 3


def windows(count: int = 20, length: int = L, channels: int = C) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, length, channels)).astype(np.float32)


def weights(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


class Net:
    """An ONNX file under construction, as an exporter would write it."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def input(self, name: str, shape: list[Any] | None, kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def weight(self, value: np.ndarray) -> str:
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, *inputs: str, out: str = "", domain: str = "", **attributes: Any) -> str:
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], domain=domain, **attributes))
        return out

    def output(self, name: str, shape: list[Any] | None, kind: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def model(self, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.tensors)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)],
            ir_version=ir,
            producer_name="tests",
        )

    def save(self, folder: Path, opset: int = 17, ir: int = 8) -> Path:
        path = folder / "net.onnx"
        onnx.save(self.model(opset, ir), path)
        return path


def classifier(shape: list[Any], *, values: int = L * C, end: str = "Softmax", width: int = 4):
    """Scores of all values of the input, whatever its shape."""
    net = Net()
    x = net.input("x", shape)
    flat = net.add("Reshape", x, net.weight(np.array([-1, values])))
    hidden = net.add("Relu", net.add("Gemm", flat, net.weight(weights(values, 16))))
    net.add("Gemm", hidden, net.weight(weights(16, width)), out="logits")
    if end:
        net.add(end, "logits", out="y", axis=1) if end == "Softmax" else net.add(
            end, "logits", out="y"
        )
    net.output("y" if end else "logits", [shape[0], width])
    return net


def load(path: Path, *, length: int = L, channels: int = C, **io: Any) -> Imported:
    return import_model(
        path,
        length=length,
        channels=tuple(f"c{at}" for at in range(channels)),
        rate_hz=10.0,
        model_io=ModelIO(**io),
    )


def expected(path: Path, feeds: list[dict[str, np.ndarray]], output: str) -> np.ndarray:
    """What the file says, asked directly."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([output], feed)[0] for feed in feeds])


# --- one input, every shape ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "as_input"),
    [
        (["N", L, C], lambda w: w),
        ([1, L, C], lambda w: w),
        (["batch", C, L], lambda w: w.transpose(0, 2, 1)),
        (["N", L * C], lambda w: w.reshape(len(w), -1)),
        (["N", None], lambda w: w.reshape(len(w), -1)),
        ([None, C, "time"], lambda w: w.transpose(0, 2, 1)),
        ([None, 1, L, C], lambda w: w[:, None]),
        ([None, L, C, 1], lambda w: w[..., None]),
        ([None, 4, 3, C], lambda w: w.reshape(len(w), 4, 3, C)),
        ([None, C, 2, 6], lambda w: w.transpose(0, 2, 1).reshape(len(w), C, 2, 6)),
        ([L, 1, C], lambda w: w.transpose(1, 0, 2)),
        ([L * C], lambda w: w.reshape(-1)),
    ],
)
def test_the_shape_of_the_input_tells_the_layout(tmp_path: Path, shape: Any, as_input: Any) -> None:
    path = classifier(shape).save(tmp_path)
    imported = load(path)
    given = windows()
    feeds = [{"x": np.ascontiguousarray(as_input(window[None]))} for window in given]
    want = expected(path, feeds, "y")
    np.testing.assert_allclose(imported.original(given).scores, want, rtol=1e-6)
    assert imported.task == "classification"
    assert imported.labels == ("0", "1", "2", "3")
    _assert_device_agrees(imported, given)


def _assert_device_agrees(imported: Imported, given: np.ndarray, rtol: float = 1e-5) -> None:
    """The call path of the device on every window in order."""
    _, length, channels = given.shape
    (output,) = imported.outputs
    engine = Engine(
        imported.graph.SerializeToString(),
        length=length,
        channels=channels,
        outputs=imported.outputs,
        states=imported.states,
    )
    answers = imported.original(given)
    for number, window in enumerate(given):
        engine.run(window)
        got = engine.outputs[output.name][0]
        np.testing.assert_allclose(got, answers.scores[number], rtol=rtol, atol=1e-6)
        if answers.labels is not None:
            label = got[0] > 0 if imported.task == "anomaly" else got.argmax()
            assert int(label) == answers.labels[number]


def test_an_open_batch_stays_open(tmp_path: Path) -> None:
    imported = load(classifier(["N", L, C]).save(tmp_path))
    assert_same_answers(imported, windows())


def test_a_batch_that_is_built_in_becomes_one_window_at_a_time(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", ["N", L, C])
    flat = net.add("Reshape", x, net.weight(np.array([1, L * C])))
    net.add("Softmax", net.add("MatMul", flat, net.weight(weights(L * C, 3))), out="y", axis=1)
    net.output("y", [1, 3])
    imported = load(net.save(tmp_path))
    assert imported.graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    _assert_device_agrees(imported, windows())


@pytest.mark.parametrize(
    ("shape", "length", "channels", "text"),
    [
        ([None, 5, 5], 5, 5, "layout: readings_first"),
        ([None, None, None], L, C, "layout: readings_first"),
        ([None, 6, 6], L, C, "layout: readings_first"),
        ([None, 7, C], L, C, "does not take a window of 12 readings of 3 channels"),
        ([8, L, C], L, C, "one window at a time"),
    ],
)
def test_a_layout_that_is_open_is_asked_for(
    tmp_path: Path, shape: Any, length: int, channels: int, text: str
) -> None:
    path = classifier(shape, values=length * channels).save(tmp_path)
    with pytest.raises(ConfigError, match=text):
        load(path, length=length, channels=channels)


@pytest.mark.parametrize(
    ("io", "as_input"),
    [
        ({"layout": "readings_first"}, lambda w: w),
        ({"layout": "channels_first"}, lambda w: w.T),
        ({"layout": "channels_first", "shapes": {"x": (1, 6, 6)}}, lambda w: w.T.reshape(6, 6)),
    ],
)
def test_the_recipe_closes_what_is_open(tmp_path: Path, io: Any, as_input: Any) -> None:
    path = classifier([None, None, None]).save(tmp_path)
    imported = load(path, **io)
    given = windows()
    feeds = [{"x": np.ascontiguousarray(as_input(window))[None]} for window in given]
    np.testing.assert_allclose(
        imported.original(given).scores, expected(path, feeds, "y"), rtol=1e-6
    )
    _assert_device_agrees(imported, given)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.INT64, np.int64),
        (TensorProto.UINT8, np.uint8),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.FLOAT16, np.float16),
    ],
)
def test_inputs_of_other_types(tmp_path: Path, kind: int, dtype: Any) -> None:
    net = Net()
    x = net.add("Cast", net.input("x", [None, L, C], kind), to=TensorProto.FLOAT)
    flat = net.add("Flatten", x)
    scaled = net.add("Mul", flat, net.weight(np.float32(0.01)))
    net.add("Softmax", net.add("MatMul", scaled, net.weight(weights(L * C, 3))), out="y")
    net.output("y", [None, 3])
    path = net.save(tmp_path)
    imported = load(path)
    given = np.random.default_rng(2).integers(0, 200, (9, L, C)).astype(np.float32)
    want = expected(path, [{"x": window[None].astype(dtype)} for window in given], "y")
    np.testing.assert_allclose(imported.original(given).scores, want, rtol=1e-6)
    _assert_device_agrees(imported, given)


# --- several inputs ------------------------------------------------------------------------------


def test_inputs_with_the_names_of_channels_take_them(tmp_path: Path) -> None:
    net = Net()
    columns = [net.input(name, [None, 1]) for name in ("c1", "c0", "c2")]
    x = net.add("Concat", *columns, axis=1)
    net.add("Softmax", net.add("MatMul", x, net.weight(weights(3, 3))), out="y")
    net.output("y", [None, 3])
    path = net.save(tmp_path)
    given = windows(length=1)
    imported = load(path, length=1)
    feeds = [{f"c{at}": w[:, at : at + 1] for at in range(3)} for w in given]
    np.testing.assert_allclose(imported.original(given).scores, expected(path, feeds, "y"))
    assert_same_answers(imported, given)


def two_inputs(folder: Path) -> Path:
    net = Net()
    fast = net.add("Flatten", net.input("fast", [None, 2, L]))
    slow = net.add("Flatten", net.input("slow", [None, L, 1]))
    gain = net.input("gain", [1])
    x = net.add("Mul", net.add("Concat", fast, slow, axis=1), gain)
    net.add("Softmax", net.add("MatMul", x, net.weight(weights(L * C, 3))), out="y")
    net.output("y", [None, 3])
    return net.save(folder)


def test_inputs_take_the_channels_that_the_recipe_names(tmp_path: Path) -> None:
    path = two_inputs(tmp_path)
    io = {"inputs": {"fast": ("c0", "c2"), "slow": ("c1",)}, "constants": {"gain": 0.5}}
    given = windows()
    imported = load(path, **io)
    half = np.array([0.5], np.float32)
    feeds = [
        {"fast": np.ascontiguousarray(w[None][..., [0, 2]].transpose(0, 2, 1)),
         "slow": np.ascontiguousarray(w[None][..., 1:2]), "gain": half}
        for w in given
    ]  # fmt: skip
    np.testing.assert_allclose(imported.original(given).scores, expected(path, feeds, "y"))
    assert_same_answers(imported, given)


@pytest.mark.parametrize(
    ("io", "text"),
    [
        ({}, r"'fast' float32 \[\?, 2, 12\].* nothing says what they take"),
        ({"inputs": {"fast": ("c0", "cx"), "slow": ("c1",)}}, "no channel 'cx'; those are c0"),
        ({"constants": {"gian": 1.0}}, "no input 'gian'; it has fast, slow, gain"),
        ({"output": "z"}, "no output 'z'; it has y"),
        ({"inputs": {"gain": ("c0",)}, "constants": {"gain": 1.0}}, "'gain' two things"),
    ],
)
def test_what_nobody_says_about_inputs_is_asked_for(tmp_path: Path, io: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load(two_inputs(tmp_path), **io)


# --- states --------------------------------------------------------------------------------------


def recurrent(folder: Path, before: str = "h_in", after: str = "h_out", batch: Any = "N") -> Path:
    """A voice detector's shape: a window, a state and a sampling rate in; a score and a state."""
    net = Net()
    x = net.input("input", [batch, L * C])
    h = net.input(before, [1, batch, 8])
    rate = net.input("sr", [], TensorProto.INT64)
    scale = net.add("Div", net.add("Cast", rate, to=TensorProto.FLOAT), net.weight(np.float32(1e4)))
    step = net.add("Unsqueeze", net.add("Mul", x, scale), net.weight(np.array([0])))
    w, r, b = weights(1, 24, L * C), weights(1, 24, 8), weights(1, 48)
    net.nodes.append(
        helper.make_node(
            "GRU", [step, *map(net.weight, (w, r, b)), "", h], ["all", after], hidden_size=8
        )
    )
    last = net.add("Squeeze", after, net.weight(np.array([0])))
    net.add("Sigmoid", net.add("MatMul", last, net.weight(weights(8, 1))), out="output")
    net.output("output", [batch, 1])
    net.output(after, [1, batch, 8])
    return net.save(folder)


@pytest.mark.parametrize(
    ("before", "after", "io"),
    [
        ("h_in", "h_out", {}),
        ("state", "stateN", {}),
        ("h0", "hn", {}),
        ("past_hidden", "present.hidden", {}),
        ("cache", "memory", {"states": {"cache": "memory"}}),
    ],
)
def test_state_is_carried_from_window_to_window(
    tmp_path: Path, before: str, after: str, io: Any
) -> None:
    path = recurrent(tmp_path, before, after)
    imported = load(path, constants={"sr": 16000}, **io)
    given = windows(30)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    h, want = np.zeros((1, 1, 8), np.float32), []
    for window in given:
        feed = {"input": window.reshape(1, -1), before: h, "sr": np.array(16000)}
        score, h = session.run(["output", after], feed)
        want.append(score[0, 0])
    answers = imported.original(given)
    np.testing.assert_allclose(answers.scores[:, 1], want, rtol=1e-6)
    np.testing.assert_array_equal(answers.labels, np.array(want) > 0.5)
    assert [state.shape for state in imported.states] == [(1, 1, 8)]
    _assert_device_agrees(imported, given)
    assert not np.allclose(imported.original(given[15:]).scores, answers.scores[15:], atol=1e-4)


def test_a_state_that_grows_is_refused(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", [1, 1, C])
    past = net.input("past_key", [1, "past", C])
    net.add("Concat", past, x, out="present_key", axis=1)
    net.add("ReduceMean", "present_key", out="y", axes=[1], keepdims=0)
    net.output("y", [1, C])
    net.output("present_key", [1, "now", C])
    with pytest.raises(ConfigError, match=r"goes in as .*comes out as .*a state that grows"):
        load(net.save(tmp_path), length=1, task="regression")


def test_an_input_that_nothing_pairs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'sr' int64 \[\].*constants: \{NAME: NUMBER\}"):
        load(recurrent(tmp_path))


# --- what the output means -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "width", "io", "formula"),
    [
        ("Softmax", 4, {}, lambda y: y),
        ("", 4, {"task": "classification"}, lambda y: np.exp(y) / np.exp(y).sum(1, keepdims=True)),
        ("Sigmoid", 1, {}, lambda y: np.hstack([1 - y, y])),
        ("", 1, {"scores": "logits"}, lambda y: 1 / (1 + np.exp(np.hstack([y, -y])))),
        ("", 1, {"task": "regression"}, lambda y: y),
        ("", 1, {"anomaly_above": 0.3}, lambda y: y - 0.3),
        ("", 1, {"anomaly_below": 0.3}, lambda y: 0.3 - y),
        ("Tanh", 3, {"scores": "probabilities"}, lambda y: y),
    ],
)
def test_what_the_output_means(tmp_path: Path, end: str, width: int, io: Any, formula: Any) -> None:
    path = classifier(["N", L, C], end=end, width=width).save(tmp_path)
    imported = load(path, **resolved(io))
    given = windows()
    raw = expected(path, [{"x": w[None]} for w in given], "y" if end else "logits")
    np.testing.assert_allclose(imported.original(given).scores, formula(raw), rtol=1e-5, atol=1e-7)
    assert_same_answers(imported, given)


def resolved(io: dict[str, Any]) -> dict[str, Any]:
    return msgspec.structs.asdict(ModelIO(**io).resolved(None))


@pytest.mark.parametrize(
    ("end", "width", "io", "text"),
    [
        ("", 3, {}, "ends in Gemm.*task: regression"),
        ("Tanh", 3, {"task": "classification"}, "ends in Tanh.*scores: probabilities"),
        ("", 3, {"task": "anomaly", "anomaly_above": 1.0}, "one number or of the shape of the in"),
    ],
)
def test_a_meaning_that_is_open_is_asked_for(
    tmp_path: Path, end: str, width: int, io: Any, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        load(classifier(["N", L, C], end=end, width=width).save(tmp_path), **io)


@pytest.mark.parametrize("shape", [[None, C, L], [None, L * C]])
def test_an_autoencoder_is_scored_by_its_error(tmp_path: Path, shape: Any) -> None:
    net = Net()
    net.add("Tanh", net.input("x", shape), out="y")
    net.output("y", shape)
    imported = load(net.save(tmp_path), anomaly_above=0.1)
    given = windows()
    error = np.mean((given - np.tanh(given)) ** 2, axis=(1, 2)) - 0.1
    np.testing.assert_allclose(imported.original(given).scores[:, 0], error, rtol=1e-5, atol=1e-6)
    assert set(imported.original(given).labels) == {0, 1}
    assert_same_answers(imported, given)
    assert len(imported.keep_float) == len(imported.graph.graph.node)


def test_one_of_several_outputs_is_asked_for_and_taken(tmp_path: Path) -> None:
    net = classifier(["N", L, C])
    net.output("logits", ["N", 4])
    path = net.save(tmp_path)
    with pytest.raises(ConfigError, match="write 'output: NAME'"):
        load(path)
    assert_same_answers(load(path, output="y"), windows())


@pytest.mark.parametrize(
    "fields",
    [
        {"anomaly_above": 1.0, "anomaly_below": 0.0},
        {"task": "anomaly"},
        {"task": "regression", "scores": "logits"},
        {"task": "regression", "anomaly_above": 1.0},
        {"shapes": {"x": (0, 3)}},
    ],
)
def test_contradictions_in_the_recipe_are_refused(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        ModelIO(**fields)


def test_files_of_sklearn_onnx_with_their_maps_of_scores(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(90, C)).astype(np.float32)
    y = np.array(["idle", "walk", "run"])[(x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5)]
    for model in (LogisticRegression().fit(x, y), RandomForestClassifier(5).fit(x, y)):
        path = tmp_path / "net.onnx"
        path.write_bytes(to_onnx(model, x[:1]).SerializeToString())
        imported = load(path, length=1)
        assert imported.labels == tuple(model.classes_)
        given = windows(length=1)
        np.testing.assert_allclose(
            imported.original(given).scores, model.predict_proba(given[:, 0]), atol=1e-6
        )
        assert_same_answers(imported, given)


# --- old, large, damaged and foreign files -------------------------------------------------------


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 21])
def test_operator_sets_old_and_new(tmp_path: Path, opset: int) -> None:
    net = Net()
    x = net.input("x", [None, C, L])
    net.tensors.append(numpy_helper.from_array(weights(8, C, 3), "conv"))
    y = net.add("Conv", x, "conv", kernel_shape=[3])
    mean, one = weights(8), np.abs(weights(8)) + 1
    y = net.add("BatchNormalization", y, *map(net.weight, (one, mean, mean, one)))
    y = net.add("GlobalAveragePool", net.add("Relu", y))
    y = net.add("Squeeze", y, axes=[2]) if opset < 13 else net.add("Flatten", y)
    y = net.add("Gemm", y, net.weight(weights(8, 4)), net.weight(weights(4)))
    net.add("Softmax", y, out="y", axis=1)
    net.output("y", [None, 4])
    imported = load(net.save(tmp_path, opset=opset, ir=4 if opset < 13 else 10))
    kinds = [node.op_type for node in imported.graph.graph.node]
    assert "BatchNormalization" not in kinds
    assert {entry.domain: entry.version for entry in imported.graph.opset_import}[""] >= 13
    assert_same_answers(imported, windows())


def test_weights_that_are_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    net = classifier(["N", L, C])
    for tensor in net.tensors:
        net.input(tensor.name, list(tensor.dims), tensor.data_type)
    assert_same_answers(load(net.save(tmp_path, opset=11, ir=3)), windows())


def test_weights_in_a_file_beside_it(tmp_path: Path) -> None:
    model = classifier(["N", L, C]).model()
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=64)
    assert (tmp_path / "net.data").stat().st_size > 1000
    imported = load(path)
    assert_same_answers(imported, windows())
    (tmp_path / "net.data").unlink()
    with pytest.raises(ConfigError, match=r"weights are in net\.data, which is not beside it"):
        load(path)


def test_a_file_beside_it_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    onnx.save(
        classifier(["N", L, C]).model(),
        folder / "net.onnx",
        save_as_external_data=True,
        location="net.data",
        size_threshold=64,
    )
    data = (folder / "net.onnx").read_bytes()
    (folder / "net.data").rename(tmp_path / "t.data")
    changed = data.replace(b"net.data", b"../t.dat").replace(b"\x08../t.dat", b"\x08../t.dat")
    (tmp_path / "t.data").rename(tmp_path / "t.dat")
    (folder / "net.onnx").write_bytes(changed)
    with pytest.raises(ConfigError, match=r"net\.onnx: "):
        load(folder / "net.onnx")


def test_operators_that_are_not_onnx_are_named(tmp_path: Path) -> None:
    net = classifier(["N", L, C])
    net.add("Mystery", "y", out="z", domain="my.company")
    net.outputs.clear()
    net.output("z", ["N", 4])
    path = net.save(tmp_path)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("my.company", 1))
    onnx.save(model, path)
    with pytest.raises(ConfigError, match=r"not part of ONNX: Mystery \(my\.company\)"):
        load(path)


@pytest.mark.parametrize("cut", [0, 10, 700])
def test_damaged_files_are_refused(tmp_path: Path, cut: int) -> None:
    path = classifier(["N", L, C]).save(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ConfigError, match=r"net\.onnx: .*(damaged|no ONNX file|no valid model)"):
        load(path)


def test_a_file_beyond_two_gib_is_refused_unread(tmp_path: Path) -> None:
    path = classifier(["N", L, C]).save(tmp_path)
    os.truncate(path, 2**31 + 5)
    with pytest.raises(ConfigError, match="at most 2 GiB"):
        load(path)


# --- the whole way -------------------------------------------------------------------------------


def test_a_model_with_state_becomes_a_bundle_that_is_proven_in_sequence(tmp_path: Path) -> None:
    path = recurrent(tmp_path)
    given = windows(60)
    imported = load(path, constants={"sr": 16000})
    recordings = [given[:20], given[20:]]
    labels = np.concatenate([imported.original(part).labels for part in recordings])
    np.savez(
        tmp_path / "val.npz",
        signal=given.reshape(-1, C),
        offsets=np.array([0, 20 * L, 60 * L]),
        y=np.repeat(labels, L),
    )
    built = converter.build(
        Recipe(
            name="voice",
            version="1.0.0",
            model=str(path),
            data=DataRecipe(path=str(tmp_path / "val.npz"), label="y"),
            channels=tuple(ChannelRecipe(name=f"c{at}") for at in range(C)),
            rate_hz=10.0,
            window=WindowRecipe(length=L),
            labels=("silence", "speech"),
            model_io=ModelIO(constants={"sr": 16000}),
            output=str(tmp_path / "out"),
            quantize=QuantizeRecipe(),
        )
    )
    bundle = read_bundle(built.bundle)
    assert bundle.manifest.agent_min == "0.2.0"
    assert bundle.manifest.chosen.parity.label_flips == 0
    assert bundle.manifest.chosen.parity.converted == 1.0
    model = Model.load(bundle)
    for part in recordings:
        model.reset()
        answers = imported.original(part)
        for window, label in zip(part, answers.labels, strict=True):
            assert model.answer(window)[0] == label
