"""Every mistake in a YAML file is named with its place."""

from pathlib import Path

import pytest

from edge_agent.config import AgentConfig, load_config
from edge_agent.contract.errors import ConfigError

GOOD = """\
device: pi
data_dir: data
broker: {url: "mqtt://localhost"}
update: {root_file: root.json}
pipelines:
  - name: motion
    model: motion
    channels: [ax, ay]
    source: {type: replay, path: x.csv}
    actions: [{type: log}]
"""


def load(tmp_path: Path, text: str) -> AgentConfig:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return load_config(path)


def test_a_good_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert config.pipelines[0].channels == ("ax", "ay")
    assert config.outbox.bytes_max == 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("old", "new", "place", "text"),
    [
        ("path: x", "pth: x", "9:28", "there is no field 'pth' here; did you mean 'path'?"),
        ("type: replay", "type: repaly", "9:20", "known are aligned, audio, follow"),
        ("device: pi", "device: 007", "1:9", "put the value in quotes"),
        ("device: pi", "device: pi\ndevice: pi", "2:1", "'device' is given twice"),
        ("device: pi", "device: pi\non: 1", "2:1", "put it in quotes"),
        ("data_dir: data", "", "1:1", "missing required field `data_dir`"),
        ("[ax, ay]", "[]", "8:15", "length >= 1"),
        ("[ax, ay]", "[ax, ax]", "8:15", "a channel is given twice"),
        ("device: pi", "device: pi.kitchen", "1:9", "letters, digits"),
        ("mqtt://localhost", "http://localhost", "3:15", "give the broker as mqtt://HOST"),
        ("mqtt://localhost", "mqtt://me:secret@localhost", "3:15", "does not belong in it"),
        ("  - name: motion", "  - name: a b", "6:11", "pipeline 'a b' must be"),
        ("    model", "\tmodel", "7:1", "indent with spaces"),
    ],
)
def test_each_mistake_has_its_line_and_column(
    tmp_path: Path, old: str, new: str, place: str, text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    message = str(caught.value)
    assert text in message
    assert f"agent.yaml:{place}: " in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "text", ["", "- a", "word", "a: [", "a: &x [*x]", "x: !!python/object:os.x {}"]
)
def test_what_is_no_mapping_of_settings_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"agent\.yaml:1:"):
        load(tmp_path, text)


def test_aliases_of_aliases_are_bounded(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="too deeply"):
        load(tmp_path, "\n".join(lines))


def test_two_pipelines_share_neither_name_nor_stdin_nor_a_model_on_other_channels(
    tmp_path: Path,
) -> None:
    first = GOOD[GOOD.index("  - name") :].replace("{type: replay, path: x.csv}", "{type: jsonl}")
    head = GOOD[: GOOD.index("  - name")]
    with pytest.raises(ConfigError, match="another pipeline has this name"):
        load(tmp_path, head + first + first)
    second = first.replace("name: motion", "name: other")
    with pytest.raises(ConfigError, match="only one source can read stdin"):
        load(tmp_path, head + first + second)
    with pytest.raises(ConfigError, match="another pipeline runs 'motion'"):
        load(tmp_path, head + first + second.replace("[ax, ay]", "[ay, ax]"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")
