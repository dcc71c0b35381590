"""Agents killed with signal 9 at random moments of a signed push, again and again.

Every trial orders another of three versions (the third is never on the device any more, so it is
fetched), starts the agent and kills it a random moment later. ``bad``: trials after which the store
did not hold a whole model to start with. ``acked_lost``: records that an outbox had accepted and
that the collector, which runs all the time, misses in the end.

Usage: python benchmarks/crash.py [--trials N] [--seconds-max S]
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import yaml
from bench_models import NAMES, bundle_of

from edge_agent.config import BrokerConfig
from edge_agent.contract.bundle import Bundle, pack_bundle
from edge_agent.contract.errors import EdgeError
from edge_agent.contract.messages import encode
from edge_agent.contract.release import Choice, Order, device_path
from edge_agent.contract.topics import Topics
from edge_agent.demo.broker import KINDS, LocalBroker
from edge_agent.fleet.parcel import Parcel, approved_parcel, trust_files
from edge_agent.fleet.seed import seed
from edge_agent.fleet.session import Session, open_session
from edge_agent.fleet.trust.keys import read_keys
from edge_agent.fleet.trust.release import Release, make_release
from edge_agent.fleet.trust.repository import Repository
from edge_agent.update.store import Store

DEVICE, MODEL = "crash", "logistic"
TOPICS = Topics("edge")
PADDING = 1_500_000  # bytes of noise, so that fetching takes a while
LIFE_S = 1.8  # longest life of an agent
ANSWER_S = 3.0
END_S = 120.0


def main() -> int:
    """Kill, look, count; prints RESULT."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seconds-max", type=float, default=3600.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        broker = LocalBroker(place, place, KINDS)
        broker.start()
        try:
            with open_session(BrokerConfig(url=broker.url)) as session:
                session.connect(ANSWER_S * 10)
                figures = Course(place, broker.url, session).run(given.trials, given.seconds_max)
        finally:
            broker.end()
    print(f"RESULT {json.dumps(figures)}")
    return 1 if figures["bad"] or figures["acked_lost"] else 0


