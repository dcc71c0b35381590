"""The agent on 64-bit ARM, emulated: its wheel, its unit tests, ``replay`` and ``verify``.

In a Debian that debootstrap makes and qemu-user runs, kept in ``build/arm64`` for the next time:
installs the wheel as a user would, runs the tests that need neither broker nor framework, and for
models of several kinds, built here, compares every window's label with that of this machine.

Usage: python benchmarks/arm64.py [--only-labels]   (as root, on Debian; first run 30 minutes)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import skops.io
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converter import build
from converter.features import WindowFeatures
from converter.recipe import ChannelRecipe, DataRecipe, Recipe, WindowRecipe

ROOT: Final = Path(__file__).resolve().parent.parent
GUEST: Final = ROOT / "build" / "arm64"
INSIDE: Final = "root/edge"  # the guest's folder for what is brought in
BIN: Final = f"/{INSIDE}/venv/bin"
DEBIAN: Final = "bookworm"
NEEDED: Final = {"debootstrap": "debootstrap", "qemu-aarch64-static": "qemu-user-static"}
BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
BINFMT_ENTRY: Final = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
GLIBCS: Final = ("2014", "_2_17", "_2_24", "_2_26", "_2_27", "_2_28")
TESTED: Final = ("pytest>=8.3", "pytest-timeout>=2.3", "hypothesis>=6.100")
ELSEWHERE: Final = (  # what a test file must not import, to be one of the device's alone
    r"^\s*(from|import) (converter|sklearn|skl2onnx|torch|keras|xgboost|lightgbm|catboost|seglearn)"
    r"|brokers|benchmarks|edge_agent\.demo|edge_agent\.fleet|tests\.system"
)
NOT_EMULATED: Final = (  # a limit of memory would be that of the emulator
    "tests/test_probe.py::test_a_model_that_wants_more_memory_than_allowed_is_refused",
)
EMULATED_TIMEOUT_S: Final = 1200  # of one test: emulation is some twenty times slower

RATE_HZ, LENGTH, CLASSES = 50.0, 50, 4
MODELS: Final[dict[str, Callable[[], Any]]] = {
    "logistic": lambda: LogisticRegression(max_iter=500),
    "mlp": lambda: MLPClassifier((64, 32), max_iter=200, random_state=0),
    "forest": lambda: RandomForestClassifier(100, random_state=0),
    "hist_gradient_boosting": lambda: HistGradientBoostingClassifier(max_iter=40, random_state=0),
    "isolation_forest": lambda: IsolationForest(random_state=0),
}


def main() -> int:
    """Make the guest, test in it, compare; prints RESULT."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only-labels", action="store_true", help="leave the unit tests out")
    only_labels = parser.parse_args().only_labels
    require_host()
    work = GUEST / INSIDE
    make_guest()
    with processes_visible():
        install(work)
        passed, failed = (0, 0) if only_labels else unit_tests(work)
        models = {name: compare(name, make, work) for name, make in MODELS.items()}
        arch = guest("python3", "-c", "import platform; print(platform.machine())").strip()
    figures = {
        "arch": arch,
        "tests_passed": passed,
        "tests_failed": failed,
        "windows": sum(model["windows"] for model in models.values()),
        "labels_equal": sum(model["equal"] for model in models.values()),
        "score_difference_max": max(model["score_difference"] for model in models.values()),
        "models": models,
    }
    print(f"RESULT {json.dumps(figures)}")
    return 0 if figures["labels_equal"] == figures["windows"] and not failed else 1


# --- the guest -----------------------------------------------------------------------------------


def require_host() -> None:
    """Install what Debian has for it, and let the kernel start ARM programs by qemu."""
    if os.geteuid() != 0:
        sys.exit("a chroot needs root: sudo make test-arm64")
    missing = [package for name, package in NEEDED.items() if not which(name)]
    if missing:
        say(f"installing {', '.join(missing)}")
        run("apt-get", "install", "-y", "-qq", *missing)
    if platform.machine() == "aarch64":
        return
    if not (BINFMT / "register").exists():
        run("mount", "-t", "binfmt_misc", "none", str(BINFMT))
    if not (BINFMT / "qemu-aarch64").exists():
        (BINFMT / "register").write_text(BINFMT_ENTRY.read_text().strip())


