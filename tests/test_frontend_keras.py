"""Keras files: every layer against Keras itself, both file formats, and what is refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from onnx_runs import assert_same_answers

from converter.frontends import import_model
from converter.model_io import ModelIO
from converter.nets.keras_file import read_keras
from converter.nets.keras_model import parse_model
from converter.nets.keras_reference import evaluate
from edge_agent.contract.errors import ConfigError

pytest.importorskip("torch", reason="Keras has no backend here")
h5py = pytest.importorskip("h5py", reason="the extra 'keras' is not installed")
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed")
layers = keras.layers

LENGTH, CHANNELS = 12, ("a", "b", "c")
CLASSES = ModelIO(task="classification")
VALUES = ModelIO(task="regression")


def windows(count=9, length=LENGTH, channels=3):
    return np.random.default_rng(5).normal(size=(count, length, channels)).astype(np.float32)


def randomised(model):
    """Weights that show a mistake in any of them, those of a fresh model being 0 and 1."""
    rng = np.random.default_rng(1)
    values = [rng.uniform(0.3, 1.2, w.shape) * rng.choice((-1, 1), w.shape) for w in model.weights]
    by_name = zip(values, model.weights, strict=True)
    model.set_weights([abs(v) if "variance" in w.path else 0.5 * v for v, w in by_name])
    return model


def load(path, model_io=VALUES, *, length=LENGTH, channels=CHANNELS):
    return import_model(path, length=length, channels=channels, rate_hz=1.0, model_io=model_io)


def saved(model, path):
    randomised(model).save(path)
    return path


def operators(imported):
    return [node.op_type for node in imported.graph.graph.node]


def assert_converted(model, path, model_io=VALUES):
    """As Keras answers; and the formulas, which stand in for Keras, too."""
    _, *space, channels = model.inputs[0].shape
    length = int(np.prod(space))
    names = CHANNELS[:channels]
    imported = load(saved(model, path), model_io, length=length, channels=names)
    assert not imported.notes
    given = windows(length=length, channels=channels)
    assert_same_answers(imported, given, rtol=1e-4, atol=1e-5)
    described = parse_model(read_keras(path))
    (name,) = described.inputs
    for window in given[:3]:
        feeds = {name: window.reshape(1, *space, channels)}
        (formula,) = evaluate(described, feeds).values()
        own = keras.ops.convert_to_numpy(model(feeds[name], training=False))
        np.testing.assert_allclose(formula, own, rtol=1e-4, atol=1e-5)
    return imported


def sequence(*steps, shape=(LENGTH, 3)):
    return keras.Sequential([keras.Input(shape), *steps])


SEQUENCE_LAYERS = {
    "conv_same": lambda: layers.Conv1D(5, 4, padding="same", strides=2, activation="relu"),
    "conv_valid": lambda: layers.Conv1D(5, 3, dilation_rate=2, use_bias=False),
    "conv_causal": lambda: layers.Conv1D(5, 3, padding="causal", dilation_rate=2),
    "conv_groups": lambda: layers.Conv1D(6, 3, groups=3),
    "depthwise": lambda: layers.DepthwiseConv1D(3, depth_multiplier=2, padding="same"),
    "separable": lambda: layers.SeparableConv1D(5, 3, depth_multiplier=2, activation="elu"),
    "max_pool": lambda: layers.MaxPooling1D(3, strides=2, padding="same"),
    "mean_pool": lambda: layers.AveragePooling1D(5, strides=2),
    "pool_valid": lambda: layers.MaxPooling1D(5),
    "norm": layers.BatchNormalization,
    "norm_plain": lambda: layers.BatchNormalization(scale=False, center=False, epsilon=0.01),
    "norm_times": lambda: layers.BatchNormalization(axis=1),
    "layer_norm": layers.LayerNormalization,
    "zero_padding": lambda: layers.ZeroPadding1D((2, 1)),
    "cropping": lambda: layers.Cropping1D((2, 0)),
    "upsampling": lambda: layers.UpSampling1D(2),
    "permute": lambda: layers.Permute((2, 1)),
    "rescaling": lambda: layers.Rescaling([0.5, 2.0, 1.0], offset=[1.0, 0.0, -1.0]),
    "normalization": lambda: layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 1.0, 0.5]),
    "dense": lambda: layers.Dense(5, activation="tanh"),
    "time_distributed": lambda: layers.TimeDistributed(layers.Dense(5, activation="relu")),
    "prelu": lambda: layers.PReLU(shared_axes=[1]),
    "spatial_dropout": lambda: layers.SpatialDropout1D(0.5),
    "gru": lambda: layers.GRU(4, return_sequences=True),
    "gru_before": lambda: layers.GRU(4, return_sequences=True, reset_after=False),
    "lstm": lambda: layers.LSTM(4, return_sequences=True),
    "rnn": lambda: layers.SimpleRNN(4, return_sequences=True),
    "both_ways": lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
    "both_summed": lambda: layers.Bidirectional(
        layers.GRU(4, return_sequences=True), merge_mode="ave"
    ),
}


@pytest.mark.parametrize("layer", SEQUENCE_LAYERS)
def test_a_layer_on_a_sequence_answers_as_keras(layer, tmp_path):
    """Behind it every place and channel counts, and their mean."""
    window = keras.Input((LENGTH, 3))
    x = SEQUENCE_LAYERS[layer]()(window)
    parts = [layers.Dense(4)(layers.Flatten()(x)), layers.GlobalAveragePooling1D()(x)]
    assert_converted(keras.Model(window, layers.Concatenate()(parts)), tmp_path / "model.keras")


IMAGE_LAYERS = {
    "conv_same": lambda: layers.Conv2D(5, (3, 2), padding="same", strides=2),
    "conv_dilated": lambda: layers.Conv2D(4, 2, dilation_rate=(2, 1), activation="selu"),
    "depthwise": lambda: layers.DepthwiseConv2D(3, padding="same", strides=2),
    "separable": lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2),
    "max_pool": lambda: layers.MaxPooling2D(2, padding="same"),
    "mean_pool": lambda: layers.AveragePooling2D((3, 2), strides=1),
    "zero_padding": lambda: layers.ZeroPadding2D(((1, 0), (2, 1))),
    "cropping": lambda: layers.Cropping2D((1, 0)),
    "upsampling": lambda: layers.UpSampling2D((2, 1)),
}


@pytest.mark.parametrize("layer", IMAGE_LAYERS)
def test_a_layer_on_an_image_answers_as_keras(layer, tmp_path):
    model = sequence(
        IMAGE_LAYERS[layer](),
        layers.BatchNormalization(),
        layers.GlobalMaxPooling2D(keepdims=True),
        layers.Flatten(),
        layers.Dense(3),
        shape=(6, 6, 1),
    )
    assert_converted(model, tmp_path / "model.keras")


@pytest.mark.parametrize(
    "activation",
    [
        "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "linear",
        "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus",
        "softsign", "swish", "tanh",
    ],
)  # fmt: skip
def test_an_activation_answers_as_keras(activation, tmp_path):
    steps = (layers.Conv1D(4, 3), layers.Activation(activation), layers.Flatten(), layers.Dense(3))
    assert_converted(sequence(*steps), tmp_path / "model.keras")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.ReLU(max_value=1.0, negative_slope=0.1),
        lambda: layers.ReLU(max_value=1.0),
        lambda: layers.LeakyReLU(negative_slope=0.15),
        lambda: layers.ELU(alpha=0.7),
        layers.Softmax,
        lambda: layers.Dense(4, activation=layers.LeakyReLU(negative_slope=0.4)),
        lambda: layers.GaussianNoise(0.5),
        lambda: layers.RepeatVector(3),
        lambda: layers.LSTM(3),
        lambda: layers.GRU(3, go_backwards=True),
    ],
)
def test_a_further_layer_answers_as_keras(layer, tmp_path):
    step = layer()
    first = [] if isinstance(step, (layers.LSTM, layers.GRU)) else [layers.GlobalMaxPooling1D()]
    model = sequence(*first, step, layers.Flatten(), layers.Dense(2))
    assert_converted(model, tmp_path / "model.keras")


def branched():
    """A functional model with a shared layer, a model inside, and each way to merge."""
    window = keras.Input((LENGTH, len(CHANNELS)), name="readings")
    shared = layers.Conv1D(4, 3, padding="same", name="shared")
    x = layers.BatchNormalization()(shared(window))
    y = layers.ReLU()(shared(layers.Rescaling(0.5)(window)))
    z = layers.Subtract()([layers.Maximum()([x, y]), layers.Minimum()([x, y])])
    merged = layers.Concatenate()([layers.Add()([x, y, z]), layers.Multiply()([x, y])])
    merged = layers.Average()([merged, layers.Concatenate(axis=2)([y, x])])
    head = keras.Sequential([layers.Flatten(), layers.Dense(6, "relu"), layers.Dropout(0.5)])
    out = layers.Dense(3, activation="softmax", name="scores")(head(merged))
    return keras.Model(window, out)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_functional_model_answers_as_keras_in_both_formats(suffix, tmp_path):
    imported = assert_converted(branched(), tmp_path / f"model{suffix}", ModelIO())
    assert imported.task == "classification"
    assert imported.labels == ("0", "1", "2")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_models_in_models_find_their_weights(suffix, tmp_path):
    inner_in = keras.Input((LENGTH, 4))
    inner = keras.Model(
        inner_in,
        layers.BatchNormalization()(layers.Conv1D(4, 3)(inner_in)),
        name="inner",
    )
    middle = keras.Sequential([layers.Conv1D(4, 1), inner, layers.Flatten()], name="middle")
    model = sequence(layers.Conv1D(5, 1), middle, layers.Dense(2))
    assert_converted(model, tmp_path / f"model{suffix}")


def test_a_batch_norm_is_folded_and_a_chain_of_convolutions_turned_once(tmp_path):
    model = sequence(
        layers.Conv1D(8, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling1D(2),
        layers.SeparableConv1D(8, 3),
        layers.BatchNormalization(),
        layers.Activation("relu"),
        layers.Flatten(),
        layers.Dense(8, use_bias=False),
        layers.BatchNormalization(),
        layers.Dense(3, activation="softmax"),
    )
    imported = assert_converted(model, tmp_path / "model.keras", ModelIO())
    found = operators(imported)
    assert found.count("Transpose") == 1
    assert not {"Mul", "Add", "BatchNormalization"} & set(found)
    assert found.count("Gemm") == 2


def test_a_normalization_that_was_adapted_to_data(tmp_path):
    step = layers.Normalization()
    step.adapt(windows(50) * 3 + 1)
    model = sequence(step, layers.Flatten(), layers.Dense(2))
    path = tmp_path / "model.keras"
    model.save(path)
    assert_same_answers(load(path), windows(), rtol=1e-4, atol=1e-5)


def test_channels_first_layers(tmp_path):
    model = sequence(
        layers.Permute((2, 1)),
        layers.Conv1D(4, 3, data_format="channels_first"),
        layers.AveragePooling1D(2, data_format="channels_first"),
        layers.Flatten(data_format="channels_first"),
        layers.Dense(2),
    )
    assert_converted(model, tmp_path / "model.keras")


def test_several_inputs_and_outputs(tmp_path):
    a, b = keras.Input((LENGTH, 2), name="motion"), keras.Input((LENGTH, 1), name="sound")
    x = layers.Concatenate(name="both")([layers.Conv1D(3, 3)(a), layers.Conv1D(2, 3)(b)])
    x = layers.Flatten()(x)
    heads = [layers.Dense(2, name="kind", activation="softmax")(x), layers.Dense(1, name="size")(x)]
    path = saved(keras.Model([a, b], heads), tmp_path / "model.keras")
    said = ModelIO(output="kind", inputs={"motion": ("a", "c"), "sound": ("b",)})
    imported = load(path, said)
    assert not imported.notes
    assert_same_answers(imported, windows(), rtol=1e-4, atol=1e-5)


def test_an_open_length_is_that_of_the_window(tmp_path):
    model = sequence(
        layers.Conv1D(4, 3), layers.GlobalMaxPooling1D(), layers.Dense(2), shape=(None, 3)
    )
    imported = load(saved(model, tmp_path / "model.keras"))
    assert_same_answers(imported, windows(), rtol=1e-4, atol=1e-5)


def test_a_mean_pool_leaves_its_padding_out(tmp_path):
    """Not so in Keras on torch, which is then not what the conversion is compared with."""
    model = sequence(layers.AveragePooling1D(4, strides=3, padding="same"), layers.Flatten())
    imported = load(saved(model, tmp_path / "model.keras"))
    assert "AveragePooling" in imported.notes[0]
    given = windows(length=LENGTH)
    edges = [(max(0, at - 0), min(LENGTH, at + 4)) for at in range(0, LENGTH, 3)]
    wanted = np.stack([given[:, a:b].mean(axis=1) for a, b in edges], axis=1)
    np.testing.assert_allclose(
        imported.original(given).scores, wanted.reshape(len(given), -1), atol=1e-6
    )
    assert_same_answers(imported, given, atol=1e-5)


# --- files of Keras 2 ----------------------------------------------------------------------------


def keras_2_layer(kind, name, inbound=None, **config):
    layer = {"class_name": kind, "config": {"name": name, **config}}
    return layer if inbound is None else {**layer, "name": name, "inbound_nodes": inbound}


def keras_2_file(path, description, weights):
    """A file as Keras 2 wrote it."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"2.11.0"
        file.attrs["model_config"] = json.dumps(description)
        for layer, arrays in weights.items():
            group = file.create_group(f"model_weights/{layer}")
            group.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                group[name] = array
    return path


