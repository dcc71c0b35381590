"""A PostgreSQL server of the tests' own, on a free port of 127.0.0.1, ended in order.

PYTEST_DONT_REWRITE: there are no tests here, and tests import this before pytest does.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import ATTEMPTS, free_port

_USER = "postgres"  # whom Debian's package makes; the server refuses to run as root
_START_S = 60


class ServerError(Exception):
    """The server does not start."""


class Postgres:
    """One cluster in a folder that its user owns.

    Attributes:
        url: of an empty database, for whoever asks.
    """

    def __init__(self, folder: Path) -> None:
        self._bin = _programs()
        self._folder, self._port = folder, 0
        self._as = ["runuser", "-u", _USER, "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(folder, _USER)
        self._run("initdb", "-D", folder / "data", "-A", "trust", "-U", _USER, "-N")

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it and wait until it accepts connections; again on the same port."""
        for attempt in range(1, ATTEMPTS + 1):
            port = self._port or free_port()
            options = f"-p {port} -c listen_addresses=127.0.0.1 -k {self._folder}"
            start = ("-w", "-t", str(_START_S), "-l", self._folder / "log", "start")
            try:
                self._run("pg_ctl", "-D", self._folder / "data", "-o", options, *start)
            except ServerError:
                if self._port or attempt == ATTEMPTS:
                    raise
            else:
                self._port = port
                return

    def stop(self) -> None:
        """End it, and every connection with it."""
        self._run("pg_ctl", "-D", self._folder / "data", "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [*self._as, str(self._bin / program), *map(str, arguments)]
        with (self._folder / "output").open("wb") as out:  # a pipe would be held by the server
            done = subprocess.run(
                command, stdout=out, stderr=subprocess.STDOUT, cwd="/", check=False, timeout=120
            )
        if done.returncode:
            raise ServerError((self._folder / "output").read_text())


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server; skips with the reason where there can be none."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install 'edge-agent[postgres]'")
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))  # a short path: a socket's
    server = Postgres(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


def _programs() -> Path:
    """The folder of initdb and pg_ctl, which Debian keeps out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if program := shutil.which("initdb"):
        found.append(Path(program).resolve().parent)
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(_USER)
        except KeyError:
            pytest.skip(f"root cannot run PostgreSQL, and there is no user {_USER}")
    return found[-1]
