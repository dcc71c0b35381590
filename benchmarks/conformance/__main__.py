"""Runs the suite: ``python -m benchmarks.conformance SUITE`` (a checkout of tuf-conformance).

A broker of its own carries every byte; a gateway on this side of it asks the suite's HTTP server.
The suite runs in an environment of its own in ``build/conformance``. Needs Debian's ``faketime``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

from edge_agent.config import BrokerConfig
from edge_agent.contract.topics import Topics
from edge_agent.demo.broker import KINDS, LocalBroker
from edge_agent.fleet.respond import Responder
from edge_agent.fleet.session import ConnectionLostError, open_session

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "conformance"
TIMEOUT_S = 10.0


def main() -> int:
    """Run, count, print RESULT; 0 when everything passed."""
    suite = Path(sys.argv[1]).resolve() if len(sys.argv) == 2 else Path("none")
    if not (suite / "tuf_conformance").is_dir():
        return stop("make conformance SUITE=FOLDER: name a checkout of tuf-conformance")
    if shutil.which("faketime") is None:
        return stop("faketime is missing: sudo apt install faketime")
    python = environment(suite)
    with tempfile.TemporaryDirectory() as folder:
        broker = LocalBroker(Path(folder), Path(folder), KINDS)
        broker.start()
        try:
            with gateway(broker.url):
                return run(python, suite, broker.url)
        finally:
            broker.end()


def stop(sentence: str) -> int:
    """Say what is missing."""
    print(sentence, file=sys.stderr)
    return 2


def environment(suite: Path) -> Path:
    """The suite's own packages, apart from ours."""
    python = PLACE / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PLACE / "venv")], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, str(suite)], check=True)
    return python


class gateway:  # noqa: N801 (used as a function: with gateway(url))
    """Answers the client's requests from the suite's server, on a thread."""

    def __init__(self, url: str) -> None:
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _serve(self) -> None:
        with open_session(BrokerConfig(url=self._url)) as session:
            responder = Responder(session, Topics("edge"), fetch)
            while not self._stop.is_set():
                try:
                    session.connect(TIMEOUT_S)
                    responder.listen()
                    while not self._stop.is_set():
                        responder.step(0.2)
                except ConnectionLostError:
                    continue


def fetch(name: str) -> bytes | None:
    """A file of the suite's server; None when it has none."""
    url = name.removeprefix("trust/")
    if not re.match(r"http://(127\.0\.0\.1|localhost):\d+/", url):
        return None
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read()
            return data
    except (urllib.error.URLError, OSError):
        return None


def run(python: Path, suite: Path, broker: str) -> int:
    """The suite's tests against our client."""
    report = PLACE / "report.json"
    client = f"{sys.executable} {Path(__file__).with_name('client.py')}"
    code = subprocess.run(
        [
            *(str(python), "-m", "pytest", "-q", str(suite / "tuf_conformance")),
            *("--entrypoint", client, "--json-report", "--json-report-file", str(report)),
        ],
        env={
            **os.environ,
            "EDGE_CONFORMANCE_BROKER": broker,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
        cwd=suite,  # or pytest would take our settings
        check=False,
    ).returncode
    summary = json.loads(report.read_text())["summary"]
    passed = summary.get("passed", 0)
    failed = summary["total"] - passed
    if not passed + failed:
        return stop("the suite has run no test: see above")
    print(f"RESULT {json.dumps({'passed': passed, 'failed': failed})}")
    return 0 if code == 0 and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
