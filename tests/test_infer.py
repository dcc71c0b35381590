"""The engine answers as the model says, and says what is wrong with a bad one."""

import numpy as np
import pytest
from bundles import make_bundle

from edge_agent.contract.bundle import Bundle, parse_bundle
from edge_agent.contract.errors import InferenceError
from edge_agent.contract.manifest import Output
from edge_agent.infer import Engine, Model, engine_of, golden_fault


def window(mean: float) -> np.ndarray:
    return np.full((4, 2), mean, np.float32)


def test_classification_answers_with_the_label_and_its_score() -> None:
    model = Model.load(parse_bundle(make_bundle()))
    assert model.answer(window(0.0))[0] == 0
    index, score = model.answer(window(1.0))
    assert index == 1
    assert 0.9 < score <= 1.0
    assert model.values == ()


def test_a_label_output_of_its_own_counts() -> None:
    model = Model.load(parse_bundle(make_bundle(label_output=True)))
    assert [model.answer(window(mean))[0] for mean in (0.0, 1.0, 0.0)] == [0, 1, 0]


def test_anomaly_is_a_score_above_zero() -> None:
    model = Model.load(parse_bundle(make_bundle(task="anomaly")))
    assert model.answer(window(1.5)) == (1, pytest.approx(0.5))
    assert model.answer(window(0.5)) == (0, pytest.approx(-0.5))


def test_regression_gives_all_its_values() -> None:
    model = Model.load(parse_bundle(make_bundle(task="regression", targets=3)))
    assert model.answer(window(2.0)) == (0, pytest.approx(2.0))
    assert model.values == pytest.approx((2.0, 3.0, 4.0))


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