class Course:
    """All trials over one broker, one repository and one device."""

    def __init__(self, place: Path, url: str, session: Session) -> None:
        self._place, self._url, self._session = place, url, session
        self._repository = Repository.create(place / "fleet", place / "keys", None)
        (place / "root.json").write_bytes(self._repository.files()["1.root.json"])
        self._parcels = [self._approved(release) for release in releases(place)]
        for parcel in self._parcels:
            seed(session, TOPICS, parcel.blobs, answer_s=ANSWER_S, progress=lambda *_: None)
        self._write_config()
        self._random = random.Random(1)
        self._states: Counter[str] = Counter()

    def run(self, trials: int, seconds_max: float) -> dict[str, Any]:
        """The figures."""
        collector = self._start("edge_agent.fleet", "collect", "--to", "records.db", "--broker")
        bad, done, began = 0, 0, time.monotonic()
        try:
            while done < trials and time.monotonic() - began < seconds_max:
                self._order(self._parcels[done % len(self._parcels)])
                agent = self._start("edge_agent", "run", "agent.yaml")
                time.sleep(self._random.uniform(0.0, LIFE_S))
                agent.send_signal(signal.SIGKILL)
                agent.wait()
                bad += not self._is_whole()
                done += 1
                if done % 50 == 0:
                    print(f"{done} killed, {bad} bad, in states {dict(self._states)}", flush=True)
            last = self._parcels[(done - 1) % len(self._parcels)]
            ended_well = self._finish(last)
        finally:
            collector.send_signal(signal.SIGTERM)
            out, _ = collector.communicate(timeout=END_S)
        report = json.loads(out.decode().splitlines()[-1].removeprefix("RESULT "))
        return {
            "trials": done,
            "bad": bad + (not ended_well),
            "acked_lost": report["missing"],
            "records": report["received"],
            "killed_in": dict(self._states),
        }

    def _order(self, parcel: Parcel) -> None:
        repository = self._repository
        choice = Choice(sha256=parcel.sha256, version=parcel.version)
        order = Order(revision=repository.next_revision(), model=MODEL, choice=choice)
        repository.order(device_path(DEVICE, MODEL), order)
        trust = trust_files(repository.files())
        messages = [(TOPICS.blob(digest), data) for digest, data in trust.blobs.items()]
        messages.append((TOPICS.trust_index(), encode(trust.index)))
        hint = encode(parcel.desired(order.revision))
        messages.append((TOPICS.desired_for_device(DEVICE, MODEL), hint))
        self._session.publish(messages, retain=True)

    def _is_whole(self) -> bool:
        """Whether an agent that starts now finds a whole model, if there was one before."""
        folder = self._place / "data" / "store"
        if not (folder / "FORMAT").exists():
            return True  # killed before it had anything
        try:
            store = Store(folder)
            pointer = store.pointer(MODEL)
            update = pointer.update
            self._states[update.state if update else "settled"] += 1
            if update and update.state == "trial":
                store.read(update.desired.sha256)
            if pointer.current:
                store.read(pointer.current.sha256)
        except EdgeError as exc:
            print(f"bad: {exc}", file=sys.stderr)
            return False
        return True

    def _finish(self, last: Parcel) -> bool:
        """Let one agent live until it runs what was ordered last and its records are gone."""
        agent = self._start("edge_agent", "run", "agent.yaml")
        deadline = time.monotonic() + END_S
        try:
            while time.monotonic() < deadline:
                current = Store(self._place / "data" / "store").pointer(MODEL).current
                if current and current.sha256 == last.sha256:
                    time.sleep(ANSWER_S)  # for the backlog
                    return True
                time.sleep(0.1)
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait()
        return False

    def _approved(self, release: Release) -> Parcel:
        self._repository.approve(release, read_keys(self._place / "keys", "targets", None))
        files = dict(release.files)
        return approved_parcel(release.sha256, len(release.data), release.approval, files)

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        url = [self._url] if arguments[-1] == "--broker" else []
        log = (self._place / "log").open("ab")
        command = [sys.executable, "-m", module, *arguments, *url]
        return subprocess.Popen(command, cwd=self._place, stdout=subprocess.PIPE, stderr=log)

    def _write_config(self) -> None:
        config = {
            "device": DEVICE,
            "data_dir": "data",
            "broker": {"url": self._url},
            "update": {"root_file": "root.json", "trial": {"seconds": 0.2, "windows_min": 1}},
            "uplink": {"confirm": "collector", "resend_s": 1.0},
            "pipelines": [
                {
                    "name": "p",
                    "model": MODEL,
                    "channels": list(NAMES),
                    "source": {"type": "simulated", "rate_hz": 200.0},
                }
            ],
        }
        (self._place / "agent.yaml").write_text(yaml.safe_dump(config))


def releases(place: Path) -> list[Release]:
    """Three versions of one model, each with its own noise."""
    bundle = bundle_of(MODEL)
    found = []
    for number in range(3):
        path = place / f"{number}.bundle"
        path.write_bytes(noisy(bundle, f"1.{number}.0"))
        found.append(make_release(path, {}))
    return found


def noisy(bundle: Bundle, version: str) -> bytes:
    """The bundle under another version, with noise in its report."""
    noise = random.Random(version).randbytes(PADDING // 2).hex()
    report = bundle.report[:-1] + b',"noise":"' + noise.encode() + b'"}'
    members = {
        "model.onnx": bundle.model,
        "golden.npz": bundle.golden,
        "reference.json": bundle.reference,
        "report.json": report,
    }
    return pack_bundle(msgspec.structs.replace(bundle.manifest, version=version), members)


if __name__ == "__main__":
    sys.exit(main())
