"""Warnings of libraries become notes."""

from __future__ import annotations

import warnings

import pytest

from converter.remarks import REMARKS_MAX, remarks


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
