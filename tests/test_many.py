"""Several recipes at once: each fails alone, whatever becomes of it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from converter.display import Bars, Lines, make_display
from converter.many import EXIT_CODE_MAX, Ending, Event, build_many, exit_code, results
from converter.order import Order
from converter.turn import turn
from edge_agent.contract.bundle import read_bundle

RECIPE = """\
name: {name}
version: 1.0.0
model: {model}
rate_hz: 10
channels: [{{name: a}}, {{name: b}}]
data: {{path: val.csv, label: level}}
quantize: {{int8: false}}
allow_pickle: true
"""
DEADLINE_S = 60.0


class Bomb:
    """A pickle that runs a line of Python when it is loaded."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (self.code,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and its validation data."""
    x = np.random.default_rng(0).normal(size=(120, 2))
    y = np.where(x.sum(axis=1) > 0, "high", "low")
    skops.io.dump(LogisticRegression().fit(x[:60], y[:60]), tmp_path / "level.skops")
    rows = [f"{a},{b},{label}" for (a, b), label in zip(x[60:], y[60:], strict=True)]
    (tmp_path / "val.csv").write_text("\n".join(["a,b,level", *rows]), encoding="utf-8")
    return tmp_path


def recipe(folder: Path, name: str, model: str = "level.skops") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(name=name, model=model), encoding="utf-8")
    return str(path)


def bomb(folder: Path, name: str, code: str) -> str:
    (folder / f"{name}.pkl").write_bytes(pickle.dumps(Bomb(code)))
    return recipe(folder, name, f"{name}.pkl")


def orders(*recipes: str) -> list[Order]:
    return [Order(recipe=path) for path in recipes]


def test_each_fails_alone_even_by_a_crash(folder: Path) -> None:
    events: list[tuple[int, Event]] = []
    wanted = orders(
        bomb(folder, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        recipe(folder, "good"),
        recipe(folder, "absent", "nothing.skops"),
    )
    killed, good, absent = build_many(wanted, jobs=2, tell=lambda *event: events.append(event))
    assert "was ended by signal 9" in killed.error
    assert good.error == ""
    assert good.figures["sha256"] == read_bundle(folder / "good-1.0.0.bundle").digest
    assert "there is no file" in absent.error
    assert absent.exit_code == 2
    assert exit_code([killed, good, absent]) == 2
    assert [event.ending for number, event in events if number == 1 and event.ending] == [good]
    assert Event(step="reading data and model") in [event for _, event in events]
    rows = results([killed, good, absent])
    assert [bool(row["error"]) for row in rows] == [True, False, True]
    assert rows[1]["chosen"] == "float32"


def test_recipes_that_would_overwrite_each_other_are_refused(folder: Path) -> None:
    first, twin = recipe(folder, "same"), folder / "twin.yaml"
    twin.write_text(Path(first).read_text(encoding="utf-8"), encoding="utf-8")
    endings = build_many(orders(first, str(twin), first), jobs=1, tell=lambda *_: None)
    assert endings[0].error == ""
    for ending in endings[1:]:
        assert f"writes the same same-1.0.0.bundle as {first}" in ending.error


def test_an_interrupt_ends_every_process(folder: Path) -> None:
    pid_file = folder / "pid"
    code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    paths = [bomb(folder, "stuck", code), recipe(folder, "good")]
    heard = ["env", "--default-signal=INT"]  # what runs in the background may ignore it
    command = [*heard, sys.executable, "-m", "converter", "build", *paths, "--jobs", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        try:
            pid = int(wait_for(lambda: pid_file.exists() and pid_file.read_text()))
            parent.send_signal(signal.SIGINT)
            assert parent.wait(DEADLINE_S) == 130
        finally:
            parent.kill()
    assert wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert not (folder / "good-1.0.0.bundle").exists()


def wait_for(question: Callable[[], Any]) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (answer := question()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return answer


def test_the_command_counts_failures_and_ends_with_a_list(folder: Path) -> None:
    paths = [recipe(folder, "absent", "nothing.skops"), recipe(folder, "gone", "no.skops")]
    command = [sys.executable, "-m", "converter", "build", *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    rows = msgspec.json.decode(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert [row["recipe"] for row in rows] == paths
    assert "[2/2]" in done.stderr
    assert "absent.yaml: failed: " in done.stderr


def test_the_exit_code_stays_below_those_of_the_shell() -> None:
    failed = [Ending(recipe="a.yaml", error="because")] * 300
    assert exit_code(failed) == EXIT_CODE_MAX
    assert exit_code([Ending(recipe="a.yaml")]) == 0


@pytest.mark.parametrize("kind", [Lines, Bars])
def test_every_display_says_how_each_build_ended(
    kind: type[Lines | Bars], capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"bundle": "a-1.0.0.bundle", "chosen": "float32", "p50_us": 3.25}
    with kind(["a.yaml", "b.yaml"]) as display:
        display.tell(0, Event(step="measuring"))
        display.tell(0, Event(ending=Ending(recipe="a.yaml", figures=figures)))
        display.tell(1, Event(ending=Ending(recipe="b.yaml", error="no [model] here")))
    said = capsys.readouterr().err
    assert "a-1.0.0.bundle (float32, 3.2 µs)" in said
    assert "failed: no [model] here" in said  # brackets are no markup


def test_without_a_terminal_there_are_lines() -> None:
    assert isinstance(make_display(["a.yaml"]), Lines)


def test_measurements_take_turns() -> None:
    """A second holder waits, in this process or another, until the first one is done."""
    inside: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        with turn(lambda _: waiting.set()):
            inside.append("second")

    with turn():
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(DEADLINE_S)
        inside.append("first")
    thread.join(DEADLINE_S)
    assert inside == ["first", "second"]


def test_a_lock_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"edge-convert-{os.getuid()}.lock").symlink_to(tmp_path / "elsewhere")
    code = "from converter.turn import turn\nwith turn(): pass"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "set TMPDIR to a folder of your own" in done.stderr
    assert not (tmp_path / "elsewhere").exists()
