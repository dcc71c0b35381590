"""What the documents say is what the code does."""

import re
from pathlib import Path

import click
import msgspec
import pytest
import reference
import yaml

from converter.__main__ import cli as convert_cli
from edge_agent.__main__ import cli as agent_cli
from edge_agent.actions import ActionConfig
from edge_agent.check import check
from edge_agent.config import load_config
from edge_agent.fleet.__main__ import cli as fleet_cli
from edge_agent.sources import SourceConfig

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "device_configs").glob("*.yaml"))
UNITS = sorted((ROOT / "device_configs").glob("*.service"))
THREATS = ROOT / "device_configs" / "THREAT_MODEL.md"
PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "device_configs" / "README.md",
    THREATS,
]


def commands(group: click.Group, name: str) -> list[tuple[str, click.Command]]:
    """Every command below a group, by what is typed."""
    found: list[tuple[str, click.Command]] = []
    for word, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, f"{name} {word}")
        else:
            found.append((f"{name} {word}", command))
    return found


COMMANDS = [
    *commands(agent_cli, "edge-agent"),
    *commands(convert_cli, "edge-convert"),
    *commands(fleet_cli, "edge-fleet"),
]


def test_the_reference_of_every_field_is_fresh() -> None:
    stale = "run `python tests/reference.py`"
    assert reference.TARGET.read_text() == reference.render(), stale


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_device_config_loads(path: Path) -> None:
    assert load_config(path).pipelines


def test_the_development_config_can_be_run_as_it_is() -> None:
    path = ROOT / "device_configs" / "development.yaml"
    assert "device    desk" in check(load_config(path), path.parent)


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} >= {"raspberry-pi", "gateway", "development"}


@pytest.mark.parametrize(("typed", "command"), COMMANDS, ids=lambda item: str(item)[:40])
def test_every_command_has_an_example_and_every_option_a_word(
    typed: str, command: click.Command
) -> None:
    assert f"Example: {typed}" in (command.help or "").replace("sudo ", "")
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize(("typed", "command"), COMMANDS, ids=lambda item: str(item)[:40])
def test_every_command_stands_in_the_readme(typed: str, command: click.Command) -> None:
    assert command.name
    assert typed in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_every_service_unit_starts_a_command_that_exists(unit: Path) -> None:
    started = re.findall(r"^ExecStart=/usr/local/bin/(.*)$", unit.read_text(), re.MULTILINE)
    typed = [typed for typed, _ in COMMANDS]
    assert started
    assert all(any(line.startswith(word) for word in typed) for line in started)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_sources_and_actions_to_copy_are_right() -> None:
    text = (ROOT / "device_configs" / "README.md").read_text()
    block = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[-1]
    snippets = [
        yaml.safe_load(part) for part in re.split(r"^# .*\n", block, flags=re.MULTILINE) if part
    ]
    sources = [part["source"] for part in snippets if "source" in part]
    actions = [action for part in snippets for action in part.get("actions", ())]
    msgspec.convert(actions, list[ActionConfig])
    msgspec.convert(sources, list[SourceConfig])
    shown = {part["type"] for part in sources}
    known = {kind.__struct_config__.tag for kind in SourceConfig.__args__}
    assert known - shown == {"replay", "jsonl", "simulated"}  # these are in the files beside it


def test_the_configurations_in_the_readme_are_right(tmp_path: Path) -> None:
    blocks = re.findall(
        r"```yaml\n# agent\.yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        assert msgspec.to_builtins(load_config(path))["pipelines"]


def test_every_test_that_the_threat_model_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", THREATS.read_text()))
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 20
    assert named - set(re.findall(r"^def (test_\w+)\(", code, re.MULTILINE)) == set()
