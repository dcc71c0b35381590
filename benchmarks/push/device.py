"""A light device: the agent's own trust check, fetch and unpacking, without pipelines or models.

Usage: python -m benchmarks.push.device URL ROOT_FILE FOLDER NAME [--slow] [--many N]

It says ``ready``, ``chunk DIGEST`` for whatever chunk arrives, and ``done`` when the digest of the
whole bundle is the signed one. With ``--slow`` it takes its time, so that a kill comes in the
middle. With ``--many`` it is so many processes, named NAME-1 and so on,
which share the memory of what they have imported and keep quiet about chunks.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import time
from pathlib import Path
from typing import Final, TypedDict, Unpack

from benchmarks.push import GROUP, MODEL, TOPICS
from edge_agent.config import BrokerConfig
from edge_agent.contract.messages import Desired
from edge_agent.encoding import unpack
from edge_agent.link import Down, Event, Message, Up, take_events
from edge_agent.mqtt import MqttLink
from edge_agent.update.fetch import Fetch
from edge_agent.update.orders import Orders
from edge_agent.update.partial import Partial
from edge_agent.update.trust.check import TrustCheck
from edge_agent.update.ways.base import Answer, Blob
from edge_agent.update.ways.retained import RetainedWay

WINDOW_N: Final = 8
ANSWER_S: Final = 3.0
SLOW_BYTES_PER_S: Final = 4_000_000
_TURN_S: Final = 0.25
_CHILD_TURN_S: Final = 0.01  # while a trust check is at work
_CHECK_S: Final = 600.0  # 300 checks at once take their time on two cores


class How(TypedDict, total=False):
    """How a device behaves.

    Attributes:
        is_quiet: say nothing about chunks.
        bytes_per_s: most that it loads; None for no bound.
    """

    is_quiet: bool
    bytes_per_s: int | None


class Device:
    """One light device. ``run`` returns when it has a whole bundle.

    Args:
        url: of the broker.
        root: root file.
        folder: its disk, which exists; what it holds already is used.
        name: device id; its group is always the same.
        how: see :class:`How`.
    """

    def __init__(self, url: str, root: Path, folder: Path, name: str, **how: Unpack[How]) -> None:
        self._root, self._folder, self._name, self._how = root, folder, name, how
        self._link = MqttLink(BrokerConfig(url=url), client_id=name)
        self._port = self._link.port("update")
        self._way = RetainedWay(self._port, TOPICS)
        self._orders = Orders(self._way, self._check, answer_s=ANSWER_S, check_s=_CHECK_S)
        self._is_hinted = False
        self._desired: Desired | None = None
        self._fetch: Fetch | None = None

    def run(self) -> None:
        """Wait for a hint, check the orders, fetch, unpack, compare the digest."""
        self._link.start()
        while not (self._fetch and self._fetch.partial.complete):
            wait_s = _CHILD_TURN_S if self._orders.busy else _TURN_S
            for event in take_events(self._port.events, n_max=64, wait_s=wait_s):
                self._on_event(event)
            now_ns = time.monotonic_ns()
            self._take_answers(now_ns)
            if self._is_hinted and self._fetch is None:
                self._step_orders(now_ns)
            if self._fetch and self._port.connected:
                plan = self._fetch.plan(now_ns, WINDOW_N)
                self._way.drop(plan.drop)
                self._way.ask(plan.ask)
            self._take_answers(now_ns)  # some come within the question
        self._unpack(self._fetch.partial)
        self._link.stop()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Up | Down) and self._fetch:
            self._fetch.lost()
        if self._way.take(event):
            return
        if isinstance(event, Up):
            self._port.subscribe([TOPICS.desired_for_group(GROUP, MODEL)])
            say("ready")
        elif isinstance(event, Message) and event.payload:
            self._is_hinted = True
            self._orders.hint()

    def _take_answers(self, now_ns: int) -> None:
        for answer in self._way.answers():
            self._on_answer(answer, now_ns)

    def _on_answer(self, answer: Answer, now_ns: int) -> None:
        if not isinstance(answer.want, Blob):
            self._orders.take(answer)
        elif self._fetch and answer.data is not None:
            if answer.want.payload and not self._how.get("is_quiet"):
                say(f"chunk {answer.want.sha256}")
            self._fetch.take(answer.want.sha256, answer.data, now_ns)

    def _step_orders(self, now_ns: int) -> None:
        verdict = self._orders.step(now_ns)
        if verdict is None or MODEL not in verdict.desired:
            return
        self._desired = verdict.desired[MODEL]
        payload = self._desired.payloads[0]
        partial = Partial(self._folder / payload.sha256, payload)
        self._fetch = Fetch(partial, answer_s=ANSWER_S, bytes_per_s=self._how.get("bytes_per_s"))

    def _check(self) -> TrustCheck:
        return TrustCheck(
            self._folder / "trust",
            root=self._root,
            device=self._name,
            groups=(GROUP,),
            models=(MODEL,),
            seconds=_CHECK_S,
            now=time.time(),
        )

    def _unpack(self, partial: Partial) -> None:
        assert self._desired is not None, "there is nothing to fetch without"
        whole = self._folder / "bundle"
        encoding = self._desired.payloads[0].encoding
        with whole.open("wb") as file:
            file.writelines(unpack(encoding, partial.file, base=None, size=self._desired.bytes))
        with whole.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self._desired.sha256:
            raise SystemExit(f"{self._name}: the bundle has another digest than was signed")


def say(what: str) -> None:
    """One line, whole even when many processes speak, and out before a kill."""
    os.write(1, f"{what}\n".encode())


def live(url: str, root: Path, folder: Path, name: str, **how: Unpack[How]) -> None:
    """One device from its start to the bundle."""
    (folder / "trust").mkdir(parents=True, exist_ok=True)
    Device(url, root, folder, name, **how).run()
    say("done")


def main() -> None:
    """Be one device, or many."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("root", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--many", type=int, default=0)
    parser.add_argument("--slow", action="store_true")
    given = parser.parse_args()
    if given.many:
        be_many(given.url, given.root, given.folder, given.name, given.many)
        return
    limit = SLOW_BYTES_PER_S if given.slow else None
    live(given.url, given.root, given.folder, given.name, bytes_per_s=limit)


def be_many(url: str, root: Path, folder: Path, name: str, count: int) -> None:
    """So many devices at once."""
    fork = multiprocessing.get_context("fork")
    names = [f"{name}-{number + 1}" for number in range(count)]
    processes = [
        fork.Process(target=live, args=(url, root, folder / each, each), kwargs={"is_quiet": True})
        for each in names
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
