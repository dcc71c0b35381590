"""One agent through everything that goes wrong on a device, again and again.

An agent runs two pipelines, a steady sensor at 100 Hz and one over MQTT, on a small disk of its own
(a loop device; without root the disk stays sound). A collector takes the records; the operator is
a client that keeps the newest status. In turn: a full disk, a disk that an error makes read-only,
a wall clock that is set (the agent's own, by an offset), a sensor at 100 kHz, one that
falls silent, a broker that is killed every second; then all at once. After each it must have gone
on deciding, must have said in status and log what was wrong, and must be well again. At the end
every record that got a number is at the collector, or in the ledger.

Usage: python benchmarks/soak.py [--seconds S] [--phase-s S]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from bench_models import NAMES, bundle_file
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.contract.messages import PipelineStatus, Status, decode
from edge_agent.contract.topics import Topics
from edge_agent.demo.broker import KINDS, LocalBroker

AGENT: Final = Path(__file__).with_name("soak_agent.py")
DEVICE: Final = "soak"
TOPICS: Final = Topics("edge")
READINGS: Final = "soak/readings"
STEADY_HZ: Final = 100.0
SILENT_S: Final = 4.0
FLOOD_N: Final = 100  # readings in a message of the flood, and 1,000 such messages a second
WELL_S: Final = 180.0  # to be well again, on a machine that has other work too
DISK_MIB: Final = 48
OUTBOX_BYTES: Final = 16 * 1024 * 1024


class SoakError(Exception):
    """Something that must hold does not."""


def main() -> int:
    """Run it; prints RESULT. 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--phase-s", type=float, default=10.0)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing stays mounted
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        soak = Soak(Path(place), stack)
        figures = soak.run(given.seconds, given.phase_s)
    print("RESULT " + json.dumps(figures))
    return 1 if figures["faults"] or figures["missing"] else 0


