"""A signed repository for tests, with its keys, and a trust check that is handed its files."""

from __future__ import annotations

import time
from pathlib import Path

from bundles import make_bundle

from edge_agent.contract.release import Choice, Order, device_path
from edge_agent.fleet.trust.keys import read_keys
from edge_agent.fleet.trust.release import Release, make_release
from edge_agent.fleet.trust.repository import Repository, role_of
from edge_agent.update.trust.check import TrustCheck
from edge_agent.update.trust.protocol import Answer

SECRET = b"correct horse"
DEVICE = "pi-1"
DEADLINE_S = 30.0


class Fleet:
    """An operator with a repository; ``files`` is what is on the broker."""

    def __init__(self, folder: Path, groups: tuple[str, ...] = (), now=time.time) -> None:
        self.folder, self.keys = folder / "repository", folder / "keys"
        self.now = now
        self.repository = Repository.create(self.folder, self.keys, SECRET, groups, now)
        self.root = folder / "root.json"
        self.root.write_bytes(self.files()["1.root.json"])
        self._bundles = folder

    def files(self) -> dict[str, bytes]:
        return self.repository.files()

    def reopen(self) -> None:
        self.repository = Repository(self.folder, self.now)

    def release(self, version: str = "1.0.0", **fields) -> Release:
        path = self._bundles / f"{version}.bundle"
        path.write_bytes(make_bundle(version=version, **fields))
        return make_release(path, {})

    def approve(self, release: Release, scope: str = "all") -> Release:
        signers = read_keys(self.keys, role_of(scope), SECRET)
        self.repository.approve(release, signers, scope)
        return release

    def order(self, release: Release, path: str | None = None, **fields) -> Order:
        scope = fields.pop("scope", "all")
        choice = Choice(sha256=release.sha256, version=release.manifest.version, scope=scope)
        revision = self.repository.next_revision()
        order = Order(revision=revision, model="motion", choice=choice, **fields)
        self.repository.order(path or device_path(DEVICE, "motion"), order)
        return order


def ask(
    fleet: Fleet,
    trust: Path,
    files: dict[str, bytes] | None = None,
    *,
    device: str = DEVICE,
    groups: tuple[str, ...] = (),
    now: float | None = None,
    seconds: float = DEADLINE_S,
    child: str | None = None,
) -> Answer:
    """What a device makes of these files."""
    files = fleet.files() if files is None else files
    check = TrustCheck(
        trust,
        root=fleet.root,
        device=device,
        groups=groups,
        models=("motion",),
        seconds=seconds,
        now=fleet.now() if now is None else now,
        **({"child": child} if child else {}),
    )
    deadline = time.monotonic() + DEADLINE_S + seconds
    while (answer := check.poll()) is None:
        assert time.monotonic() < deadline
        if check.wanted is not None:
            check.give(check.wanted.file, files.get(check.wanted.file))
        time.sleep(0.001)
    return answer