def test_a_file_of_keras_2_has_its_own_hard_sigmoid_and_says_who_judged_it(tmp_path):
    rng = np.random.default_rng(2)
    kernel = rng.normal(size=(36, 2)).astype(np.float32)
    bias = rng.normal(size=2).astype(np.float32)
    description = {
        "class_name": "Functional",
        "config": {
            "name": "net",
            "layers": [
                keras_2_layer("InputLayer", "in", [], batch_input_shape=[None, 12, 3]),
                keras_2_layer("Flatten", "flat", [[["in", 0, 0, {}]]]),
                keras_2_layer("Dense", "out", [[["flat", 0, 0, {}]]], activation="hard_sigmoid"),
            ],
            "input_layers": [["in", 0, 0]],
            "output_layers": [["out", 0, 0]],
        },
    }
    weights = {"out": {"out/kernel:0": kernel, "out/bias:0": bias}}
    imported = load(keras_2_file(tmp_path / "old.h5", description, weights))
    wanted = np.clip(0.2 * (windows().reshape(9, -1) @ kernel + bias) + 0.5, 0, 1)
    np.testing.assert_allclose(imported.original(windows()).scores, wanted, atol=1e-5)
    assert_same_answers(imported, windows(), atol=1e-5)
    assert any("float64 formulas" in note for note in imported.notes)


