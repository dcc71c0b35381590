"""The project's programs as processes with real configuration files, ended by their process id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from brokers import Broker

DEADLINE_S = 40.0
_POLL_S = 0.02
_LOG_BYTES = 12_000  # the end of a log that a failed test shows


def wait_for(condition: Callable[[], object], what: str, seconds: float = DEADLINE_S) -> None:
    """Poll until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(_POLL_S)


class Program:
    """One process; everything that it says is kept in files beside the test's own."""

    def __init__(
        self, module: str, arguments: Sequence[str], stem: Path, env: Mapping[str, str] | None
    ) -> None:
        self.out_file, self.log_file = stem.with_suffix(".out"), stem.with_suffix(".log")
        with self.out_file.open("wb") as out, self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                env={**os.environ, **(env or {})},
            )

    @property
    def out(self) -> str:
        return self.out_file.read_text(errors="replace")

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def feed(self, lines: Sequence[object]) -> None:
        """Write lines to its standard input: text as it stands, anything else as JSON."""
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{text}\n" for text in texts).encode())
        self.process.stdin.flush()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self, seconds: float = DEADLINE_S) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(seconds)

    def terminate(self) -> int:
        """SIGTERM; its exit code."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.process.kill()
        self.process.wait()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stopped in the middle of whatever it does (SIGSTOP), and set going again."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def result(self) -> dict[str, Any]:
        """What stands behind RESULT in its last line."""
        head, _, body = self.out.splitlines()[-1].partition(" ")
        assert head == "RESULT", self.out
        found: dict[str, Any] = json.loads(body)
        return found

    def discard(self) -> None:
        """End it, whatever it is doing."""
        if self.running:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()


class Programs:
    """Starts the project's programs for one test, and ends those that still run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[tuple[str, Program]] = []

    def agent(self, config: Path, env: Mapping[str, str] | None = None) -> Program:
        return self._start("edge_agent", ["run", str(config)], "agent", env)

    def check_config(self, config: Path, *options: str) -> Program:
        return self._start("edge_agent", ["check-config", str(config), *options], "check", None)

    def collector(
        self, broker: Broker, target: Path, *options: str, env: Mapping[str, str] | None = None
    ) -> Program:
        return self.fleet("collect", broker, "--to", str(target), *options, env=env)

    def publisher(self, broker: Broker, bundle: Path, to: str, *options: str) -> Program:
        return self.fleet(
            "publish", broker, str(bundle), "--to", to, "--unsigned", "--json", *options
        )

    def fleet(
        self, command: str, broker: Broker, *options: str, env: Mapping[str, str] | None = None
    ) -> Program:
        arguments = [command, *options, "--broker", broker.url]
        return self._start("edge_agent.fleet", arguments, command, env)

    def start_fleet(self, command: str, *options: str) -> Program:
        """A command that needs no broker."""
        return self._start("edge_agent.fleet", [command, *options], command, None)

    def discard(self) -> None:
        for _, program in self._started:
            program.discard()

    def logs(self) -> Iterator[tuple[str, str]]:
        """Name and end of each log, for the report of a failed test."""
        for name, program in self._started:
            yield name, f"exit code {program.process.poll()}\n{program.log[-_LOG_BYTES:]}"

    def _start(
        self, module: str, arguments: Sequence[str], what: str, env: Mapping[str, str] | None
    ) -> Program:
        name = f"{len(self._started) + 1}-{what}"
        program = Program(module, arguments, self._folder / name, env)
        self._started.append((name, program))
        return program


def connected(program: Program) -> bool:
    """Whether it has said that it is connected."""
    return "connected to" in program.log


def finish(collector: Program) -> dict[str, Any]:
    """End a collector in order; its summary."""
    wait_for(lambda: connected(collector), "the collector to be there at all")
    assert collector.terminate() == 0, collector.log
    return collector.result()


def pipeline(source: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A pipeline of the configuration that runs ``motion.bundle`` on channels a and b."""
    return {
        "name": "main",
        "model": "motion",
        "channels": ["a", "b"],
        "bundle": "motion.bundle",
        "source": dict(source),
        **fields,
    }


def write_config(
    folder: Path,
    broker_url: str | None,
    pipelines: Sequence[Mapping[str, Any]],
    *,
    broker: Mapping[str, Any] | None = None,
    uplink: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """A configuration file in ``folder``, which is made; short times, delivery to a collector."""
    folder.mkdir(exist_ok=True)
    config: dict[str, Any] = {
        "device": "pi-1",
        "data_dir": "data",
        "pipelines": [dict(item) for item in pipelines],
        "outbox": {"flush_s": 0.05},
        "uplink": {"confirm": "collector", "resend_s": 1.0, **(uplink or {})},
        "update": {"unsigned": True, "answer_s": 1.0, "trial": {"seconds": 0.5, "windows_min": 1}},
        "status_s": 1.0,
        "log_level": "debug",
        **fields,
    }
    if broker_url is not None:
        config["broker"] = {"url": broker_url, "keepalive_s": 5, **(broker or {})}
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
