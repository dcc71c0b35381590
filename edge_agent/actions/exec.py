"""Run a program when a decision fires."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import threading
import time
from typing import Annotated, ClassVar, Final

from msgspec import Meta

from edge_agent.contract.errors import ActionError
from edge_agent.contract.messages import Decision, encode
from edge_agent.settings import Kind

_FIELD: Final = re.compile(r"\{(label|state|score|pipeline)\}")
_STDERR_BYTES: Final = 4096  # kept of what a program says, its last words
_KILLED_S: Final = 1.0  # for the kernel to end a killed program


class ExecConfig(Kind, frozen=True, kw_only=True, tag="exec"):
    """Run a program, without a shell, with the decision as JSON on its standard input.

    It has ended when it has exited and nothing that it started holds its standard error.

    Attributes:
        command: program and arguments; ``{label}``, ``{state}``, ``{score}`` and ``{pipeline}``
            are replaced.
        timeout_s: after which it is killed, with everything that it started.
    """

    command: Annotated[tuple[str, ...], Meta(min_length=1)]
    timeout_s: Annotated[float, Meta(gt=0)] = 10.0


class ExecAction:
    """One process a fired decision, one at a time. The action worker's thread; close from any."""

    blocking: ClassVar[bool] = True

    def __init__(self, config: ExecConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def fire(self, decision: Decision) -> None:
        """Run the program and wait for it.

        Raises:
            ActionError: it is not there, was too slow, or did not exit with 0.
        """
        deadline = time.monotonic() + self._config.timeout_s
        process = self._start(self._arguments(decision))
        try:
            last_words = self._converse(process, encode(decision), deadline)
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as exc:
            raise ActionError(
                f"{self._config.command[0]}: killed after timeout_s = {self._config.timeout_s:g} s"
            ) from exc
        finally:
            self._finish(process)
        if process.returncode != 0:
            raise ActionError(
                f"{self._config.command[0]}: {_ending(process.returncode)}: "
                f"{last_words or 'nothing on its standard error'}"
            )

    def close(self) -> None:
        """Kill the program if it runs, and start none any more."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                _kill_group(self._process)

    def _arguments(self, decision: Decision) -> list[str]:
        """The command, each placeholder replaced once: a label's text is never looked into."""
        fields = {
            "label": decision.label,
            "state": decision.state,
            "score": f"{decision.score:.6g}",
            "pipeline": decision.pipeline,
        }
        return [_FIELD.sub(lambda found: fields[found[1]], part) for part in self._config.command]

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        """Start the program as the head of a process group of its own."""
        with self._lock:
            if self._closed:
                raise ActionError(f"{arguments[0]}: not started, the agent is stopping")
            try:
                self._process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except (OSError, ValueError) as exc:  # ValueError: a NUL in an argument
                raise ActionError(f"{arguments[0]}: cannot be started: {exc}") from exc
            return self._process

    def _converse(self, process: subprocess.Popen[bytes], message: bytes, deadline: float) -> str:
        """Give the message, take standard error until it is closed, and return its last line.

        Only the tail is kept, so that a talkative program costs no memory.

        Raises:
            TimeoutExpired: the deadline has come.
        """
        assert process.stdin is not None
        assert process.stderr is not None
        os.set_blocking(process.stdin.fileno(), False)
        poll = select.poll()
        poll.register(process.stdin, select.POLLOUT)
        poll.register(process.stderr, select.POLLIN)
        tail, listening = b"", True
        while message or listening:
            ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ready:
                raise subprocess.TimeoutExpired(process.args, self._config.timeout_s)
            for descriptor, _ in ready:
                if descriptor == process.stderr.fileno():
                    said = os.read(descriptor, _STDERR_BYTES)
                    tail, listening = (tail + said)[-_STDERR_BYTES:], bool(said)
                    if not listening:
                        poll.unregister(descriptor)
                else:
                    message = _write_some(descriptor, message)
                    if not message:
                        poll.unregister(descriptor)
                        process.stdin.close()
        lines = (line.strip() for line in tail.decode(errors="replace").split("\n")[::-1])
        return next((line for line in lines if line), "")

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        """Leave nothing behind: no process of a program that did not end, no open pipe."""
        with self._lock:
            self._process = None
            _kill_group(process)
        for pipe in (process.stdin, process.stderr):
            if pipe is not None:
                pipe.close()
        # If even the kernel cannot end it within the bound (a dead disk), Popen reaps it later.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_S)


def _write_some(descriptor: int, message: bytes) -> bytes:
    """What is left of the message after as much as fits into the pipe; nothing once it broke."""
    try:
        return message[os.write(descriptor, message) :]
    except BrokenPipeError:  # a program need not read what it is given
        return b""


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the program and what it started, unless it was waited for: then its id may be reused."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _ending(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"killed by signal {-code}"