def test_a_bare_sequential_of_keras_2(tmp_path):
    kernel = np.ones((3, 1, 2), np.float32)
    description = {
        "class_name": "Sequential",
        "config": [
            keras_2_layer(
                "Conv1D", "conv", batch_input_shape=[None, 12, 1], kernel_size=[3], use_bias=False
            ),
            keras_2_layer("GlobalMaxPooling1D", "pool"),
        ],
    }
    path = keras_2_file(tmp_path / "old.h5", description, {"conv": {"conv/kernel:0": kernel}})
    imported = load(path, channels=("a",))
    given = windows(channels=1)
    sums = given[:, :-2, 0] + given[:, 1:-1, 0] + given[:, 2:, 0]
    np.testing.assert_allclose(
        imported.original(given).scores, np.repeat(sums.max(1)[:, None], 2, 1), atol=1e-5
    )
    assert_same_answers(imported, given, atol=1e-5)


def test_a_keras_file_of_2_12_keeps_its_weights_elsewhere(tmp_path):
    path = saved(branched(), tmp_path / "model.keras")
    wanted = load(path, ModelIO()).original(windows()).scores
    with zipfile.ZipFile(path) as archive:
        file = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(file, "r+") as root:
        root.move("layers", "_layer_checkpoint_dependencies")
        inner = root["_layer_checkpoint_dependencies/sequential"]
        inner.move("layers", "_layer_checkpoint_dependencies")
    imported = load(rewritten(path, lambda _: None, weights=file.getvalue()), ModelIO())
    assert_same_answers(imported, windows(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(imported.original(windows()).scores, wanted, atol=1e-5)


# --- what is refused ------------------------------------------------------------------------------


def small():
    return sequence(layers.Flatten(), layers.Dense(2, name="out"))


def rewritten(path, change, *, weights=None):
    """The file with its description changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    description = json.loads(members["config.json"])
    change(description["config"]["layers"])
    members["config.json"] = json.dumps(description).encode()
    if weights is not None:
        members["model.weights.h5"] = weights
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def refused(path, **options):
    with pytest.raises(ConfigError) as caught:
        load(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_lambda_is_refused_and_never_run(tmp_path):
    path = tmp_path / "model.keras"
    model = sequence(layers.Lambda(lambda x: x * 2), layers.Flatten(), layers.Dense(2))
    model.save(path)
    assert "Lambda" in refused(path)


@keras.saving.register_keras_serializable("shop")
class Doubled(layers.Layer):
    """A class of somebody's own."""

    def call(self, x):
        return x * 2


def test_a_class_of_somebodys_own_is_refused_by_name(tmp_path):
    path = tmp_path / "model.keras"
    sequence(Doubled(), layers.Flatten(), layers.Dense(2)).save(path)
    assert "shop>Doubled" in refused(path)


def test_layers_without_a_form_are_named_together(tmp_path):
    path = tmp_path / "model.keras"
    x = keras.Input((LENGTH, len(CHANNELS)))
    y = layers.Flatten()(layers.MultiHeadAttention(2, 2)(x, x))
    keras.Model(x, layers.UnitNormalization()(layers.Dense(2)(y))).save(path)
    assert "MultiHeadAttention, UnitNormalization" in refused(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"module": "os", "class_name": "system"}, "system of os"),
        ({"module": "kerasx.layers"}, "kerasx.layers"),
        ({"class_name": "Dense", "registered_name": "evil>Dense"}, "evil>Dense"),
    ],
)
def test_a_description_that_names_other_modules_is_refused(change, said, tmp_path):
    path = saved(small(), tmp_path / "model.keras")
    assert said in refused(rewritten(path, lambda found: found[-1].update(change)))


