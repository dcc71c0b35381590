"""Validation data: windows as the device cuts them, and every fault named by its place."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.data import WINDOWS_MIN, Validation, read_validation, spread
from converter.recipe import DataRecipe
from converter.truth import require_every, true_classes, true_targets
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Channel, WindowSpec

AB = (Channel(name="a"), Channel(name="b"))


def spec(length: int = 1, hop: int = 1) -> WindowSpec:
    return WindowSpec(length=length, hop=hop, rate_hz=10.0)


def lines(count: int = 20) -> list[str]:
    return [
        "b,rec,a,y",
        *(f"{i}.5,{i // 10},{i},{'even' if i % 2 == 0 else 'odd'}" for i in range(count)),
    ]


def read_csv(
    tmp_path: Path, rows: list[str], window: WindowSpec | None = None, **data: Any
) -> Validation:
    path = tmp_path / "val.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return read_validation(DataRecipe(path=str(path), **data), AB, window or spec())


def read_npz(tmp_path: Path, window: WindowSpec, arrays: dict[str, Any], **data: Any) -> Validation:
    path = tmp_path / "val.npz"
    np.savez(path, **arrays)
    return read_validation(DataRecipe(path=str(path), **data), AB, window)


# --- CSV -----------------------------------------------------------------------------------------


def test_columns_are_found_by_name_and_truth_is_that_of_the_last_reading(tmp_path: Path) -> None:
    found = read_csv(tmp_path, lines(40), spec(3, 2), label="y")
    np.testing.assert_array_equal(found.windows[1], [[2, 2.5], [3, 3.5], [4, 4.5]])
    assert found.truth is not None
    assert found.truth[:2, 0].tolist() == ["even", "even"]
    assert found.ends[1] == 6  # reading 4 stands on line 6, below the header
    assert found.windows.dtype == np.float32


def test_no_window_spans_two_recordings(tmp_path: Path) -> None:
    found = read_csv(tmp_path, lines(60), spec(4, 2), recording="rec")
    assert len(found.windows) == 6 * 4
    firsts = found.windows[:, 0, 0].astype(int) // 10
    lasts = found.windows[:, -1, 0].astype(int) // 10
    np.testing.assert_array_equal(firsts, lasts)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("1.5,0,nan,odd", r"val\.csv:4: column 'a': nan is not a finite"),
        ("1.5,0,inf,odd", r"val\.csv:4: column 'a': inf is not a finite"),
        ("1.5,0,1e39,odd", r"val\.csv:4: column 'a': 1e39 is not a finite float32"),
        ("1.5,0,,odd", r"val\.csv:4: column 'a' is empty"),
        ("x,0,1,odd", r"val\.csv:4: column 'b': 'x' is not a number"),
        ("1.5,0,1", r"val\.csv:4: 3 cells, the header has 4"),
        ("1.5,0,1,", r"val\.csv:4: column 'y' is empty"),
    ],
)
def test_a_bad_cell_is_named_by_line_and_column(tmp_path: Path, bad: str, expected: str) -> None:
    rows = lines()
    rows[3] = bad
    with pytest.raises(ConfigError, match=expected):
        read_csv(tmp_path, rows, label="y")


def test_columns_must_exist_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r":1: column 'z' is missing; there are b, rec, a, y"):
        read_csv(tmp_path, lines(), label="z")
    with pytest.raises(ConfigError, match=r":1: column 'a' appears twice"):
        read_csv(tmp_path, ["a,b,a", *["1,2,3"] * 20])


def test_an_empty_file_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="column 'a' is missing"):
        read_csv(tmp_path, [])


def test_too_few_windows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"15 windows, at least {WINDOWS_MIN}"):
        read_csv(tmp_path, lines(15))
    with pytest.raises(ConfigError, match="0 windows"):
        read_csv(tmp_path, lines(15), spec(16, 1))


def test_odd_data_are_noted(tmp_path: Path) -> None:
    rows = ["a,b", *(f"{i},3" for i in range(20))]
    path = tmp_path / "val.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    channels = (Channel(name="a", maximum=17.0, on_range="clip"), Channel(name="b"))
    notes = read_validation(DataRecipe(path=str(path)), channels, spec()).notes
    assert len(notes) == 2
    assert "2 of 20 windows" in notes[0]
    assert "'clip'" in notes[0]
    assert "'b' is 3 in every window" in notes[1]


# --- NPZ -----------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    length=st.integers(1, 5),
    hop=st.integers(1, 4),
)
def test_windows_are_those_of_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], length: int, hop: int
) -> None:
    sizes = [*sizes, 100]  # enough windows in every case
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    signal = np.arange(offsets[-1] * 2, dtype=np.float32).reshape(-1, 2)
    folder = tmp_path_factory.mktemp("npz")
    arrays = {"signal": signal, "offsets": offsets, "y": np.arange(len(sizes))}
    found = read_npz(folder, spec(length, hop), arrays, label="y")
    expected, truth = [], []
    for number, (start, end) in enumerate(pairwise(offsets)):
        for at in range(start, end - length + 1, hop):
            expected.append(signal[at : at + length])
            truth.append(str(number))
    np.testing.assert_array_equal(found.windows, expected)
    assert found.truth is not None
    assert found.truth[:, 0].tolist() == truth


def test_a_label_for_each_reading(tmp_path: Path) -> None:
    arrays = {"signal": np.ones((40, 2)) * np.arange(40)[:, None], "y": np.arange(40) // 10}
    found = read_npz(tmp_path, spec(2, 2), arrays, label="y")
    assert found.truth is not None
    assert found.truth[:6, 0].tolist() == ["0", "0", "0", "0", "0", "1"]


def test_ready_windows_with_labels(tmp_path: Path) -> None:
    windows = np.random.default_rng(0).normal(size=(20, 3, 2))
    arrays = {"windows": windows, "y": np.array(["u", "v"] * 10)}
    found = read_npz(tmp_path, spec(3, 3), arrays, label="y")
    np.testing.assert_array_equal(found.windows, windows.astype(np.float32))
    assert found.truth is not None
    assert found.truth[1, 0] == "v"


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"other": np.ones(3)}, r"no array 'signal' or 'windows'; there are other"),
        ({"signal": np.ones((40, 3))}, r"'signal' is float64 \(40, 3\).*\(count, 2\)"),
        ({"windows": np.ones((40, 5, 2))}, r"'windows' is float64 \(40, 5, 2\).*\(count, 2, 2\)"),
        ({"signal": np.array([["x", "y"]] * 9)}, r"'signal' is <U1"),
        (
            {"signal": np.where(np.arange(80).reshape(40, 2) == 7, np.nan, 1.0)},
            r"signal\[3, 1\] is nan, not a finite float32 number \(1 such",
        ),
        ({"signal": np.full((40, 2), 1e39)}, r"signal\[0, 0\] is 1e\+39, not a finite float32"),
        ({"signal": np.ones((40, 2)), "offsets": np.array([0, 30])}, r"must rise from 0 to .* 40"),
        ({"signal": np.ones((40, 2)), "offsets": np.array([0, 30, 20, 40])}, r"must rise from 0"),
        ({"signal": np.array([[1, "a"]], dtype=object)}, r"without pickles"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, arrays: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        read_npz(tmp_path, spec(2, 2), arrays)


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    arrays = {"signal": np.ones((40, 2)), "y": np.ones(39)}
    with pytest.raises(ConfigError, match=r"'y' is float64 \(39,\), expected one label for each"):
        read_npz(tmp_path, spec(), arrays, label="y")
    with pytest.raises(ConfigError, match=r"no array 'z'"):
        read_npz(tmp_path, spec(), arrays, label="z")


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "val.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(ConfigError, match="cannot be read as NPZ"):
        read_validation(DataRecipe(path=str(path)), AB, spec())


# --- truth ---------------------------------------------------------------------------------------


def validation(*truth: str | float, classes: tuple[str, ...] = ()) -> Validation:
    count = len(truth)
    return Validation(
        windows=np.zeros((count, 1, 2), np.float32),
        truth=np.array([[str(text)] for text in truth]),
        ends=np.arange(2, count + 2),
        unit="line",
        classes=classes,
    )


@pytest.mark.parametrize(
    ("truth", "classes"),
    [(("walk", "sit"), ()), (("3", "1"), ()), (("3.0", "1"), ()), ((1, 0), ("sit", "walk"))],
)
def test_truth_may_use_names_the_models_own_classes_or_an_index(
    truth: tuple[Any, ...], classes: tuple[str, ...]
) -> None:
    found = true_classes(
        validation(*truth, classes=classes), "classification", ("sit", "walk"), ("1", "3")
    )
    assert found is not None
    assert found.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        (("1", "-1", "1"), [0, 1, 0]),
        (("0", "1", "0"), [0, 1, 0]),
        (("1.0", "-1.0", "1.0"), [0, 1, 0]),
        (("normal", "anomaly", "normal"), [0, 1, 0]),
    ],
)
def test_anomaly_labels_may_be_coded_either_way(
    truth: tuple[str, ...], expected: list[int]
) -> None:
    found = true_classes(validation(*truth), "anomaly", ("normal", "anomaly"))
    assert found is not None
    assert found.tolist() == expected


def test_an_ambiguous_anomaly_code_is_not_guessed() -> None:
    with pytest.raises(ConfigError, match=r"'1' \(line 2\) is no label of the model"):
        true_classes(validation("1", "1"), "anomaly", ("normal", "anomaly"))


def test_an_unknown_label_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"'run' \(line 4\) is no label .* sit, walk"):
        true_classes(validation("sit", "walk", "run"), "classification", ("sit", "walk"))


def test_every_class_must_be_there() -> None:
    with pytest.raises(ConfigError, match=r"no validation window has the label 'run'"):
        require_every(np.array([0, 1, 1]), ("sit", "walk", "run"))


def test_targets_must_be_varied_finite_numbers() -> None:
    assert true_targets(validation(1.5, 2), 1)[:, 0].tolist() == [1.5, 2.0]
    with pytest.raises(ConfigError, match=r"'nan' \(line 3\) is not a finite number"):
        true_targets(validation("1", "nan"), 1)
    with pytest.raises(ConfigError, match="names 1 columns, this regression has 2 targets"):
        true_targets(validation(1.5, 2), 2)
    with pytest.raises(ConfigError, match="target 0 is 3 in every window"):
        true_targets(validation(3, 3), 1)


@given(count=st.integers(1, 1000), wanted=st.integers(1, 100))
def test_spread_gives_distinct_indices_from_end_to_end(count: int, wanted: int) -> None:
    found = spread(count, wanted)
    assert len(np.unique(found)) == min(count, wanted)
    assert found[0] == 0
    assert wanted == 1 or found[-1] == count - 1