class Soak:
    """The stage, and the phases on it.

    Args:
        place: a folder for everything.
        stack: ends what was begun.
    """

    def __init__(self, place: Path, stack: ExitStack) -> None:
        self._place = place
        self._disk = Disk(place) if os.geteuid() == 0 and shutil.which("mkfs.ext4") else None
        if self._disk:
            stack.callback(self._disk.end)
        else:
            (place / "disk").mkdir()
            print("no root or no mkfs.ext4: the disk stays sound")
        self._clock = place / "clock"
        self._clock.write_text("+0")
        self._broker = LocalBroker(place, place, KINDS)
        self._broker.start()
        stack.callback(self._broker.end)
        self._operator = Operator(self._broker.url, DEVICE)
        stack.callback(self._operator.end)
        self._config = write_config(place, self._broker.url)
        self._collector = self._start(
            "collect",
            "-m",
            "edge_agent.fleet",
            "collect",
            "--to",
            "r.db",
            "--broker",
            self._broker.url,
        )
        stack.callback(self._collector.kill)
        self._agent = self._start_agent()
        stack.callback(self._kill_agent)
        self._boots = 1
        self._passed: Counter[str] = Counter()
        self._faults: list[str] = []
        self._rss: list[float] = []

    def run(self, seconds: float, phase_s: float) -> dict[str, Any]:
        """Phase after phase until the time is over, then the proof; the figures."""
        phases = [self.calm, self.clock, self.flood, self.silence, self.flaps]
        if self._disk:
            phases += [self.full, self.everything, self.read_only]
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            for phase in phases:
                self._play(phase, phase_s)
        report = self._prove()
        steady = self._operator.pipeline("steady")
        return {
            "seconds": round(time.monotonic() - began),
            "phases": dict(self._passed),
            "faults": self._faults,
            "boots": self._boots,
            "rss_mib_first": self._rss[0],
            "rss_mib_max": max(self._rss),
            "steady_windows_last_boot": steady.counts["windows"],
            **{
                name: report[name]
                for name in ("produced", "received", "ledgered", "unsequenced", "missing")
            },
        }

    # --- the phases: each leaves everything well ---

    def calm(self, seconds: float) -> None:
        """Nothing is wrong."""
        with self._operator.readings(50.0, 1):
            time.sleep(seconds)

    def clock(self, seconds: float) -> None:
        """An hour forward, two days back, and right again."""
        for offset_s in (3600, -172_800, 0):
            before = self._said("the clock was set")
            self._clock.write_text(f"{offset_s:+d}")
            time.sleep(seconds / 3)
            self._await(
                lambda offset_s=offset_s: abs(self._operator.status.clock_set_s - offset_s) < 60,
                f"a status that says the clock was set by {offset_s} s",
            )
            self._await(lambda n=before: self._said("the clock was set") > n, "the same in the log")

    def flood(self, seconds: float) -> None:
        """A hundred thousand readings a second."""
        before = self._operator.pipeline("fed").counts
        with self._operator.readings(1000.0, FLOOD_N):
            time.sleep(seconds)
        after = self._await_status().pipelines[1].counts
        if after["overrun"] > before["overrun"]:
            self._await(lambda: self._said("readings are dropped") > 0, "the log to say so")
        self._await(
            lambda: "dropped" not in self._operator.pipeline("fed").fault, "the flood to be over"
        )

    def silence(self, seconds: float) -> None:
        """A sensor says nothing any more."""
        time.sleep(min(seconds, SILENT_S))
        self._await(
            lambda: "no reading for" in self._operator.pipeline("fed").fault,
            "silence in the status",
        )
        self._require_said("no reading for")

    def flaps(self, seconds: float) -> None:
        """The broker is killed every second."""
        with self._operator.readings(50.0, 1):
            self._flap(seconds)
        self._await_status()
        self._require_said("not connected")

    def full(self, seconds: float) -> None:
        """There is no byte left on the disk."""
        assert self._disk is not None
        with self._disk.filled(), self._operator.readings(50.0, 1):
            time.sleep(seconds)
            self._await(lambda: "disk is full" in self._outbox_fault(), "a full disk in the status")
        self._require_said("disk is full")
        self._await(lambda: not self._outbox_fault(), "records to be stored again")

    def everything(self, seconds: float) -> None:
        """All of it together."""
        assert self._disk is not None
        with self._disk.filled(), self._operator.readings(1000.0, FLOOD_N):
            self._clock.write_text("+7200")
            self._flap(seconds)
        self._clock.write_text("+0")
        self._await_status()
        self._await(lambda: not self._outbox_fault(), "records to be stored again")

    def read_only(self, seconds: float) -> None:
        """An error makes the disk read-only; it is repaired as it would be, the agent ended."""
        assert self._disk is not None
        self._disk.break_down()
        try:
            with self._operator.readings(50.0, 1):
                time.sleep(seconds)
                self._await(lambda: "read-only" in self._outbox_fault(), "the same in the status")
            self._require_said("read-only")
        finally:
            self._end_agent()
            self._disk.repair()
            self._agent = self._start_agent()
            self._boots += 1

    # --- helpers ---

    def _play(self, phase: Callable[[float], None], seconds: float) -> None:
        """One phase, and what must hold of every one."""
        name = phase.__name__
        try:
            before = self._await_status()
            phase(seconds)
            after = self._await_status()
            self._require_decisions(before, after)
        except SoakError as exc:
            self._faults.append(f"{name}: {exc}")
            print(f"{name}: {exc}", flush=True)
        else:
            self._passed[name] += 1
            self._rss.append(round(after.rss_bytes / 2**20, 1))
            outbox = after.outbox
            print(
                f"{name:10} ok  rss {self._rss[-1]} MiB  records {outbox and outbox.records}  "
                f"dropped {outbox and outbox.dropped}",
                flush=True,
            )

    def _require_decisions(self, before: Status, after: Status) -> None:
        """The steady sensor's windows are those of its rate, whatever happened."""
        if before.boot != after.boot:
            return
        one, two = before.pipelines[0], after.pipelines[0]
        if two.counts["windows"] <= one.counts["windows"]:
            raise SoakError("no decisions")
        if two.counts["readings"] - two.counts["windows"] > 100:
            raise SoakError("readings without a decision")

    def _prove(self) -> dict[str, Any]:
        """End the agent, let a last one say what was produced, and take the collector's word."""
        self._end_agent()
        self._agent = self._start_agent()
        self._await_status()
        try:
            self._await(lambda: self._operator.records < 2_000, "the backlog to be collected", 600)
        except SoakError as exc:
            self._faults.append(str(exc))
        self._end_agent()
        time.sleep(2.0)
        self._collector.send_signal(signal.SIGTERM)
        out, _ = self._collector.communicate(timeout=WELL_S)
        report: dict[str, Any] = json.loads(out.decode().splitlines()[-1].removeprefix("RESULT "))
        return report

    def _flap(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._broker.cut()
            time.sleep(0.3)
            self._broker.start()
            time.sleep(0.7)

    def _await_status(self) -> Status:
        """A status that was made after now."""
        seen = self._operator.heard
        self._await(lambda: self._operator.heard > seen + 1, "a status")
        return self._operator.status

    def _await(self, condition: Callable[[], bool], what: str, seconds: float = WELL_S) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if self._agent.poll() is not None:
                log = self._log().splitlines()[-20:]
                raise SystemExit(f"the agent has ended, waiting for {what}: " + "\n".join(log))
            if time.monotonic() > until:
                raise SoakError(f"not within {seconds:g} s: {what}")
            time.sleep(0.05)

    def _outbox_fault(self) -> str:
        outbox = self._operator.status.outbox
        return outbox.fault if outbox else ""

    def _require_said(self, words: str) -> None:
        if not self._said(words):
            raise SoakError(f"the log does not say {words!r}")

    def _said(self, words: str) -> int:
        return self._log().count(words)

    def _log(self) -> str:
        return (self._place / "agent.log").read_text(errors="replace")

    def _kill_agent(self) -> None:
        self._agent.kill()
        self._agent.wait()

    def _end_agent(self) -> None:
        self._agent.send_signal(signal.SIGTERM)
        self._agent.wait(WELL_S)

    def _start_agent(self) -> subprocess.Popen[bytes]:
        return self._start("agent", str(AGENT), str(self._config), str(self._clock))

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self._place / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *command], cwd=self._place, stdout=subprocess.PIPE, stderr=log
            )


