"""Simulated devices on a real broker: they obey the signed metadata by the agent's own rules.

PYTEST_DONT_REWRITE: there are no tests here, and tests import this before pytest does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec
from brokers import Broker

from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import BundleError
from edge_agent.contract.messages import (
    Desired,
    PipelineStatus,
    Status,
    UpdateReport,
    UpdateState,
    decode,
    encode,
)
from edge_agent.contract.requests import TrustIndex
from edge_agent.contract.topics import Topics
from edge_agent.fleet.session import ConnectionLostError, Session, open_session
from edge_agent.update.trust.resolve import Target, resolve

TOPICS = Topics("edge")
MODEL = "motion"
BEGUN = "1.0.0"


class Device:
    """One of them.

    Attributes:
        runs: the version.
        took: every version that it has begun to take, in order.
    """

    def __init__(self, name: str, groups: Sequence[str] = ()) -> None:
        self.name, self.groups = name, tuple(groups)
        self.runs, self.revision = BEGUN, 0
        self.took: list[str] = []
        self.report: UpdateReport | None = None

    def obey(self, desired: Desired, *, fails: bool) -> None:
        """Take a bundle, or refuse it."""
        if desired.version != self.runs:
            self.took.append(desired.version)
        state: UpdateState = "refused" if fails else "committed"
        self.runs = self.runs if fails else desired.version
        self.revision = desired.revision
        self.report = UpdateReport(
            t=1.0,
            model=MODEL,
            version=desired.version,
            sha256=desired.sha256,
            revision=desired.revision,
            state=state,
            reason="it fails here" if fails else "",
        )

    @property
    def status(self) -> Status:
        return Status(
            device=self.name,
            boot="b1",
            host="h",
            agent="1",
            online=True,
            t=1.0,
            groups=self.groups,
            pipelines=(PipelineStatus(name="p", model=MODEL, version=self.runs, state="running"),),
            updates=(self.report,) if self.report else (),
        )


class Crowd:
    """Plays devices in a thread, until it is left.

    Args:
        broker: running.
        groups_of: groups of each device, by name.
        bad: versions that every device refuses.
    """

    def __init__(
        self, broker: Broker, groups_of: Mapping[str, Sequence[str]], bad: Sequence[str] = ()
    ) -> None:
        self.devices = [Device(name, groups) for name, groups in groups_of.items()]
        self._bad = bad
        self._session = open_session(BrokerConfig(url=broker.url))
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._play)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60.0), "the simulated devices are not connected"
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60.0)

    def running(self, version: str) -> list[str]:
        """The devices that run a version, by name."""
        return [device.name for device in self.devices if device.runs == version]

    def touched(self) -> list[str]:
        """The devices that have begun to take anything, by name."""
        return [device.name for device in self.devices if device.took]

    def _play(self) -> None:
        with self._session as session:
            while not self._stop.is_set():
                session.connect(60.0)
                try:
                    self._say(session, self.devices)
                    session.subscribe([TOPICS.trust_index()])
                    self._ready.set()
                    self._follow(session)
                except ConnectionLostError:
                    continue

    def _follow(self, session: Session) -> None:
        while not self._stop.is_set():
            message = session.receive(0.1)
            if message is not None and message.payload:
                self._obey(session, decode(message.payload, TrustIndex))

    def _obey(self, session: Session, index: TrustIndex) -> None:
        targets = self._targets(session, index)
        changed = []
        for device in self.devices:
            try:
                desired = resolve(
                    targets.get, device=device.name, groups=device.groups, model=MODEL
                )
            except BundleError:
                continue
            if desired is not None and desired.revision > device.revision:
                device.obey(desired, fails=desired.version in self._bad)
                changed.append(device)
        self._say(session, changed)

    @staticmethod
    def _say(session: Session, devices: Sequence[Device]) -> None:
        said = [(TOPICS.status(device.name), encode(device.status)) for device in devices]
        session.publish(said, retain=True)

    @staticmethod
    def _targets(session: Session, index: TrustIndex) -> dict[str, Target]:
        """What the newest targets and rollout roles say; their signatures are others' business."""
        found: dict[str, Target] = {}
        for role in ("targets", "rollout"):
            names = [name for name in index.files if name.endswith(f".{role}.json")]
            blobs = index.files[max(names, key=lambda name: int(name.split(".")[0]))].blobs
            parts = session.ask([TOPICS.blob(digest) for digest in blobs], 3.0)
            data = b"".join(parts[TOPICS.blob(digest)] for digest in blobs)
            signed: dict[str, Any] = json.loads(data)["signed"]["targets"]
            for path, target in signed.items():
                found[path] = msgspec.convert(
                    {
                        "bytes": target["length"],
                        "sha256": target["hashes"]["sha256"],
                        "custom": target.get("custom", {}),
                    },
                    Target,
                )
        return found
