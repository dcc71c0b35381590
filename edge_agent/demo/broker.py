"""A broker for the demo: mosquitto where it is installed, else nats-server, on a free port."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edge_agent.contract.errors import ConfigError
from edge_agent.demo.programs import Program, StepError

KINDS: Final = ("mosquitto", "nats-server")

_START_S: Final = 20.0
_POLL_S: Final = 0.05
_HOST: Final = "127.0.0.1"


class LocalBroker:
    """One broker on this machine, which may die and come back on the same port and storage.

    Args:
        folder: for its configuration and storage; exists.
        logs: folder for what it prints; exists.
        kinds: programs to choose from; the first that is installed is used.

    Attributes:
        kind: name of the program.
        url: where it listens.

    Raises:
        ConfigError: no broker is installed.
    """

    def __init__(self, folder: Path, logs: Path, kinds: Sequence[str] = KINDS) -> None:
        self.kind, program = _find(kinds)
        self._port = _free_port()
        self.url = f"mqtt://{_HOST}:{self._port}"
        self._conf = folder / f"{self.kind}.conf"
        write = _mosquitto_conf if self.kind == "mosquitto" else _nats_conf
        self._conf.write_text(write(self._port, folder), encoding="utf-8")
        self._program = Program("broker", [program, "-c", str(self._conf)], logs)

    def start(self) -> None:
        """Start it and wait until it takes connections.

        Raises:
            StepError: it does not.
        """
        self._program.start()
        until = time.monotonic() + _START_S
        while not self._accepts():
            self._program.require_running()
            if time.monotonic() > until:
                raise StepError(f"{self.kind} does not listen on port {self._port}")
            time.sleep(_POLL_S)

    @property
    def pid(self) -> int:
        """Its process id; only after it was started."""
        return self._program.pid

    def cut(self) -> None:
        """End it as a power cut would."""
        self._program.end(signal.SIGKILL)

    def end(self) -> None:
        """End it in order, if it runs."""
        self._program.end()

    def require_running(self) -> None:
        """Raise StepError when it has ended by itself."""
        self._program.require_running()

    def _accepts(self) -> bool:
        try:
            socket.create_connection((_HOST, self._port), 1.0).close()
        except OSError:
            return False
        return True


def _find(kinds: Sequence[str]) -> tuple[str, str]:
    """Name and path of the broker to use; nats-server comes with the extra ``[demo]``."""
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", beside))
    for kind in kinds:
        if program := shutil.which(kind, path=path):
            return kind, program
    raise ConfigError(
        "the demo needs a broker: sudo apt install mosquitto, or pip install 'edge-agent[demo]'"
    )


def _mosquitto_conf(port: int, folder: Path) -> str:
    lines = [
        f"listener {port} {_HOST}",
        "allow_anonymous true",
        "persistence true",
        f"persistence_location {folder.resolve()}/",
    ]
    if os.getuid() == 0:
        lines.append("user root")  # else it becomes a user that may not write here
    return "\n".join(lines) + "\n"


def _nats_conf(port: int, folder: Path) -> str:
    store = json.dumps(str(folder.resolve()), ensure_ascii=False)
    return (
        "server_name: demo\n"
        f'listen: "{_HOST}:-1"\n'
        f"jetstream {{ store_dir: {store} }}\n"
        f'mqtt {{ listen: "{_HOST}:{port}" }}\n'
    )


def _free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
