"""``edge-convert``: exit codes, last lines, and nothing left behind by an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import skops.io
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from converter.__main__ import cli
from edge_agent.contract.bundle import read_bundle

RECIPE = """\
name: level
version: 1.0.0
model: level.skops
rate_hz: 10
channels:
  - {name: a, unit: g, minimum: -50, maximum: 50}
  - {name: b}
data: {path: val.csv, label: level}
quantize: {int8: false}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, its validation data, a recipe, and the bundle built from them."""
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    y = np.where(x.sum(axis=1) > 0, "high", "low")
    skops.io.dump(LogisticRegression().fit(x[:60], y[:60]), folder / "level.skops")
    rows = [f"{a},{b},{label}" for (a, b), label in zip(x[60:], y[60:], strict=True)]
    (folder / "val.csv").write_text("\n".join(["a,b,level", *rows]), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    done = edge_convert("build", str(folder / "recipe.yaml"), "--json", str(folder / "out.json"))
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout, encoding="utf-8")
    return folder


def edge_convert(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "converter", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_build_ends_with_its_result(folder: Path) -> None:
    last = (folder / "stdout").read_text(encoding="utf-8").splitlines()[-1]
    assert last.startswith("RESULT ")
    result = msgspec.json.decode(last.removeprefix("RESULT "))
    assert result == msgspec.json.decode((folder / "out.json").read_bytes())
    bundle = read_bundle(Path(result["bundle"]))
    assert result["sha256"] == bundle.digest
    assert result["chosen"] == "float32"
    assert Path(result["report"]).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_inspect_is_readable_and_json(folder: Path) -> None:
    path = str(folder / "level-1.0.0.bundle")
    text = CliRunner().invoke(cli, ["inspect", path], catch_exceptions=False).output
    assert "level 1.0.0: classification by LogisticRegression" in text
    assert "a [g], range -50 to 50" in text
    as_json = CliRunner().invoke(cli, ["inspect", path, "--json"], catch_exceptions=False).output
    assert msgspec.json.decode(as_json)["labels"] == ["high", "low"]


def test_verify_answers_golden_vectors_and_other_data(folder: Path) -> None:
    arguments = ["verify", str(folder / "level-1.0.0.bundle")]
    plain = CliRunner().invoke(cli, arguments, catch_exceptions=False).output
    assert "intact" in plain
    arguments += ["--data", str(folder / "val.csv"), "--label", "level"]
    lines = CliRunner().invoke(cli, arguments, catch_exceptions=False).output.splitlines()
    result = msgspec.json.decode(lines[-1].removeprefix("RESULT "))
    assert result["windows"] == 60
    assert result["value"] == pytest.approx(result["stated"])


def test_a_damaged_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "level-1.0.0.bundle").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.bundle").write_bytes(data)
    done = edge_convert("verify", str(tmp_path / "bad.bundle"))
    assert done.returncode == 3
    assert done.stderr.startswith("edge-convert: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_bad_recipe_is_one_line_with_its_place_and_no_file(folder: Path, tmp_path: Path) -> None:
    recipe = folder / "bad.yaml"
    recipe.write_text(RECIPE.replace("rate_hz", "rate_hs"), encoding="utf-8")
    done = edge_convert("build", str(recipe), "--output", str(tmp_path / "out"))
    assert done.returncode == 2
    assert f"{recipe}:4:1: rate_hs: " in done.stderr
    assert "did you mean 'rate_hz'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_every_command_shows_an_example() -> None:
    for name in ("build", "inspect", "verify"):
        text = CliRunner().invoke(cli, [name, "--help"], catch_exceptions=False).output
        assert f"Example: edge-convert {name}" in " ".join(text.split())
