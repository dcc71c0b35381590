"""Warnings of libraries become notes."""

from __future__ import annotations

import warnings
from pathlib import Path

import joblib
import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from converter import build
from converter.recipe import ChannelRecipe, DataRecipe, QuantizeRecipe, Recipe
from converter.reports.remarks import REMARKS_MAX, remarks


def test_each_warning_is_a_note_once_and_stderr_stays_empty(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with remarks() as found:
        for _ in range(3):
            warnings.warn("will change\n  in 2.0", FutureWarning, stacklevel=1)
        warnings.warn("only for authors", DeprecationWarning, stacklevel=1)
    assert found == ["FutureWarning: will change in 2.0"]
    assert capfd.readouterr().err == ""


def test_there_are_not_too_many() -> None:
    with remarks() as found:
        for number in range(2 * REMARKS_MAX):
            warnings.warn(f"number {number}", UserWarning, stacklevel=1)
    assert len(found) == REMARKS_MAX
    assert found[0] == "UserWarning: number 0"


def test_an_error_passes_and_the_filters_are_as_before() -> None:
    before = list(warnings.filters)
    with pytest.raises(ValueError, match="broken"), remarks():
        raise ValueError("broken")
    assert warnings.filters == before


def wordy(model: LogisticRegression) -> LogisticRegression:
    """What a library does that reads a file of an earlier version."""
    for _ in range(2):
        warnings.warn("read", FutureWarning, stacklevel=1)
    return model


class Wordy:
    """Is read back as a model, with a warning."""

    def __init__(self, model: LogisticRegression) -> None:
        self.model = model

    def __reduce__(self) -> tuple[object, tuple[LogisticRegression]]:
        return wordy, (self.model,)


def test_what_a_model_warns_of_stands_in_the_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(120, 2))
    y = (x.sum(axis=1) > 0).astype(int)
    joblib.dump(Wordy(LogisticRegression().fit(x, y)), tmp_path / "model.joblib")
    np.savez(tmp_path / "val.npz", windows=x.astype(np.float32)[:, None], y=y)
    built = build(
        Recipe(
            name="wordy",
            version="1.0.0",
            model=str(tmp_path / "model.joblib"),
            allow_pickle=True,
            data=DataRecipe(path=str(tmp_path / "val.npz"), label="y"),
            channels=(ChannelRecipe(name="a"), ChannelRecipe(name="b")),
            rate_hz=10.0,
            quantize=QuantizeRecipe(int8=False),
            output=str(tmp_path),
        )
    )
    assert [note for note in built.notes if "FutureWarning" in note] == ["FutureWarning: read"]
    report = msgspec.json.decode((tmp_path / "wordy-1.0.0.report.json").read_bytes())
    assert "FutureWarning: read" in report["notes"]
    assert "FutureWarning" not in capfd.readouterr().err
