"""An agent on a small device: 512 MB of memory without swap, a quarter of a core.

In control groups of its own, of version 1 and of version 2 as far as this machine has them: an
agent with readings over MQTT from a real broker, a collector, a signed push of another model
through probe and trial, and a broker that dies and comes back. Nothing may be lost, the model must
be committed, every reading decided, and memory must stay below the limit. Needs root.

Usage: python benchmarks/small.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench_models import LENGTHS, NAMES, bundle_file
from crash import noisy
from footprint import await_line, cpu_s, end, rss_mib
from soak import READINGS, Operator

from edge_agent.contract.bundle import read_bundle
from edge_agent.demo.broker import KINDS, LocalBroker

MEMORY_BYTES: Final = 512 * 2**20
PERIOD_US, QUOTA_US = 100_000, 25_000
AGENT: Final = (sys.executable, "-m", "edge_agent", "run")
FLEET: Final = (sys.executable, "-m", "edge_agent.fleet")
DEVICE: Final = "small"
RATE_HZ: Final = 50.0
ALONE_S: Final = 10.0  # without a broker
WAIT_S: Final = 300.0
_MOUNTS: Final = Path("/proc/self/mountinfo")
_OWN: Final = Path("/proc/self/cgroup")


class NoGroupError(Exception):
    """This machine has no such control group; the message says why."""


class Group:
    """A control group of one version for this run, below that of this process.

    Args:
        version: 1 or 2.

    Raises:
        NoGroupError: it cannot be made here.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        folders = _folders_v1() if version == 1 else _folders_v2()
        self._folders = {
            name: folder / f"edge-small-{os.getpid()}" for name, folder in folders.items()
        }
        limits = _LIMITS[version]
        try:
            for folder in set(self._folders.values()):
                folder.mkdir()
            for controller, name, value in limits:
                (self._folders[controller] / name).write_text(str(value))
        except OSError as exc:
            self.end()
            raise NoGroupError(f"version {version}: {exc.filename}: {exc.strerror}") from exc

    def entering(self, *command: str) -> list[str]:
        """A command line that enters the group and then becomes ``command``."""
        files = [str(folder / "cgroup.procs") for folder in self._folders.values()]
        enter = "".join(f"echo $$ > {file}; " for file in files)
        return ["sh", "-c", f'set -e; {enter}exec "$@"', "sh", *command]

    def peak_mib(self) -> float:
        """Most memory that it has ever used, pages of files included."""
        name = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
        return int((self._folders["memory"] / name).read_text()) / 2**20

    def end(self) -> None:
        """Remove it; nobody is left in it."""
        for folder in set(self._folders.values()):
            if folder.exists():
                folder.rmdir()


_LIMITS: Final[dict[int, list[tuple[str, str, object]]]] = {
    1: [
        ("memory", "memory.limit_in_bytes", MEMORY_BYTES),
        ("memory", "memory.swappiness", 0),
        ("cpu", "cpu.cfs_period_us", PERIOD_US),
        ("cpu", "cpu.cfs_quota_us", QUOTA_US),
    ],
    2: [
        ("memory", "memory.max", MEMORY_BYTES),
        ("memory", "memory.swap.max", 0),
        ("cpu", "cpu.max", f"{QUOTA_US} {PERIOD_US}"),
    ],
}


def main() -> int:
    """Run it in each version; prints RESULT. 1 when something did not hold, or none exists."""
    figures: dict[str, Any] = {}
    for version in (1, 2):
        try:
            group = Group(version)
        except NoGroupError as exc:
            print(f"not here: {exc}")
            figures[f"v{version}"] = {"absent": str(exc)}
            continue
        try:
            with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
                figures[f"v{version}"] = found = run(group, Path(place), stack)
        finally:
            group.end()
        print(f"version {version}: {found}")
    print("RESULT " + json.dumps(figures))
    ran = [found for found in figures.values() if "absent" not in found]
    return 0 if ran and all(found["ok"] for found in ran) else 1


