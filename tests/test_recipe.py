"""Recipes: defaults, paths, and every mistake named by line and column."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from converter.recipe import ChannelRecipe, DataRecipe, Recipe, check_recipe, load_recipe
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Channel

MINIMAL = """\
name: motion
version: 1.0.0
model: model.skops
rate_hz: 50
channels:
  - {name: ax, unit: g, minimum: -16, maximum: 16}
  - {name: ay}
data: {path: val.csv, label: truth}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.skops").touch()
    (tmp_path / "val.csv").touch()
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_minimal_recipe_has_good_defaults_and_paths_from_its_folder(folder: Path) -> None:
    recipe = load_recipe(write(folder, MINIMAL))
    assert Path(recipe.model) == folder / "model.skops"
    assert Path(recipe.data.path) == folder / "val.csv"
    assert Path(recipe.output) == folder
    assert recipe.window_spec.length == recipe.window_spec.hop == 1
    assert recipe.quantize.aim == "latency"
    assert recipe.quantize.accuracy_loss_max == 0.01
    assert not recipe.allow_pickle
    assert recipe.plain_channels[0] == Channel(name="ax", unit="g", minimum=-16.0, maximum=16.0)


def test_windows_do_not_overlap_unless_a_hop_is_given(folder: Path) -> None:
    assert load_recipe(write(folder, MINIMAL + "window: {length: 20}\n")).window_spec.hop == 20
    both = load_recipe(write(folder, MINIMAL + "window: {length: 20, hop: 5}\n"))
    assert both.window_spec.hop == 5


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rate_hz: 50", "rate_hz: 0", r":4:10: rate_hz: Expected `float` > 0"),
        ("rate_hz", "rate_hs", r":4:1: rate_hs: .* did you mean 'rate_hz'"),
        ("unit: g", "units: g", r":6:16: channels\[0\]\.units: .* did you mean 'unit'"),
        ("{name: ay}", "{name: ax}", r":7:\d+: channels\[1\]\.name: 'ax' appears twice"),
        ("minimum: -16", "minimum: 99", r":6:\d+: channels\[0\]\.minimum: 99 is not below"),
        ("model.skops", "other.skops", r":3:8: model: there is no file .*other\.skops"),
        ("val.csv", "val2.csv", r":8:14: data\.path: there is no file .*val2\.csv"),
        ("name: motion", "name: my model", r":1:7: name: .* must be 1 to 64 letters"),
        ("version: 1.0.0", "version: 1.0", r":2:10: version: Expected `str`.* quotes"),
        ("label: truth", "lable: truth", r":8:\d+: data\.lable: .* did you mean 'label'"),
    ],
)
def test_a_mistake_is_named_with_its_place(folder: Path, old: str, new: str, expected: str) -> None:
    path = write(folder, MINIMAL.replace(old, new, 1))
    with pytest.raises(ConfigError, match=expected):
        load_recipe(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("quantize: {aim: speed}", r":9:17: quantize\.aim: Invalid enum value 'speed'"),
        ("quantize: {accuracy_loss_max: 5}", r"accuracy_loss_max: Expected `float` <= 1"),
        ("decide: {debounce: 0}", r":9:\d+: decide: debounce must be at least 1"),
        ("labels: [a, a]", r":9:9: labels: a label appears twice"),
        ("agent_min: newest", r":9:12: agent_min: 'newest' is not a version"),
        ("window: {length: 0}", r":9:18: window\.length: Expected `int` >= 1"),
    ],
)
def test_a_wrong_option_is_named_with_its_place(folder: Path, line: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_recipe(write(folder, MINIMAL + line + "\n"))


def test_data_must_be_csv_or_npz(folder: Path) -> None:
    (folder / "val.parquet").touch()
    with pytest.raises(ConfigError, match=r":8:14: data\.path: .* \.csv or an \.npz"):
        load_recipe(write(folder, MINIMAL.replace("val.csv", "val.parquet")))


def test_a_recipe_made_in_python_is_checked_alike(folder: Path) -> None:
    recipe = Recipe(
        name="motion",
        version="1.0.0",
        model=str(folder / "model.skops"),
        data=DataRecipe(path=str(folder / "val.csv")),
        channels=(ChannelRecipe(name="ax"), ChannelRecipe(name="ax")),
        rate_hz=50.0,
    )
    with pytest.raises(ConfigError, match=r"channels\[1\]\.name: 'ax' appears twice"):
        check_recipe(recipe)
    with pytest.raises(ConfigError, match=r"Expected `float` > 0.0 - at `\$\.rate_hz`"):
        check_recipe(msgspec.structs.replace(recipe, rate_hz=-1.0))
