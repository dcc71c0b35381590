"""Run a command and keep the figures that it prints last as ``RESULT {json}``.

Usage: python benchmarks/keep.py NAME COMMAND [ARGUMENT ...]

The command's output passes through. Its figures go to ``benchmarks/results/NAME.json`` together
with the machine, the versions and the commit that they were measured on.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("onnxruntime", "numpy", "paho-mqtt", "msgspec", "scikit-learn", "skl2onnx", "onnx")


def main() -> int:
    """Run, pass the output through, keep the figures; the command's own exit code."""
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    name, command = sys.argv[1], sys.argv[2:]
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
    target = ROOT / "benchmarks" / "results" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"figures": result, **origin()}, indent=2) + "\n")
    print(f"kept in {target.relative_to(ROOT)}", file=sys.stderr)
    return 0


def origin() -> dict[str, object]:
    """The machine, the versions and the commit; a ``+`` marks changes that are not committed."""
    changed = "+" if git("status", "--short", "--untracked-files=no") else ""
    return {
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "arch": platform.machine(),
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version(), **installed()},
        "commit": git("rev-parse", "--short", "HEAD") + changed,
    }


def cpu_model() -> str:
    """The processor's name; on ARM the board's."""
    board = Path("/proc/device-tree/model")
    if board.exists():
        return board.read_text().rstrip("\0")
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def installed() -> dict[str, str]:
    """Versions of the packages that matter, where they are installed."""
    found = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return {name: found[name] for name in PACKAGES if name in found}


def git(*arguments: str) -> str:
    """What git says; empty outside a checkout."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