def test_an_unknown_activation_is_refused_by_name(tmp_path):
    path = saved(small(), tmp_path / "model.keras")
    rewritten(path, lambda found: found[-1]["config"].update(activation="wobble"))
    assert "'wobble'" in refused(path)


def test_code_in_an_initializer_is_never_reached(tmp_path):
    """It says nothing about the answers, so the model is converted, and Keras is not asked."""
    path = saved(small(), tmp_path / "model.keras")
    marker = tmp_path / "ran"
    attack = {"module": "os", "class_name": "mkdir", "config": {"path": str(marker)}}
    rewritten(path, lambda found: found[-1]["config"].update(kernel_initializer=attack))
    imported = load(path)
    assert "os.mkdir" in imported.notes[0]
    assert not marker.exists()


@pytest.mark.parametrize("field", ["stateful", "time_major"])
def test_a_recurrent_layer_that_works_otherwise_is_refused(field, tmp_path):
    path = saved(sequence(layers.GRU(3), layers.Dense(2)), tmp_path / "model.keras")
    rewritten(path, lambda found: found[1]["config"].update({field: True}))
    assert field in refused(path)


def h5(**arrays):
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        group = root.create_group("layers/dense/vars")
        for number, array in enumerate(arrays.values()):
            group[str(number)] = array
    return file.getvalue()


