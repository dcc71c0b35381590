"""Decisions as lines in a file."""

from pathlib import Path

import pytest
from test_actions import decision

from edge_agent.actions.file import FileAction, FileConfig
from edge_agent.config import load_config
from edge_agent.contract.errors import ActionError
from edge_agent.contract.messages import encode
from edge_agent.testing.conformance import check_action


def test_a_file_is_an_action(tmp_path: Path) -> None:
    check_action(lambda: FileAction(FileConfig(path=str(tmp_path / "d.jsonl"), fsync=True)))


@pytest.mark.parametrize("keep_n", [0, 1, 3])
def test_a_file_is_rotated_by_size(tmp_path: Path, keep_n: int) -> None:
    path = tmp_path / "d.jsonl"
    action = FileAction(FileConfig(path=str(path), bytes_max=4096, keep_n=keep_n))
    for number in range(200):
        action.fire(decision(number))
    files = [path, *(tmp_path / f"d.jsonl.{n}" for n in range(1, keep_n + 1))]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 4096 for file in files)
    lines = [line for file in reversed(files) for line in file.read_bytes().splitlines()]
    assert lines == [encode(decision(n)) for n in range(200 - len(lines), 200)]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match="check the folder"):
        FileAction(FileConfig(path=str(tmp_path / "none" / "d"))).fire(decision())


def test_paths_of_actions_start_at_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(
        "device: d\ndata_dir: data\npipelines:\n  - name: p\n    model: m\n    channels: [a]\n"
        "    source: {type: simulated}\n    actions:\n      - {type: file, path: fired.jsonl}\n"
        "      - {type: webhook, url: 'https://h/', token_file: token}\n      - {type: log}\n"
    )
    file, webhook, _ = load_config(path).pipelines[0].actions
    assert file.path == str(tmp_path / "fired.jsonl")
    assert webhook.token_file == str(tmp_path / "token")
