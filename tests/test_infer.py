"""The engine answers as the model says, and says what is wrong with a bad one."""

import io

import msgspec
import numpy as np
import onnx
import pytest
from bundles import make_bundle

from edge_agent.chain import Chain, warm_up
from edge_agent.config import DecideConfig
from edge_agent.contract.bundle import Bundle, parse_bundle
from edge_agent.contract.errors import BundleError, InferenceError
from edge_agent.contract.manifest import Output, State, decode_manifest, encode_manifest
from edge_agent.infer import Engine, Model, engine_of, golden_fault
from edge_agent.metrics import Counters

SUM = State(input="sum", output="sum_next", shape=(1, 1))
SUM_MODEL = onnx.parser.parse_model(
    """
    <ir_version: 9, opset_import: ["": 18]>
    sums (float[N,4,2] window, float[1,1] sum) => (float[N,1] value, float[1,1] sum_next)
    <int64[2] axes = {1, 2}> {
        mean = ReduceMean<keepdims=0>(window, axes)
        shape = Constant<value_ints=[1, 1]>()
        flat = Reshape(mean, shape)
        sum_next = Add(flat, sum)
        value = Mul(sum_next, flat)
    }
    """
).SerializeToString()


def sums(hop: int = 1) -> Model:
    """A model whose value is the mean of the window, times the sum of the means so far."""
    bundle = parse_bundle(make_bundle(task="regression", hop=hop))
    manifest = msgspec.structs.replace(bundle.manifest, states=(SUM,))
    return Model.load(msgspec.structs.replace(bundle, manifest=manifest, model=SUM_MODEL))


def window(mean: float) -> np.ndarray:
    return np.full((4, 2), mean, np.float32)


def test_classification_answers_with_the_label_and_its_score() -> None:
    model = Model.load(parse_bundle(make_bundle()))
    assert model.answer(window(0.0))[0] == 0
    index, score, values = model.answer(window(1.0))
    assert index == 1
    assert 0.9 < score <= 1.0
    assert values == ()


def test_a_label_output_of_its_own_counts() -> None:
    model = Model.load(parse_bundle(make_bundle(label_output=True)))
    assert [model.answer(window(mean))[0] for mean in (0.0, 1.0, 0.0)] == [0, 1, 0]


def test_anomaly_is_a_score_above_zero() -> None:
    model = Model.load(parse_bundle(make_bundle(task="anomaly")))
    assert model.answer(window(1.5)) == (1, pytest.approx(0.5), ())
    assert model.answer(window(0.5)) == (0, pytest.approx(-0.5), ())


def test_regression_gives_all_its_values() -> None:
    model = Model.load(parse_bundle(make_bundle(task="regression", targets=3)))
    values = pytest.approx((2.0, 3.0, 4.0))
    assert model.answer(window(2.0)) == (0, pytest.approx(2.0), values)


def test_an_answer_that_is_no_number_is_an_error() -> None:
    model = Model.load(parse_bundle(make_bundle(task="regression")))
    with pytest.raises(InferenceError, match="the model answered nan"):
        model.answer(window(np.nan))


def test_golden_vectors_tell_right_from_wrong() -> None:
    right, wrong = parse_bundle(make_bundle()), parse_bundle(make_bundle(wrong_golden=True))
    assert golden_fault(right, engine_of(right)) is None
    fault = golden_fault(wrong, engine_of(wrong))
    assert fault is not None
    assert fault.startswith("golden vector 0")


def test_a_model_that_cannot_be_loaded_or_has_other_tensors_is_refused() -> None:
    bundle: Bundle = parse_bundle(make_bundle())
    scores = bundle.manifest.outputs
    with pytest.raises(InferenceError, match="cannot be loaded"):
        Engine(b"not onnx", length=4, channels=2, outputs=scores)
    with pytest.raises(InferenceError, match="the model takes"):
        Engine(bundle.model, length=5, channels=2, outputs=scores)
    with pytest.raises(InferenceError, match="the model gives"):
        Engine(
            bundle.model, length=4, channels=2, outputs=[Output(name="x", role="scores", width=2)]
        )


# --- states --------------------------------------------------------------------------------------


def test_state_goes_from_window_to_window_until_it_is_reset() -> None:
    model = sums()
    assert [model.answer(window(mean))[1] for mean in (1.0, 2.0, 3.0)] == [1.0, 6.0, 18.0]
    model.reset()
    assert [model.answer(window(mean))[1] for mean in (3.0, 2.0)] == [9.0, 10.0]


def test_a_score_that_is_no_number_does_not_spoil_the_state_for_ever() -> None:
    model = sums()
    with pytest.raises(InferenceError, match="answered nan"):
        model.answer(window(np.nan))
    assert model.answer(window(2.0))[1] == 4.0


def test_warm_up_leaves_no_trace_and_an_outage_begins_anew() -> None:
    model = sums()
    model.answer(window(7.0))
    warm_up(model)
    chain = Chain(model, DecideConfig(), Counters())
    assert [chain.model.answer(window(mean))[1] for mean in (1.0, 2.0)] == [1.0, 6.0]
    chain.forget()
    assert chain.model.answer(window(2.0))[1] == 4.0


def test_golden_vectors_of_a_model_with_state_begin_from_zeros() -> None:
    bundle = parse_bundle(make_bundle(task="regression"))
    with np.load(io.BytesIO(bundle.golden)) as golden:
        windows = golden["window"]
    means = windows.mean(axis=(1, 2), dtype=np.float64)
    values = (means * means.cumsum())[:, None].astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, window=windows, value=values)
    bundle = msgspec.structs.replace(
        bundle,
        manifest=msgspec.structs.replace(bundle.manifest, states=(SUM,)),
        model=SUM_MODEL,
        golden=buffer.getvalue(),
    )
    engine = engine_of(bundle)
    engine.run(window(5.0))
    assert golden_fault(bundle, engine) is None


@pytest.mark.parametrize(
    "states",
    [
        (),
        (State(input="sum", output="sum_next", shape=(1, 2)),),
        (State(input="sum", output="sum_next", shape=(1, 1), dtype="int64"),),
        (State(input="sum", output="absent", shape=(1, 1)),),
    ],
)
def test_states_that_are_not_those_of_the_model_are_refused(states: tuple[State, ...]) -> None:
    with pytest.raises(InferenceError, match="the model takes"):
        Engine(
            SUM_MODEL,
            length=4,
            channels=2,
            outputs=[Output(name="value", role="value", width=1)],
            states=states,
        )


@pytest.mark.parametrize(
    ("states", "fault"),
    [
        ((SUM, SUM), "a tensor has two roles"),
        ((State(input="sum", output="scores", shape=(1, 2)),), "a tensor has two roles"),
        ((State(input="a", output="b", shape=(0, 2)),), "not at least 1"),
        ((State(input="a", output="b", shape=(10_000, 10_000)),), "are allowed"),
    ],
)
def test_a_manifest_with_impossible_states_is_refused(
    states: tuple[State, ...], fault: str
) -> None:
    manifest = parse_bundle(make_bundle()).manifest
    with pytest.raises(BundleError, match=fault):
        encode_manifest(msgspec.structs.replace(manifest, states=states))


def test_a_manifest_keeps_its_states() -> None:
    manifest = parse_bundle(make_bundle()).manifest
    kept = decode_manifest(encode_manifest(msgspec.structs.replace(manifest, states=(SUM,))))
    assert kept.states == (SUM,)
    assert decode_manifest(encode_manifest(manifest)).states == ()
