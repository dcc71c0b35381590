"""One round of the soak: bad disks (as root), a set clock, a flood, silence, a flapping broker."""

import json
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"
LONGEST_S = 900.0


def test_an_agent_gets_through_everything_and_loses_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, SOAK, "--seconds", "1", "--phase-s", "3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert figures["faults"] == []
    assert figures["missing"] == 0
    assert figures["produced"] == figures["received"] + figures["ledgered"] > 1000
