"""Signed metadata in their files: read, change, sign, write."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import StorageError as TufStorageError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

from edge_agent.contract.bundle import write_bundle
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.release import ISSUED
from edge_agent.fleet.trust.keys import read_keys

ROLLOUT: Final = "rollout"
ONLINE: Final = "online"
ROOT_KEYS, ROOT_THRESHOLD = 3, 2
DAYS: Final = {"root": 365, "targets": 365, "snapshot": 14, "timestamp": 14, ROLLOUT: 90}

Now = Callable[[], float]


class ChangedError(ConfigError):
    """Another command has changed the repository since it was read: read it again."""


class Signed:
    """The metadata of one fleet. Used by one thread.

    Args:
        folder: of the repository.
        now: seconds since 1970.

    Raises:
        ConfigError: there is no repository, or it cannot be read.
    """

    def __init__(self, folder: Path, now: Now = time.time) -> None:
        self.folder = folder
        self._trust, self._now = folder / "trust", now
        if not (self._trust / "timestamp.json").exists():
            raise ConfigError(f"{folder} is no repository: make one with edge-fleet init")
        self._stamp = self._current()
        self.timestamp: Metadata[Timestamp] = self._read("timestamp.json")
        snapshot = self.timestamp.signed.snapshot_meta.version
        self.snapshot: Metadata[Snapshot] = self._read(f"{snapshot}.snapshot.json")
        self.root: Metadata[Root] = self._read(f"{self._root_version()}.root.json")
        self.roles: dict[str, Metadata[Targets]] = {}
        for name, file in self.snapshot.signed.meta.items():
            self.roles[name.removesuffix(".json")] = self._read(f"{file.version}.{name}")

    def key_ids(self) -> dict[str, list[str]]:
        """The ids of the keys of every role."""
        found = {name: list(role.keyids) for name, role in self.root.signed.roles.items()}
        delegations = self._delegations()
        return found | {name: list(role.keyids) for name, role in (delegations.roles or {}).items()}

    def files(self) -> dict[str, bytes]:
        """Every file of metadata that a device may ask for, by name."""
        names = [f"{number}.root.json" for number in range(1, self.root.signed.version + 1)]
        names += ["timestamp.json", f"{self.snapshot.signed.version}.snapshot.json"]
        names += [f"{role.signed.version}.{name}.json" for name, role in self.roles.items()]
        return {name: (self._trust / name).read_bytes() for name in names}

    def _commit(
        self,
        signed_by: dict[str, Sequence[CryptoSigner]],
        *,
        bump: bool = True,
        keys: Path | None = None,
        passphrase: bytes | None = None,
    ) -> None:
        """Sign these roles anew, then snapshot and timestamp, each file written whole.

        Raises:
            ChangedError: another command came in between; nothing is written.
        """
        with self._alone():
            self._write(signed_by, bump=bump, keys=keys, passphrase=passphrase)

    def _write(
        self,
        signed_by: dict[str, Sequence[CryptoSigner]],
        *,
        bump: bool,
        keys: Path | None,
        passphrase: bytes | None,
    ) -> None:
        names = self.roles if not bump else signed_by
        for name in names:
            role = self.roles[name]
            signers = signed_by.get(name) or read_keys(keys or Path(), name, passphrase)
            self._require_signers(name, signers)
            self._renew(role, bump=bump, days=DAYS.get(name, DAYS["targets"]))
            self._sign(role, signers, f"{role.signed.version}.{name}.json")
        online = self._online(ONLINE)
        self.snapshot.signed.meta = {
            f"{name}.json": MetaFile(role.signed.version) for name, role in self.roles.items()
        }
        self._renew(self.snapshot, bump=bump, days=DAYS["snapshot"])
        self._sign(self.snapshot, online, f"{self.snapshot.signed.version}.snapshot.json")
        timestamp = self.timestamp.signed
        timestamp.snapshot_meta = MetaFile(self.snapshot.signed.version)
        timestamp.unrecognized_fields[ISSUED] = int(self._now())
        self._renew(self.timestamp, bump=bump, days=DAYS["timestamp"])
        self._sign(self.timestamp, online, "timestamp.json")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One command at a time writes, and only on top of what it has read."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._current() != self._stamp:
                raise ChangedError(f"{self.folder} was changed by another command: try again")
            yield
            self._stamp = self._current()

    def _current(self) -> bytes:
        """The timestamp on disk, which every change replaces; empty before the first."""
        timestamp = self._trust / "timestamp.json"
        return timestamp.read_bytes() if timestamp.exists() else b""

    def _renew(self, role: Metadata[Any], *, bump: bool, days: int) -> None:
        role.signed.version += bump
        role.signed.expires = in_days(self._now, days)

    def _sign(self, role: Metadata[Any], signers: Sequence[CryptoSigner], name: str) -> None:
        role.signatures.clear()
        for signer in signers:
            role.sign(signer, append=True)
        write_bundle(self._trust / name, role.to_bytes())

    def _require_signers(self, name: str, signers: Sequence[CryptoSigner]) -> None:
        """Stop before anything is written when the keys are not those that devices know."""
        known = self.key_ids().get(name, [])
        if not any(signer.public_key.keyid in known for signer in signers):
            raise ConfigError(f"none of the keys given is a key of {name}: name their folder")

    def _online(self, role: str) -> list[CryptoSigner]:
        known = self.key_ids()["timestamp" if role == ONLINE else role]
        signers = read_keys(self.folder / ONLINE, role, None)
        return [signer for signer in signers if signer.public_key.keyid in known]

    def _root_signers(self, keys: Path, passphrase: bytes | None) -> list[CryptoSigner]:
        known = self.root.signed.roles[Root.type].keyids
        found = read_keys(keys, Root.type, passphrase)
        signers = [signer for signer in found if signer.public_key.keyid in known]
        if len(signers) < ROOT_THRESHOLD:
            raise ConfigError(f"{len(signers)} of the root's keys are in {keys}, two must sign")
        return signers

    def _renew_root(self, signers: Sequence[CryptoSigner]) -> None:
        self._renew(self.root, bump=True, days=DAYS["root"])
        self._sign(self.root, signers, f"{self.root.signed.version}.root.json")

    def _delegate(self, role: str, signer: CryptoSigner, paths: list[str]) -> None:
        """Terminating: no other role is asked for these paths."""
        delegations = self._delegations()
        assert delegations.roles is not None, "made with roles"
        delegations.roles[role] = DelegatedRole(role, [], 1, terminating=True, paths=paths)
        self.roles[Targets.type].signed.add_key(signer.public_key, role)
        self.roles[role] = Metadata(Targets(expires=in_days(self._now, DAYS["targets"])))

    def _delegations(self) -> Delegations:
        delegations = self.roles[Targets.type].signed.delegations
        assert delegations is not None, "made with delegations"
        return delegations

    def _read(self, name: str) -> Metadata[Any]:
        try:
            return Metadata.from_file(str(self._trust / name))
        except (TufStorageError, DeserializationError, OSError) as exc:
            raise ConfigError(f"{self._trust / name} cannot be read: restore a backup") from exc

    def _root_version(self) -> int:
        names = [path.name.split(".")[0] for path in self._trust.glob("*.root.json")]
        return max(int(name) for name in names if name.isdigit())


def in_days(now: Now, days: int) -> datetime:
    """So many days from now, to the second."""
    return datetime.fromtimestamp(int(now()), UTC) + timedelta(days=days)
