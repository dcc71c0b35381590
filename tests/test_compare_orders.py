"""A comparison in signed orders and on the command line."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from fleets import Fleet, ask

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.experiment import Experiment
from edge_agent.contract.release import EXPERIMENT_SCHEMA, Choice, Ring
from edge_agent.fleet.__main__ import cli
from edge_agent.fleet.comparing import experiment_of

README = Path(__file__).resolve().parent.parent / "README.md"
RULE = Experiment(windows_min=7, shift_ppm_max=1_000)


def options(**fields):
    return experiment_of(**{"shadow": False, "share_ppm": None, "rule": None} | fields)


def test_the_rule_is_signed_and_reaches_the_device(tmp_path):
    fleet = Fleet(tmp_path)
    fleet.order(fleet.approve(fleet.release()), experiment=RULE, schema=EXPERIMENT_SCHEMA)
    desired = ask(fleet, tmp_path / "trust").desired["motion"]
    assert (desired.experiment, desired.schema) == (RULE, EXPERIMENT_SCHEMA)


def test_a_device_outside_the_ring_has_nothing_to_compare(tmp_path):
    fleet = Fleet(tmp_path)
    old = fleet.approve(fleet.release("1.0.0"))
    new = fleet.approve(fleet.release("1.1.0"))
    fleet.order(
        new,
        ring=Ring(salt="x", share_ppm=0),
        base=Choice(sha256=old.sha256, version="1.0.0"),
        experiment=RULE,
        schema=EXPERIMENT_SCHEMA,
    )
    desired = ask(fleet, tmp_path / "trust").desired["motion"]
    assert (desired.version, desired.experiment) == ("1.0.0", None)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"schema": 3}, "the order has schema 3: update the agent first"),
        (
            {"schema": EXPERIMENT_SCHEMA, "experiment": Experiment(windows_min=0)},
            "experiment: windows_min must be from 1",
        ),
    ],
)
def test_an_order_that_is_newer_or_contradicts_itself_is_refused(tmp_path, fields, fault):
    fleet = Fleet(tmp_path)
    fleet.order(fleet.approve(fleet.release()), **fields)
    assert fault in ask(fleet, tmp_path / "trust").refused["motion"]


def test_options_and_a_file_make_a_rule(tmp_path):
    path = tmp_path / "rule.yaml"
    path.write_text("windows_min: 5000\njudge: accuracy\nkind: ab\nsplit: sensor\n")
    assert options() is None
    assert options(shadow=True) == Experiment()
    assert options(share_ppm=100_000) == Experiment(kind="ab", judge="accuracy", share_ppm=100_000)
    said = {"judge": "accuracy", "windows_min": 5_000, "split": "sensor"}
    assert options(rule=path) == Experiment(kind="ab", **said)
    assert options(rule=path, shadow=True) == Experiment(kind="shadow", **said)


def test_the_rule_in_the_readme_is_right(tmp_path):
    (text,) = re.findall(r"```yaml\n(# rule\.yaml.*?)```", README.read_text(), re.DOTALL)
    path = tmp_path / "rule.yaml"
    path.write_text(text)
    assert options(rule=path).windows_min == 5_000


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("windows_minimum: 5\n", r"rule.yaml:1:1: .*windows_min"),
        ("windows_min: 0\n", "windows_min must be from 1"),
        ("kind: ab\n", "judge by accuracy"),
    ],
)
def test_a_rule_that_is_wrong_is_named(tmp_path, text, fault):
    path = tmp_path / "rule.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=fault):
        options(rule=path)


def test_one_of_the_two_ways_is_chosen():
    with pytest.raises(ConfigError, match="do not go together"):
        options(shadow=True, share_ppm=1)


@pytest.mark.parametrize("share", ["10", "0%", "100%", "x%", "nan%", "inf%"])
def test_a_share_is_a_percentage(share, tmp_path):
    bundle = tmp_path / "x.bundle"
    bundle.touch()
    arguments = ["publish", str(bundle), "--to", "pi-1", "--unsigned", "--ab", share]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "is no share between 0% and 100%" in result.output