def test_weights_of_another_shape_are_refused(tmp_path):
    path = saved(small(), tmp_path / "model.keras")
    weights = h5(kernel=np.ones((5, 2), np.float32), bias=np.ones(2, np.float32))
    assert "'out'" in refused(rewritten(path, lambda _: None, weights=weights))


def test_a_norm_without_its_weights_is_refused_by_name(tmp_path):
    model = sequence(layers.Flatten(), layers.Dense(2), layers.BatchNormalization(name="norm"))
    path = saved(model, tmp_path / "model.keras")
    weights = h5(kernel=np.ones((36, 2), np.float32), bias=np.ones(2, np.float32))
    assert "'norm'" in refused(rewritten(path, lambda _: None, weights=weights))


def test_missing_weights_are_refused(tmp_path):
    path = saved(small(), tmp_path / "model.keras")
    assert "'out'" in refused(rewritten(path, lambda _: None, weights=h5()))


def test_a_link_to_another_file_is_refused(tmp_path):
    path = saved(small(), tmp_path / "model.keras")
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["kernel"] = np.ones((36, 2), np.float32)
    weights = h5(kernel=np.ones((36, 2), np.float32), bias=np.ones(2, np.float32))
    file = io.BytesIO(weights)
    with h5py.File(file, "r+") as root:
        del root["layers/dense/vars/0"]
        root["layers/dense/vars/0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "kernel")
    assert "link" in refused(rewritten(path, lambda _: None, weights=file.getvalue()))


def test_more_than_memory_holds_is_refused_before_it_is_unpacked(tmp_path):
    path = saved(small(), tmp_path / "model.keras")
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        # A file of a few KiB that says it has 4 GiB: its chunks were never written.
        root.create_dataset("layers/dense/vars/0", (2**30,), np.float32, chunks=(2**20,))
    assert "2 GiB" in refused(rewritten(path, lambda _: None, weights=file.getvalue()))


def test_a_description_that_unpacks_to_too_much_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (17 * 2**20))
    assert path.stat().st_size < 2**17
    assert "16 MiB" in refused(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_damaged_file_is_refused(suffix, tmp_path):
    path = saved(small(), tmp_path / f"model{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "model.save" in refused(path)
    path.write_bytes(b"hello")
    assert "model.save" in refused(path)


def test_weights_alone_are_refused(tmp_path):
    path = tmp_path / "only.weights.h5"
    small().save_weights(path)
    assert "save_weights" in refused(path)


def test_it_works_without_keras_and_says_so(tmp_path):
    """In a process in which Keras cannot be imported."""
    path = saved(branched(), tmp_path / "model.keras")
    code = (
        "import sys; sys.modules['keras'] = None\n"
        "from pathlib import Path\n"
        "from converter.frontends import import_model\n"
        f"i = import_model(Path({str(path)!r}), length=12, channels=('a', 'b', 'c'), rate_hz=1.0)\n"
        "assert 'torch' not in sys.modules\n"
        "print(i.task, i.notes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("classification")
    assert "float64 formulas" in done.stdout