def run(group: Group, place: Path, stack: ExitStack) -> dict[str, Any]:
    """The whole story in one group; its figures."""
    bundle = bundle_file("logistic", place)
    newer = place / "newer.bundle"
    newer.write_bytes(noisy(read_bundle(bundle), "1.1.0"))
    keys = ("--repo", "fleet", "--keys", "keys")
    call(place, "init", "fleet", "--keys", "keys", "--no-passphrase")
    broker = LocalBroker(place, place, KINDS)
    broker.start()
    stack.callback(broker.end)
    operator = Operator(broker.url, DEVICE)
    stack.callback(operator.end)
    config = write_config(place, bundle, broker.url)
    url = ("--broker", broker.url)
    collector = start(place, "collector", *FLEET, "collect", "--to", "records.db", *url)
    stack.callback(collector.kill)
    await_line(place / "collector.log", "connected to", collector)
    began = time.monotonic()
    agent = start(place, "agent", *group.entering(*AGENT, str(config)))
    stack.callback(agent.kill)
    await_line(place / "agent.log", "data connection", agent)
    started_s = time.monotonic() - began
    with operator.readings(RATE_HZ, 1):
        pushed = json.loads(
            call(place, "publish", "newer.bundle", "--to", DEVICE, "--yes", "--json", *url, *keys)
        )
        broker.cut()
        time.sleep(ALONE_S)
        broker.start()
        time.sleep(ALONE_S)
        used_s, lived_s, rss = cpu_s(agent), time.monotonic() - began, rss_mib(agent)
    end(agent)
    peak = group.peak_mib()
    collector.send_signal(signal.SIGTERM)
    out, _ = collector.communicate(timeout=WAIT_S)
    report = json.loads(out.decode().splitlines()[-1].removeprefix("RESULT "))
    steady, fed = operator.status.pipelines
    undecided = steady.counts["readings"] - steady.counts["windows"]
    whole = report["missing"] == 0 and report["received"] > 2 * RATE_HZ * ALONE_S
    decided = undecided < LENGTHS["logistic"] and fed.counts["windows"] > RATE_HZ * ALONE_S
    committed = pushed["committed"] == 1 and steady.version == "1.1.0"
    return {
        "ok": whole and decided and committed and peak * 2**20 < MEMORY_BYTES,
        "committed": committed,
        "undecided": undecided,
        "produced": report["produced"],
        "received": report["received"],
        "ledgered": report["ledgered"],
        "missing": report["missing"],
        "peak_mib": round(peak, 1),
        "rss_mib": round(rss, 1),
        "cpu_share": round(used_s / lived_s, 4),
        "started_s": round(started_s, 2),
    }


def write_config(place: Path, bundle: Path, url: str) -> Path:
    """A steady sensor, and one over MQTT, on one model that may be pushed."""
    shared = {"model": "logistic", "bundle": str(bundle), "channels": NAMES}
    config = {
        "device": DEVICE,
        "data_dir": "data",
        "broker": {"url": url, "keepalive_s": 5},
        "pipelines": [
            {"name": "steady", "source": {"type": "simulated", "rate_hz": RATE_HZ}, **shared},
            {"name": "fed", "source": {"type": "mqtt", "topic": READINGS}, **shared},
        ],
        "uplink": {"confirm": "collector"},
        "update": {"root_file": "fleet/root.json", "trial": {"seconds": 5.0}},
        "status_s": 1.0,
    }
    path = place / "agent.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def call(place: Path, *arguments: str) -> str:
    """The last line of what an ``edge-fleet`` command prints."""
    done = subprocess.run(
        [*FLEET, *arguments], cwd=place, check=True, stdout=subprocess.PIPE, text=True
    )
    return ["", *done.stdout.splitlines()][-1]


def start(place: Path, name: str, *command: str) -> subprocess.Popen[bytes]:
    """A program with a log of its name."""
    with (place / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=log)


def _folders_v1() -> dict[str, Path]:
    """This process's folders of the two controllers; needs both mounted.

    Raises:
        NoGroupError: one is not.
    """
    own = dict(_own_groups())
    found = {}
    for point, kind, options in _mounts():
        for controller in {"memory", "cpu"} & set(options.split(",")) if kind == "cgroup" else ():
            found[controller] = point / own[controller].strip("/")
    if absent := {"memory", "cpu"} - set(found):
        raise NoGroupError(f"version 1: no controller {', '.join(sorted(absent))} is mounted")
    return found


def _folders_v2() -> dict[str, Path]:
    """This process's folder, for both controllers.

    Raises:
        NoGroupError: there is none, or the controllers belong to version 1.
    """
    own = dict(_own_groups())
    for point, kind, _ in _mounts():
        if kind == "cgroup2":
            folder = point / own[""].strip("/")
            there = set((folder / "cgroup.controllers").read_text().split())
            if absent := {"memory", "cpu"} - there:
                raise NoGroupError(
                    f"version 2: {folder} has no controller {', '.join(sorted(absent))}: "
                    "this kernel has given it to version 1"
                )
            return {"memory": folder, "cpu": folder}
    raise NoGroupError("version 2: not mounted")


def _own_groups() -> Iterator[tuple[str, str]]:
    for line in _OWN.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        yield from ((controller, path) for controller in controllers.split(","))


def _mounts() -> Iterator[tuple[Path, str, str]]:
    """(mount point, type, options of the file system)."""
    for line in _MOUNTS.read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        name, _, options = kind.split(" ", 2)
        yield Path(mount.split()[4]), name, options


if __name__ == "__main__":
    sys.exit(main())
