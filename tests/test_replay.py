"""Recordings through bundles: every window, its truth, and nothing across a cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from bundles import make_bundle

from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.errors import BundleError, SourceError
from edge_agent.contract.manifest import DecideSpec
from edge_agent.replay import Replayed, ReplayResult, format_text, replay

WATCH = Path(__file__).resolve().parents[1] / ".." / "shared/data/motion_watch/watch.npz"
MOTIONS = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")


def put_bundle(folder: Path, **kwargs) -> Path:
    path = folder / "model.bundle"
    path.write_bytes(make_bundle(**kwargs))
    return path


def put_npz(folder: Path, **arrays) -> Path:
    path = folder / "recording.npz"
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
    return path


def put_csv(folder: Path, text: str) -> Path:
    path = folder / "recording.csv"
    path.write_text(text)
    return path


def pairs(*values: float) -> np.ndarray:
    return np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)


def run(bundle: Path, recording: Path, **kwargs) -> tuple[ReplayResult, list[Replayed]]:
    seen: list[Replayed] = []
    return replay(bundle, recording, each=seen.append, **kwargs), seen


def test_a_csv_with_labels_by_name(tmp_path):
    table = "b,a,time,what\n0,0,1,rest\n0,0,2,rest\n1,1,3,move\n1,1,4,rest\n"
    result, seen = run(put_bundle(tmp_path, length=1), put_csv(tmp_path, table), labels="what")
    assert [d.label for d in seen] == ["rest", "rest", "move", "move"]
    assert [d.truth for d in seen] == ["rest", "rest", "move", "rest"]
    assert [d.reading for d in seen] == [1, 2, 3, 4]
    assert [d.t for d in seen] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert result.accuracy == result.state_accuracy == 0.75
    assert result.labelled == 4
    assert result.labels == {"rest": 2, "move": 2}
    assert (result.r2, result.mae) == (None, None)


def test_the_channels_are_taken_by_name_not_by_place(tmp_path):
    bundle = put_bundle(tmp_path, channels=("a",), length=1)
    _, seen = run(bundle, put_csv(tmp_path, "b,a\n0,1\n1,0\n"))
    assert [d.label for d in seen] == ["move", "rest"]


def test_labels_stay_beside_their_readings_when_rows_are_damaged(tmp_path):
    table = "a,b,what\n0,0,rest\nx,0,move\n1,1,move\n1\n\n0,0,rest\n,1,move\n"
    result, seen = run(put_bundle(tmp_path, length=1), put_csv(tmp_path, table), labels="what")
    assert [d.truth for d in seen] == ["rest", "move", "rest", "move"]
    assert [d.label for d in seen[:3]] == ["rest", "move", "rest"]
    assert (result.counts["torn"], result.counts["malformed"], result.counts["missing"]) == (1,) * 3
    assert "missing 1, torn 1, malformed 1" in format_text(result)


@pytest.mark.parametrize("labels", [[0, 1, 1], [0.0, 1.0, 1.0], ["0", "1", "1"]])
def test_labels_by_index(tmp_path, labels):
    recording = put_npz(tmp_path, signal=pairs(0, 1, 0), truth=labels)
    result, seen = run(put_bundle(tmp_path, length=1), recording, labels="truth")
    assert [d.truth for d in seen] == ["rest", "move", "move"]
    assert result.accuracy == pytest.approx(2 / 3)


def test_names_that_look_like_numbers_are_names(tmp_path):
    bundle = put_bundle(tmp_path, length=1, labels=("1", "2"))
    _, seen = run(bundle, put_npz(tmp_path, signal=pairs(0, 1), truth=[1, 2]), labels="truth")
    assert [d.truth for d in seen] == ["1", "2"]
    assert [d.label for d in seen] == ["1", "2"]


def test_windows_without_a_truth_do_not_count(tmp_path):
    recording = put_csv(tmp_path, "a,b,what\n0,0,rest\n1,1,\n1,1,rest\n")
    result, seen = run(put_bundle(tmp_path, length=1), recording, labels="what")
    assert [d.truth for d in seen] == ["rest", None, "rest"]
    assert (result.labelled, result.accuracy) == (2, 0.5)


def test_no_window_spans_two_recordings(tmp_path):
    recording = put_npz(
        tmp_path, signal=pairs(0, 0, 0, 1, 1, 1, 1, 0), offsets=[0, 3, 7, 8], label=[0, 1, 0]
    )
    result, seen = run(put_bundle(tmp_path, length=3), recording, labels="label")
    assert [(d.recording, d.reading, d.label) for d in seen] == [
        (0, 3, "rest"),
        (1, 3, "move"),
        (1, 4, "move"),
    ]
    assert [d.truth for d in seen] == ["rest", "move", "move"]
    assert [d.fired for d in seen] == [True, True, False]
    assert [d.t for d in seen] == pytest.approx([0.2, 0.2, 0.3])
    assert result.recordings == 3
    assert result.counts["readings"] == 8
    assert result.counts["windows"] == 3
    assert result.accuracy == 1.0


def test_the_cooldown_lasts_in_the_time_of_the_recording(tmp_path):
    bundle = put_bundle(tmp_path, length=1, rate_hz=2.0, decide=DecideSpec(cooldown_s=1.5))
    _, seen = run(bundle, put_npz(tmp_path, signal=pairs(0, 1, 0, 1, 0)))
    assert [d.fired for d in seen] == [True, False, False, True, False]


def test_a_regression_is_scored_by_r2_and_mean_error(tmp_path):
    bundle = put_bundle(tmp_path, task="regression", length=1)
    recording = put_csv(tmp_path, "a,b,y\n1,1,1.5\n2,2,2\n3,3,\n4,4,3.5\n")
    result, seen = run(bundle, recording, labels="y")
    assert [d.truth for d in seen] == [1.5, 2.0, None, 3.5]
    truth, got = np.array([1.5, 2, 3.5]), np.array([1, 2, 4])
    spread = ((truth - truth.mean()) ** 2).sum()
    assert result.r2 == pytest.approx(1 - ((got - truth) ** 2).sum() / spread)
    assert result.mae == pytest.approx(1 / 3)
    assert (result.accuracy, result.labelled, result.labels) == (None, 3, {})
    assert "MAE 0.3333" in format_text(result)


def test_a_truth_that_never_varies_leaves_r2_undefined(tmp_path):
    bundle = put_bundle(tmp_path, task="regression", length=1)
    result, _ = run(bundle, put_npz(tmp_path, signal=pairs(1, 2), y=[1, 1]), labels="y")
    assert result.r2 is None
    assert result.mae == 0.5
    assert "R2 undefined" in format_text(result)


def test_anomalies_against_their_labels(tmp_path):
    bundle = put_bundle(tmp_path, task="anomaly", length=1)
    recording = put_npz(tmp_path, signal=pairs(0, 2, 0), y=["normal", "anomaly", "anomaly"])
    result, _ = run(bundle, recording, labels="y")
    assert result.accuracy == pytest.approx(2 / 3)


def test_without_labels_there_is_no_accuracy_and_the_result_is_plain_json(tmp_path):
    result, _ = run(put_bundle(tmp_path, length=1), put_npz(tmp_path, signal=pairs(0, 1)))
    again = msgspec.json.decode(msgspec.json.encode(result), type=ReplayResult)
    assert again == result
    assert (result.accuracy, result.labelled) == (None, 0)
    assert "accuracy" not in format_text(result)
    assert result.latency_us["total"].n == 2


@pytest.mark.parametrize(
    ("arrays", "labels", "message"),
    [
        ({"signal": pairs(0, 1), "y": ["rest", "fly"]}, "y", "rest, move, or 0 to 1"),
        ({"signal": pairs(0, 1), "y": [0, 2]}, "y", "2 is no label"),
        ({"signal": pairs(0, 1), "y": [0, 1, 1]}, "y", r"shape \(3,\)"),
        ({"signal": pairs(0, 1)}, "y", "has no array 'y'"),
        ({"signal": pairs(0, 1), "offsets": [0, 3]}, None, "rise from 0 to 2"),
        ({"signal": pairs(0, 1), "offsets": [0, 2, 1, 2]}, None, "rise from 0 to 2"),
        ({"other": pairs(0, 1)}, None, "its arrays are other"),
    ],
)
def test_what_is_wrong_with_a_recording_is_said(tmp_path, arrays, labels, message):
    with pytest.raises(SourceError, match=message):
        replay(put_bundle(tmp_path), put_npz(tmp_path, **arrays), labels=labels)


def test_what_is_wrong_with_a_csv_or_a_bundle_is_said(tmp_path):
    recording = put_csv(tmp_path, "a,b\n0,0\n")
    with pytest.raises(SourceError, match="its columns are a, b"):
        replay(put_bundle(tmp_path), recording, labels="what")
    with pytest.raises(SourceError, match="no column 'c'"):
        replay(put_bundle(tmp_path, channels=("a", "c")), recording)
    with pytest.raises(BundleError, match="not a bundle"):
        replay(recording, recording)


@pytest.mark.skipif(not WATCH.exists(), reason="the watch recordings are not here")
def test_decisions_on_real_recordings_are_the_model_s_own_on_every_window(tmp_path):
    channels = ("ax", "ay", "az", "wx", "wy", "wz")
    packed = make_bundle(
        length=100, hop=50, rate_hz=50, channels=channels, labels=MOTIONS, bias=2.0
    )
    (tmp_path / "model.bundle").write_bytes(packed)
    result, seen = run(tmp_path / "model.bundle", WATCH, labels="label")
    with np.load(WATCH) as data:
        signal, offsets, truth = data["signal"], data["offsets"], data["label"]
    ends = [end for first, last in pairwise(offsets) for end in range(first + 100, last + 1, 50)]
    truth = np.repeat(truth, np.diff(offsets))  # one label for each recording
    session = ort.InferenceSession(parse_bundle(packed).model)
    windows = np.stack([signal[end - 100 : end] for end in ends])
    (scores,) = session.run(["scores"], {"window": windows})
    answers = scores.argmax(axis=1)
    assert len(seen) == len(ends) == 4677
    assert len(set(answers.tolist())) >= 2
    assert [d.label for d in seen] == [MOTIONS[at] for at in answers]
    assert [d.truth for d in seen] == [MOTIONS[truth[end - 1]] for end in ends]
    assert result.accuracy == (answers == truth[np.array(ends) - 1]).mean()
