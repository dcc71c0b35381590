"""TFLite files: every operator against LiteRT's interpreter, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_runs import assert_same_answers

from converter.frontends import import_model
from converter.model_io import ModelIO
from edge_agent.contract.errors import ConfigError

pytest.importorskip("ai_edge_litert", reason="the extra 'tflite' is not installed")
from ai_edge_litert import schema_py_generated as schema
from tflite_files import Writer

CHANNELS = ("a", "b", "c")
WIDTH, COLOURS = 12, 3
VALUES = ModelIO(task="regression")
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
FUSED = schema.ActivationFunctionType


def weights(*shape, dtype=np.float32):
    return (0.5 * np.random.default_rng(sum(shape)).normal(size=shape)).astype(dtype)


def windows(length=WIDTH, channels=3, count=12):
    return np.random.default_rng(7).normal(size=(count, length, channels)).astype(np.float32)


def load(path, model_io=VALUES, *, length=WIDTH, channels=CHANNELS):
    return import_model(path, length=length, channels=channels, rate_hz=1.0, model_io=model_io)


def assert_converted(path, model_io=VALUES, *, length=WIDTH, channels=CHANNELS):
    imported = load(path, model_io, length=length, channels=channels)
    given = windows(length, len(channels))
    assert_same_answers(imported, given, rtol=1e-4, atol=1e-5)
    scores = imported.original(given).scores
    assert np.ptp(scores, axis=0).max() > 0.01  # it does depend on the window
    return imported


def dense(writer, x, inputs, outputs, shape=None, **settings):
    bias = writer.constant(weights(outputs))
    kernel = writer.constant(weights(outputs, inputs))
    return writer.op(
        "FULLY_CONNECTED",
        [x, kernel, bias],
        shape or (1, outputs),
        options="FullyConnectedOptions",
        **settings,
    )


def reshape(writer, x, *shape):
    new = writer.constant(np.array([-1, *shape[1:]], np.int32))
    return writer.op("RESHAPE", [x, new], shape)


def sequence(writer):
    """A window as an image of one row, as TFLite sees it in a Conv1D."""
    x = writer.input(WIDTH, COLOURS)
    axis = writer.constant(np.array(1, np.int32))
    return writer.op("EXPAND_DIMS", [x, axis], (1, 1, WIDTH, COLOURS), options="ExpandDimsOptions")


@pytest.mark.parametrize(
    ("settings", "out"),
    [
        ({"padding": SAME, "strideW": 1}, 12),
        ({"padding": SAME, "strideW": 5}, 3),
        ({"padding": VALID, "strideW": 2}, 5),
        ({"padding": VALID, "strideW": 1, "dilationWFactor": 3}, 6),
        ({"padding": SAME, "strideW": 1, "dilationWFactor": 2}, 12),
    ],
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_convolution_answers_as_litert(settings, out, depthwise, tmp_path):
    writer = Writer()
    x = sequence(writer)
    shape, options = (5, 1, 3, 3), "Conv2DOptions"
    kind, more = "CONV_2D", {}
    if depthwise:
        shape, options, kind = (1, 1, 3, 6), "DepthwiseConv2DOptions", "DEPTHWISE_CONV_2D"
        more = {"depthMultiplier": 2}
    filters = 6 if depthwise else 5
    kernel, bias = writer.constant(weights(*shape)), writer.constant(weights(filters))
    y = writer.op(
        kind,
        [x, kernel, bias],
        (1, 1, out, filters),
        options=options,
        strideH=settings["strideW"] if depthwise else 1,
        fusedActivationFunction=FUSED.RELU6,
        **settings,
        **more,
    )
    y = reshape(writer, y, 1, out * filters)
    path = writer.save(tmp_path / "m.tflite", dense(writer, y, out * filters, 4))
    imported = assert_converted(path)
    assert [node.op_type for node in imported.graph.graph.node].count("Transpose") == 1


@pytest.mark.parametrize(("padding", "out"), [(SAME, 4), (VALID, 4), (SAME, 6)])
@pytest.mark.parametrize("kind", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
def test_a_pooling_answers_as_litert(kind, padding, out, tmp_path):
    stride = 2 if out == 6 else 3
    size = 3 if padding == VALID else 4
    writer = Writer()
    y = writer.op(
        kind,
        [sequence(writer)],
        (1, 1, out, 3),
        options="Pool2DOptions",
        padding=padding,
        strideH=1,
        strideW=stride,
        filterHeight=1,
        filterWidth=size,
    )
    path = writer.save(tmp_path / "m.tflite", reshape(writer, y, 1, out * 3))
    assert_converted(path)


POSITIVE = {"LOG", "SQRT", "RSQRT", "POW"}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ABS", {}), ("ELU", {}), ("EXP", {}), ("GELU", {"options": "GeluOptions"}),
        ("GELU", {"options": "GeluOptions", "approximate": True}), ("HARD_SWISH", {}),
        ("LEAKY_RELU", {"options": "LeakyReluOptions", "alpha": 0.3}), ("LOG", {}),
        ("LOGISTIC", {}), ("LOG_SOFTMAX", {}), ("NEG", {}), ("RELU", {}), ("RELU6", {}),
        ("RELU_0_TO_1", {}), ("RELU_N1_TO_1", {}), ("RSQRT", {}),
        ("SOFTMAX", {"options": "SoftmaxOptions", "beta": 1.0}),
        ("SOFTMAX", {"options": "SoftmaxOptions", "beta": 0.5}), ("SQRT", {}), ("SQUARE", {}),
        ("TANH", {}),
    ],
)  # fmt: skip
def test_an_activation_answers_as_litert(kind, settings, tmp_path):
    writer = Writer()
    x = reshape(writer, writer.input(WIDTH, COLOURS), 1, 36)
    x = dense(writer, x, 36, 4)
    if kind in POSITIVE:
        x = writer.op("EXP", [x], (1, 4))
    path = writer.save(tmp_path / "m.tflite", writer.op(kind, [x], (1, 4), **settings))
    assert_converted(path)


@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"])
@pytest.mark.parametrize("form", ["both", "first", "vector", "scalar", "full"])
def test_two_values_answer_as_litert(kind, form, tmp_path):
    writer = Writer()
    x = sequence(writer)
    constants = {
        "first": weights(3) + 2,
        "vector": weights(3) + 2,
        "scalar": np.array(1.5, np.float32),
        "full": weights(1, 1, WIDTH, 3) + 2,
    }
    other = writer.op("EXP", [x], (1, 1, WIDTH, 3)) if form == "both" else None
    other = writer.constant(constants[form]) if other is None else other
    pair = [other, x] if form in {"first", "both"} and kind != "DIV" else [x, other]
    names = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div"}
    settings = {"options": f"{names[kind]}Options"} if kind in names else {}
    fused = {"fusedActivationFunction": FUSED.RELU} if settings else {}
    y = writer.op(kind, pair, (1, 1, WIDTH, 3), **settings, **fused)
    assert_converted(writer.save(tmp_path / "m.tflite", reshape(writer, y, 1, 36)))


@pytest.mark.parametrize("kind", ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"])
@pytest.mark.parametrize("axes", [[1], [2], [-1], [1, 2]])
@pytest.mark.parametrize("keep", [False, True])
def test_a_reduction_answers_as_litert(kind, axes, keep, tmp_path):
    writer = Writer()
    x = writer.input(WIDTH, COLOURS)
    full = [1, WIDTH, COLOURS]
    gone = {axis % 3 for axis in axes}
    shape = [1 if a in gone else s for a, s in enumerate(full) if keep or a not in gone]
    where = writer.constant(np.array(axes, np.int32))
    y = writer.op(kind, [x, where], shape, options="ReducerOptions", keepDims=keep)
    y = reshape(writer, y, 1, int(np.prod(shape)))
    assert_converted(writer.save(tmp_path / "m.tflite", y))


def test_a_network_with_a_block_that_is_added_and_concatenated(tmp_path):
    """Pointwise and depthwise convolutions, a residual, padding, a mean over the space."""
    writer = Writer()
    x = sequence(writer)
    pads = writer.constant(np.array([[0, 0], [0, 0], [2, 1], [0, 0]], np.int32))
    x = writer.op("PAD", [x, pads], (1, 1, 15, 3))
    kernel, bias = writer.constant(weights(4, 1, 3, 3)), writer.constant(weights(4))
    conv = {"options": "Conv2DOptions", "strideH": 1, "strideW": 1}
    y = writer.op("CONV_2D", [x, kernel, bias], (1, 1, 15, 4), padding=SAME, **conv)
    again = writer.constant(weights(4, 1, 1, 4))
    z = writer.op("CONV_2D", [y, again, bias], (1, 1, 15, 4), padding=VALID, **conv)
    z = writer.op("ADD", [y, z], (1, 1, 15, 4), options="AddOptions")
    both = writer.op("CONCATENATION", [z, y], (1, 1, 15, 8), options="ConcatenationOptions", axis=3)
    both = writer.op("SQUEEZE", [both], (1, 15, 8), options="SqueezeOptions", squeezeDims=[1])
    axis = writer.constant(np.array([1], np.int32))
    mean = writer.op("MEAN", [both, axis], (1, 8), options="ReducerOptions", keepDims=False)
    out = writer.op(
        "SOFTMAX", [dense(writer, mean, 8, 3)], (1, 3), options="SoftmaxOptions", beta=1.0
    )
    imported = assert_converted(writer.save(tmp_path / "m.tflite", out), ModelIO())
    assert imported.task == "classification"
    found = [node.op_type for node in imported.graph.graph.node]
    assert "GlobalAveragePool" in found
    assert found.count("Transpose") == 1


def test_weights_stored_as_float16(tmp_path):
    writer = Writer()
    x = reshape(writer, writer.input(WIDTH, COLOURS), 1, 36)
    kernel = writer.op("DEQUANTIZE", [writer.constant(weights(2, 36, dtype=np.float16))], (2, 36))
    y = writer.op("FULLY_CONNECTED", [x, kernel, -1], (1, 2), options="FullyConnectedOptions")
    assert_converted(writer.save(tmp_path / "m.tflite", y))


def test_a_dense_layer_on_every_reading_loses_its_batch_on_the_way(tmp_path):
    writer = Writer()
    x = reshape(writer, writer.input(WIDTH, COLOURS), WIDTH, COLOURS)
    y = dense(writer, x, 3, 4, (WIDTH, 4), fusedActivationFunction=FUSED.RELU_N1_TO_1)
    y = reshape(writer, reshape(writer, y, 1, WIDTH, 4), 1, 48)
    assert_converted(writer.save(tmp_path / "m.tflite", dense(writer, y, 48, 2)))


def test_slices_and_parts(tmp_path):
    writer = Writer()
    x = writer.input(WIDTH, COLOURS)
    begin, end, step = (
        writer.constant(np.array(v, np.int32)) for v in ([0, -1, 0], [1, 0, 3], [1, 1, 1])
    )
    last = writer.op(
        "STRIDED_SLICE",
        [x, begin, end, step],
        (1, 3),
        options="StridedSliceOptions",
        beginMask=5,
        endMask=5,
        shrinkAxisMask=2,
    )
    at, size = (writer.constant(np.array(v, np.int32)) for v in ([0, 2, 1], [1, 4, 2]))
    part = writer.op("SLICE", [x, at, size], (1, 4, 2), options="SliceOptions")
    axis = writer.constant(np.array(1, np.int32))
    halves = writer.op(
        "SPLIT", [axis, x], (1, 6, 3), (1, 6, 3), options="SplitOptions", numSplits=2
    )
    order = writer.constant(np.array([0, 2, 1], np.int32))
    turned = writer.op("TRANSPOSE", [halves[1], order], (1, 3, 6), options="TransposeOptions")
    flat = [last, reshape(writer, part, 1, 8), reshape(writer, turned, 1, 18)]
    y = writer.op("CONCATENATION", flat, (1, 29), options="ConcatenationOptions", axis=-1)
    assert_converted(writer.save(tmp_path / "m.tflite", y))


def test_an_lstm_begins_every_window_anew(tmp_path):
    writer = Writer()
    x = writer.input(WIDTH, COLOURS)
    kernels = [writer.constant(weights(4, 3) + g / 10) for g in range(4)]
    inner = [writer.constant(weights(4, 4) - g / 10) for g in range(4)]
    biases = [writer.constant(weights(4) + g / 5) for g in range(4)]
    cells = [writer.tensor((1, 4), variable=True) for _ in range(2)]
    y = writer.op(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        [x, *kernels, *inner, -1, -1, -1, *biases, -1, -1, *cells, -1, -1, -1, -1],
        (1, WIDTH, 4),
        options="UnidirectionalSequenceLSTMOptions",
        fusedActivationFunction=FUSED.TANH,
        cellClip=10.0,  # as TensorFlow's converter always writes
    )
    path = writer.save(tmp_path / "m.tflite", reshape(writer, y, 1, WIDTH * 4))
    assert "within ±10" in assert_converted(path).notes[0]


def test_two_inputs(tmp_path):
    writer = Writer()
    motion, sound = writer.input(WIDTH, 2, name="motion"), writer.input(WIDTH, 1, name="sound")
    y = writer.op(
        "CONCATENATION",
        [sound, motion],
        (1, WIDTH, 3),
        options="ConcatenationOptions",
        axis=2,
    )
    path = writer.save(tmp_path / "m.tflite", reshape(writer, y, 1, 36))
    said = ModelIO(task="regression", inputs={"motion": ("a", "c"), "sound": ("b",)})
    assert_converted(path, said)


# --- what is refused ------------------------------------------------------------------------------


def refused(path, **options):
    with pytest.raises(ConfigError) as caught:
        load(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_custom_operator_is_refused_by_name(tmp_path):
    writer = Writer()
    y = writer.op("CUSTOM", [writer.input(WIDTH, COLOURS)], (1, 3), custom=b"FlexErfc")
    assert "FlexErfc" in refused(writer.save(tmp_path / "m.tflite", y))


def test_resource_variables_are_refused_by_name(tmp_path):
    writer = Writer()
    x = writer.input(WIDTH, COLOURS)
    held = writer.op("VAR_HANDLE", [], (1,), options="VarHandleOptions")
    read = writer.op("READ_VARIABLE", [held], (1, 3), options="ReadVariableOptions")
    y = writer.op("ADD", [reshape(writer, x, 12, 3), read], (12, 3), options="AddOptions")
    assert "resource variables" in refused(writer.save(tmp_path / "m.tflite", y))


def test_operators_without_a_form_are_named_together(tmp_path):
    writer = Writer()
    x = writer.op("SIN", [writer.input(WIDTH, COLOURS)], (1, WIDTH, 3))
    y = writer.op("COS", [x], (1, WIDTH, 3))
    assert "COS, SIN" in refused(writer.save(tmp_path / "m.tflite", y))


def test_a_quantized_file_is_refused(tmp_path):
    writer = Writer()
    x = reshape(writer, writer.input(WIDTH, COLOURS), 1, 36)
    kernel = writer.constant(np.ones((2, 36), np.int8))
    y = writer.op("FULLY_CONNECTED", [x, kernel, -1], (1, 2), options="FullyConnectedOptions")
    assert "is quantized" in refused(writer.save(tmp_path / "m.tflite", y))


def test_an_open_length_is_refused(tmp_path):
    writer = Writer()
    x = writer.input(WIDTH, COLOURS)
    writer.graph.tensors[x].shapeSignature = [-1, -1, COLOURS]
    y = reshape(writer, x, 1, 36)
    assert "fixed length" in refused(writer.save(tmp_path / "m.tflite", y))


def test_a_file_that_contradicts_itself_is_refused(tmp_path):
    writer = Writer()
    x = reshape(writer, writer.input(WIDTH, COLOURS), 1, 36)
    kernel = writer.constant(weights(2, 35))
    y = writer.op("FULLY_CONNECTED", [x, kernel, -1], (1, 2), options="FullyConnectedOptions")
    assert "FULLY_CONNECTED" in refused(writer.save(tmp_path / "m.tflite", y))


def test_a_damaged_file_is_refused(tmp_path):
    writer = Writer()
    x = reshape(writer, writer.input(WIDTH, COLOURS), 1, 36)
    path = writer.save(tmp_path / "m.tflite", dense(writer, x, 36, 2))
    data = path.read_bytes()
    for damaged in (b"hello", data[:40], data[: len(data) // 2], data[:64] + b"\xff" * 200):
        path.write_bytes(damaged)
        assert "export it again" in refused(path)