def make_guest() -> None:
    """A small Debian with Python; the one of an earlier run is used again."""
    done = GUEST / "root" / ".made"
    if done.exists():
        return
    say(f"making a {DEBIAN} for arm64 in {GUEST.relative_to(ROOT)}")
    packages = "--include=python3,python3-venv,ca-certificates"
    GUEST.parent.mkdir(exist_ok=True)
    run("debootstrap", "--arch=arm64", "--variant=minbase", packages, DEBIAN, str(GUEST))
    done.touch()


@contextmanager
def processes_visible() -> Iterator[None]:
    """``/proc`` in the guest, for as long as something runs there.

    Not ``/sys``: what onnxruntime finds of the host's processor there crashes it under emulation.
    """
    run("mount", "-t", "proc", "proc", str(GUEST / "proc"))
    try:
        yield
    finally:
        run("umount", str(GUEST / "proc"))


def install(work: Path) -> None:
    """Install the agent's wheel with its packages, fetched here, offline there."""
    wheels = work / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for old in wheels.glob("edge_agent-*.whl"):
        old.unlink()
    say("building the wheel and fetching its packages for aarch64")
    pip = (sys.executable, "-m", "pip", "--quiet")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("edge_agent-*.whl")
    platforms = [f"--platform=manylinux{glibc}_aarch64" for glibc in GLIBCS]
    python = "--python-version=" + guest("python3", "-c", PRINT_VERSION).strip()
    wanted = (f"{wheel}[convert]", *TESTED)
    only = "--only-binary=:all:"
    run(*pip, "download", *platforms, python, only, "--dest", str(wheels), *wanted)
    say("installing there")
    if not (work / "venv").exists():
        guest("python3", "-m", "venv", f"/{INSIDE}/venv")
    offline = ("--no-index", f"--find-links=/{INSIDE}/wheels", "--quiet")
    inside = f"/{INSIDE}/wheels/{wheel.name}"
    guest(f"{BIN}/pip", "install", *offline, f"{inside}[convert]", *TESTED)
    again = ("--force-reinstall", "--no-deps")
    guest(f"{BIN}/pip", "install", *offline, *again, inside)


PRINT_VERSION: Final = "import sys; print('%d.%d' % sys.version_info[:2])"


def unit_tests(work: Path) -> tuple[int, int]:
    """Run the device's own tests there; how many passed and failed."""
    tests = work / "tests"
    run("rm", "-rf", str(tests))
    run("cp", "-r", str(ROOT / "tests"), str(tests))
    run("cp", "-r", str(ROOT / "device_configs"), str(work))
    run("cp", str(ROOT / "pyproject.toml"), str(work))
    names = [
        f"tests/{file.name}"
        for file in sorted(tests.glob("test_*.py"))
        if not re.search(ELSEWHERE, file.read_text(), re.MULTILINE)
    ]
    say(f"running {len(names)} files of tests there")
    flags = ("-q", "-p", "no:cacheprovider", f"--timeout={EMULATED_TIMEOUT_S}")
    without = [f"--deselect={test}" for test in NOT_EMULATED]
    output = guest(f"{BIN}/python", "-m", "pytest", *flags, *without, *names, check=False)
    print(output)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?)", output)}
    if "passed" not in counts:
        sys.exit("no test ran there, see above")
    return counts["passed"], sum(n for word, n in counts.items() if word != "passed")


