"""A followed file: more lines, halves of lines, rotation and truncation."""

from pathlib import Path

import pytest
from readings import assert_rows, rows_of

from edge_agent.contract.errors import SourceError
from edge_agent.sources.follow import FollowConfig, FollowSource
from edge_agent.testing.conformance import check_source


def follow(folder: Path, *, from_start: bool = True) -> FollowSource:
    config = FollowConfig(path="log", from_start=from_start, line_bytes_max=64)
    return FollowSource(config, ("a",), base=folder)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text("[1]\n[2]\n[3]\n" * 5)
    return path


def test_a_followed_file_is_a_source(log: Path) -> None:
    check_source(lambda: follow(log.parent), channels=1)


def test_a_line_in_two_halves_is_one(log: Path) -> None:
    source = follow(log.parent, from_start=False)
    source.open()
    append(log, "[4]\n[5")
    assert_rows(rows_of(source, 1, most=1), [[4]])
    append(log, "6]\n")
    assert_rows(rows_of(source, 1, most=1), [[56]])
    source.close()


def test_the_old_file_is_read_to_its_end_after_a_rotation(log: Path) -> None:
    source = follow(log.parent, from_start=False)
    source.open()
    append(log, "[4]\n")
    log.rename(log.with_name("log.1"))
    append(log.with_name("log.1"), "[5]\n[6")
    log.write_text("[7]\n")
    assert_rows(rows_of(source, 1, most=3), [[4], [5], [7]])
    assert source.faults == {"torn": 1, "malformed": 0}
    source.close()


def test_a_truncated_file_is_read_from_its_start(log: Path) -> None:
    source = follow(log.parent)
    source.open()
    assert len(rows_of(source, 1, most=15)) == 15
    log.write_text("[8]\n")
    assert_rows(rows_of(source, 1, most=1), [[8]])
    source.close()


def test_a_line_that_is_too_long_is_torn(log: Path) -> None:
    source = follow(log.parent, from_start=False)
    source.open()
    append(log, "[" + " " * 200 + "4]\n[5]\n")
    assert_rows(rows_of(source, 1, most=1), [[5]])
    assert source.faults == {"torn": 1, "malformed": 0}
    source.close()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="check the path"):
        follow(tmp_path).open()
