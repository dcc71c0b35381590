"""The processes of the comparison: a broker, the contenders, and the cores that they run on.

Each runs in the ordinary scheduling class: a thread that spins would hog a real-time core.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from paho.mqtt import subscribe

from benchmarks.peers.cnn import CHANNELS, LENGTH, NAMES
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.messages import Status, decode
from edge_agent.contract.topics import Topics

TOPIC_IN, TOPIC_OUT = "bench/readings", "bench/decisions"
STATUS = Topics("edge").status("bench")
HERE = Path(__file__).resolve().parent
START_S = 20.0
CONTENDERS = ("agent", "script", "script_one_thread", "node")


class Contender:
    """A running contender, and the CPU time that it has used."""

    def __init__(self, command: Sequence[str | Path], core: int, log: Path) -> None:
        with log.open("wb") as output:
            self._process = start(command, core, output=output)

    def cpu_s(self) -> float:
        """CPU time of all its threads, in seconds."""
        return cpu_s(self._process)

    def rss_mib(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * 4096 / 2**20

    def end(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """CPU time of all threads of a process, in seconds, to the nanosecond of the scheduler."""
    if process.poll() is not None:
        raise RuntimeError(f"a process has ended: exit code {process.returncode}")
    tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def start(command: Sequence[str | Path], core: int, *, output: object) -> subprocess.Popen[bytes]:
    """Start a process on one core."""
    pinned = ["chrt", "--other", "0", "taskset", "--cpu-list", str(core), *map(str, command)]
    return subprocess.Popen(pinned, stdout=output, stderr=output)  # type: ignore[call-overload]


def command_of(name: str, port: int, bundle: Path, folder: Path, tools: Path) -> list[str | Path]:
    """How a contender is started."""
    model = folder / "model.onnx"
    model.write_bytes(read_bundle(bundle).model)
    ways = ["127.0.0.1", str(port), TOPIC_IN, TOPIC_OUT]
    if name == "agent":
        return [sys.executable, "-m", "edge_agent", "run", _config(port, bundle, folder)]
    if name == "node":
        shutil.copy(HERE / "bare.js", tools / "node" / "bare.js")
        return ["node", tools / "node" / "bare.js", model, *ways, str(LENGTH), str(CHANNELS)]
    python = tools / "python" / "bin" / "python"
    one = ["--one-thread"] if name == "script_one_thread" else []
    return [python, HERE / "script.py", model, *ways, *one]


def _config(port: int, bundle: Path, folder: Path) -> Path:
    """The agent as it comes, with every decision sent at the QoS of all."""
    path = folder / "agent.yaml"
    pipeline = {
        "name": "bench",
        "model": "cnn",
        "bundle": str(bundle),
        "channels": NAMES,
        "source": {"type": "mqtt", "topic": TOPIC_IN},
        "actions": [
            {"type": "mqtt", "topic": TOPIC_OUT, "send": "at_once", "every": "window"},
        ],
    }
    config = {
        "device": "bench",
        "data_dir": str(folder / "data"),
        "broker": {"url": f"mqtt://127.0.0.1:{port}"},
        "pipelines": [pipeline],
    }
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


class Broker:
    """A mosquitto that drops nothing, on a free port.

    Raises:
        RuntimeError: it is not installed.
    """

    def __init__(self, folder: Path, core: int) -> None:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        if program is None:
            raise RuntimeError("mosquitto is not installed: apt install mosquitto")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            "max_queued_messages 1000000\nlog_dest stderr\nlog_type subscribe\n"
        )
        self._log = folder / "mosquitto.log"
        with self._log.open("wb") as output:
            self._process = start([program, "-c", config], core, output=output)
        until = time.monotonic() + START_S
        while not self._listens():
            if time.monotonic() > until:
                raise RuntimeError("mosquitto does not listen")
            time.sleep(0.05)

    def cpu_s(self) -> float:
        """CPU time that it has used, in seconds."""
        return cpu_s(self._process)

    def records_dropped(self) -> int:
        """What the agent's last status says of its outbox."""
        message = subscribe.simple(STATUS, hostname="127.0.0.1", port=self.port)
        return decode(message.payload, Status).outbox.dropped

    def await_subscriber(self, topic: str) -> None:
        """Wait until somebody has subscribed to a topic."""
        until = time.monotonic() + START_S
        while topic not in self._log.read_text():
            if time.monotonic() > until:
                raise RuntimeError(f"nobody subscribes to {topic}")
            time.sleep(0.05)

    def end(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


def install(tools: Path) -> tuple[str, ...]:
    """Give the peers environments of their own; which contenders can run."""
    python = tools / "python"
    if not (python / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", python], check=True)
    packages = ["paho-mqtt>=2.2", "numpy", "onnxruntime"]
    subprocess.run([python / "bin" / "pip", "install", "--quiet", *packages], check=True)
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("node or npm is not installed: going on without node", file=sys.stderr)
        return tuple(name for name in CONTENDERS if name != "node")
    node = tools / "node"
    if not (node / "node_modules").exists():
        node.mkdir(parents=True, exist_ok=True)
        (node / "package.json").write_text(json.dumps({"private": True}))
        # Its install script fetches libraries for GPUs, which are not wanted here.
        names = ["mqtt", "onnxruntime-node"]
        arguments = ["--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        subprocess.run(["npm", "install", *arguments, *names], cwd=node, check=True)
    return CONTENDERS