def guest(*command: str, check: bool = True) -> str:
    """Run a command in the guest; its standard output, and what it printed if it failed."""
    setting = ("env", "-i", "HOME=/root", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C.UTF-8")
    inside = ("sh", "-c", f'cd /{INSIDE} 2>/dev/null; exec "$@"', "sh")
    line = ["chroot", str(GUEST), *setting, *inside, *command]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout if check else done.stdout + done.stderr


# --- the same bundle on both ---------------------------------------------------------------------


def compare(name: str, make: Callable[[], Any], work: Path) -> dict[str, Any]:
    """Build a bundle here, replay and verify it on both, and compare window by window."""
    say(f"comparing {name}")
    folder = work / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    recording = folder / "validation.csv"
    bundle = make_bundle(name, make, folder, recording)
    inside = f"/{INSIDE}/models/{name}"
    run(sys.executable, "-m", "edge_agent", *replay(str(folder), bundle, recording, "here"))
    guest(f"{BIN}/edge-agent", *replay(inside, bundle, recording, "there"))
    guest(f"{BIN}/edge-convert", "verify", f"{inside}/{bundle.name}")  # ends here if it does not
    here, there = (decisions(folder / f"{side}.jsonl") for side in ("here", "there"))
    pairs = list(zip(here, there, strict=True))
    return {
        "windows": len(pairs),
        "equal": sum(a["label"] == b["label"] for a, b in pairs),
        "score_difference": max(abs(a["score"] - b["score"]) for a, b in pairs),
    }


def replay(place: str, bundle: Path, recording: Path, side: str) -> tuple[str, ...]:
    """Arguments of a replay in a folder, which writes its decisions there."""
    files = (f"{place}/{bundle.name}", f"{place}/{recording.name}")
    return ("replay", *files, "--quiet", "--decisions", f"{place}/{side}.jsonl")


def make_bundle(name: str, make: Callable[[], Any], folder: Path, recording: Path) -> Path:
    """Train on made-up vibrations of four kinds, and convert."""
    windows, labels = vibrations(1200, seed=1)
    model = make_pipeline(
        WindowFeatures(("mean", "std", "rms", "ptp"), ((1.0, 5.0), (5.0, 20.0)), RATE_HZ),
        StandardScaler(),
        make(),
    )
    model.fit(windows, labels)
    skops.io.dump(model, folder / "model.skops")
    unseen, truth = vibrations(200, seed=2)
    rows = unseen.reshape(-1, 3)
    kinds = np.repeat(truth, LENGTH)
    lines = [f"{x:.6f},{y:.6f},{z:.6f},{kind}" for (x, y, z), kind in zip(rows, kinds, strict=True)]
    recording.write_text("\n".join(["x,y,z,kind", *lines]) + "\n")
    recipe = Recipe(
        name=name.replace("_", "-"),
        version="1.0.0",
        model=str(folder / "model.skops"),
        data=DataRecipe(path=str(recording), label=None if name == "isolation_forest" else "kind"),
        rate_hz=RATE_HZ,
        window=WindowRecipe(length=LENGTH, hop=10),
        channels=tuple(ChannelRecipe(name=axis, unit="g") for axis in "xyz"),
        output=str(folder),
    )
    return build(recipe).bundle


def vibrations(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows float32 (count, LENGTH, 3) of noisy sines, and which of four frequencies each has."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, CLASSES, count)
    t = np.arange(LENGTH) / RATE_HZ
    phase = random.uniform(0, 2 * np.pi, (count, 1, 3))
    frequency = (2.0 + 3.0 * kinds)[:, None, None]
    waves = np.sin(2 * np.pi * frequency * t[None, :, None] + phase)
    noise = random.normal(0, 0.8, waves.shape)
    return (waves + noise).astype(np.float32), kinds.astype(str)


def decisions(path: Path) -> list[dict[str, Any]]:
    """The decisions that a replay wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def which(name: str) -> bool:
    """Whether a program is there, root's folders included."""
    folders = [*os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/sbin"]
    return any((Path(folder) / name).exists() for folder in folders)


def run(*command: str) -> None:
    """Run a command here; its failure ends this program with what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")


def say(sentence: str) -> None:
    """Progress, for people."""
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
