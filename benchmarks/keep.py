"""Run a command and keep the figures that it prints last as ``RESULT {json}``.

Usage: python benchmarks/keep.py NAME COMMAND [ARGUMENT ...]

The command's output passes through. Its figures go to ``benchmarks/results/NAME.json`` together
with the machine, the versions and the commit that they were measured on, and are drawn beside it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

from plots import PLOTS, RESULTS, draw_kept, write_page

import edge_agent
from edge_agent.bench.machine import read_machine

ROOT: Final = Path(__file__).resolve().parent.parent
KEPT: Final = (":!benchmarks/results", ":!benchmarks/COVERAGE.md")
PACKAGES: Final = (
    "onnxruntime",
    "numpy",
    "paho-mqtt",
    "msgspec",
    "scikit-learn",
    "skl2onnx",
    "onnx",
)


def main() -> int:
    """Run, pass the output through, keep the figures; the command's own exit code."""
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    name, command = sys.argv[1], sys.argv[2:]
    if fault := stranger():
        print(fault, file=sys.stderr)
        return 2
    before = commit(ROOT)
    result = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("RESULT "):
                result = json.loads(line.removeprefix("RESULT "))
    if process.returncode:
        return process.returncode
    if result is None:
        print(f"{command[0]} printed no RESULT line", file=sys.stderr)
        return 1
    kept = {"figures": result, **origin(), "commit": ran(before, commit(ROOT))}
    target = RESULTS / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(kept, indent=2) + "\n")
    print(f"kept in {target.relative_to(ROOT)}", file=sys.stderr)
    draw(target)
    return 0


def draw(target: Path) -> None:
    """Draw what was kept, where there is a description of a plot."""
    if target.stem in PLOTS:
        print(f"drawn in {draw_kept(target).relative_to(ROOT)}", file=sys.stderr)
        write_page(RESULTS)


def origin() -> dict[str, object]:
    """The machine and the versions."""
    machine = read_machine()
    return {
        "machine": {
            "board": machine.board,
            "cpu": machine.name,
            "cores": os.cpu_count(),
            "arch": machine.arch,
            "system": machine.system,
        },
        "versions": {"python": platform.python_version(), **installed()},
    }


def installed() -> dict[str, str]:
    """Versions of the packages that matter, where they are installed."""
    found = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return {name: found[name] for name in PACKAGES if name in found}


# --- which code ran ------------------------------------------------------------------------------


def stranger() -> str | None:
    """Why the figures would be of other code than this checkout's; None when they are of it."""
    used = Path(edge_agent.__file__).resolve().parent.parent
    if used == ROOT:
        return None
    return (
        f"edge_agent comes from {used}, not from {ROOT}: run this by make, or by .venv/bin/python"
    )


def commit(root: Path) -> str:
    """The commit of a checkout; ``-dirty`` when there is anything that is not committed.

    What runs keep is no code, so that several benchmarks can follow one another; files that git
    has never seen are.
    """
    head = git(root, "rev-parse", "--short=10", "HEAD")
    if not head:
        return "unknown"
    status = git(root, "status", "--porcelain", "--", ".", *KEPT)
    return f"{head}-dirty" if status else head


def ran(before: str, after: str) -> str:
    """The commit that a run is filed under: of its start, and dirty if the code changed during it.

    Programs are started all through a run, so what was changed in the middle may have run too.
    """
    return before if before == after or before.endswith("-dirty") else f"{before}-dirty"


def git(root: Path, *arguments: str) -> str:
    """What git says; empty outside a checkout or without git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
