"""Programs that the demo runs beside itself: started, watched and ended by their own ids."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.contract.errors import EdgeError

_MODULES: Final = {
    "edge-agent": "edge_agent",
    "edge-convert": "converter",
    "edge-fleet": "edge_agent.fleet",
}
_END_S: Final = 15.0
_RESULT: Final = "RESULT "


class StepError(EdgeError):
    """A step of the demo has failed; the message says which, and where its log is."""


class Program:
    """One process. What it prints goes to ``LOGS/NAME.out``, what it complains to ``NAME.log``.

    It has a session of its own, so that Ctrl-C reaches only the demo, which then ends it in order.

    Args:
        name: of its log files.
        command: program and arguments.
        logs: folder, which exists.
    """

    def __init__(self, name: str, command: Sequence[str], logs: Path) -> None:
        self._name = name
        self._command = list(command)
        self._out, self._log = logs / f"{name}.out", logs / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; a second start appends to the logs.

        Raises:
            StepError: the program cannot be started.
        """
        try:
            with self._out.open("ab") as out, self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as exc:
            raise StepError(f"{self._command[0]} cannot be started: {exc.strerror}") from exc

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id; only after it was started."""
        assert self._process is not None, "started before"
        return self._process.pid

    def require_running(self) -> None:
        """Raise StepError when it has ended although nobody wanted it to."""
        if not self.running:
            raise StepError(self._failure("has ended"))

    def wait(self, seconds: float) -> None:
        """Wait for it to end well.

        Raises:
            StepError: it ended with an error, or not in time; it is ended then.
        """
        assert self._process is not None, "started before"
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise StepError(self._failure(f"has not ended after {seconds:g} s")) from None
        if code:
            raise StepError(self._failure(f"ended with {code}"))

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal it if it runs and wait for its end; SIGKILL where that takes too long."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def result(self) -> dict[str, Any]:
        """The figures in the last line that it printed.

        Raises:
            StepError: there are none.
        """
        last = next(iter(reversed(_lines(self._out))), "")
        try:
            return msgspec.json.decode(last.removeprefix(_RESULT), type=dict[str, Any])
        except msgspec.DecodeError as exc:
            raise StepError(self._failure("printed no figures")) from exc

    def _failure(self, what: str) -> str:
        """One sentence with the program's own last words."""
        said = [line for line in (*_lines(self._out), *_lines(self._log)) if line.strip()]
        last = f": {said[-1].strip()}" if said else ""
        return f"{shlex.join(self._command)} {what}{last} (its log is {self._log})"


def console(name: str, *arguments: str | Path) -> list[str]:
    """The command line of one of our console scripts, in this installation."""
    script = Path(sys.executable).parent / name
    head = [str(script)] if script.exists() else [sys.executable, "-m", _MODULES[name]]
    return [*head, *map(str, arguments)]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