class Disk:
    """A small ext4 on a loop device, which fills up, breaks down and is repaired.

    Args:
        place: folder for its image and its mount point.
    """

    def __init__(self, place: Path) -> None:
        self._image, self._point = place / "disk.img", place / "disk"
        self._point.mkdir()
        with self._image.open("wb") as image:
            image.truncate(DISK_MIB * 2**20)
        _call("mkfs.ext4", "-q", str(self._image))
        self._mount()

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Without a free byte."""
        filler = self._point / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (2**20, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
        try:
            yield
        finally:
            filler.unlink()

    def break_down(self) -> None:
        """An error of the disk, on which ext4 goes read-only."""
        device = _call("findmnt", "-no", "SOURCE", str(self._point)).strip().rpartition("/")[2]
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("soak")

    def repair(self) -> None:
        """Unmount, check, mount."""
        self.end()
        subprocess.run(["e2fsck", "-fy", self._image], check=False, capture_output=True)
        self._mount()

    def end(self) -> None:
        """Unmount."""
        subprocess.run(["umount", self._point], check=False, capture_output=True)

    def _mount(self) -> None:
        _call("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self._point))


class Operator:
    """A client that keeps the newest status and plays the sensor over MQTT.

    Args:
        url: of the broker.
        device: whose status it keeps.
    """

    def __init__(self, url: str, device: str) -> None:
        host, port = url.removeprefix("mqtt://").split(":")
        self.heard = 0
        self._status: Status | None = None
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(TOPICS.status(device), 1)
        self._client.on_message = self._hear
        self._client.connect(host, int(port))
        self._client.loop_start()

    @property
    def status(self) -> Status:
        """The newest one of a live agent."""
        assert self._status is not None, "awaited before"
        return self._status

    @property
    def records(self) -> int:
        """How many the outbox holds."""
        return self.status.outbox.records if self.status.outbox else 0

    def pipeline(self, name: str) -> PipelineStatus:
        """The newest status of a pipeline."""
        return next(one for one in self.status.pipelines if one.name == name)

    @contextmanager
    def readings(self, messages_hz: float, readings: int) -> Iterator[None]:
        """Publish so many messages a second, of so many readings each."""
        stop = threading.Event()
        rows = np.random.default_rng(1).normal(size=(readings, len(NAMES))).round(3).tolist()
        payload = json.dumps(rows if readings > 1 else rows[0])
        thread = threading.Thread(target=self._publish, args=(payload, messages_hz, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def end(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, payload: str, messages_hz: float, stop: threading.Event) -> None:
        began, count = time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - began) * messages_hz) - count
            count += due
            for _ in range(due if self._client.is_connected() else 0):
                self._client.publish(READINGS, payload)
            stop.wait(0.01)

    def _hear(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        status = decode(message.payload, Status)
        if status.online and not message.retain:
            self._status = status
            self.heard += 1


def write_config(place: Path, url: str) -> Path:
    """The agent's configuration: short times, a small outbox on the small disk."""
    bundle = bundle_file("logistic", place)
    shared = {"model": "logistic", "bundle": str(bundle), "channels": NAMES, "silent_s": SILENT_S}
    pipelines = [
        {"name": "steady", "source": {"type": "simulated", "rate_hz": STEADY_HZ}, **shared},
        {"name": "fed", "source": {"type": "mqtt", "topic": READINGS}, **shared},
    ]
    config = {
        "device": DEVICE,
        "data_dir": str(place / "disk" / "data"),
        "broker": {"url": url, "keepalive_s": 5},
        "pipelines": pipelines,
        "outbox": {"bytes_max": OUTBOX_BYTES},
        "uplink": {"confirm": "collector", "backlog_n_per_s": 20_000},
        "update": {"enabled": False},
        "status_s": 1.0,
        "metrics_s": 5.0,
    }
    path = place / "agent.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def _call(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
