"""The signed metadata of one fleet, in a folder.

::

    trust/N.root.json, timestamp.json, N.snapshot.json, N.targets.json, N.rollout.json, …
    online/online-1.key, online/rollout-1.key    the keys that this computer may hold
    bundles/SHA256.bundle                        every approved bundle
    payload/SHA256                               the forms in which they travel

Who signs what, for a small team:

* ``root``: two of three keys, offline, on three sticks; needed once a year and to replace keys.
* ``targets``: one key, offline, under a passphrase: a person approves each bundle with it. A group
  of devices can have a key of its own, whose approvals hold for that group alone.
* ``snapshot`` and ``timestamp``: the online key; what is current, renewed by a timer.
* ``rollout``: another online key; who runs which of the approved bundles.

Times of expiry: a device that was away for months fetches what is current, so short ones cost it
nothing; they bound for how long a thief of the network can hide that there is something newer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    Delegations,
    Metadata,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edge_agent.contract.bundle import write_bundle
from edge_agent.contract.chunks import cut
from edge_agent.contract.errors import BundleError, ConfigError
from edge_agent.contract.names import name_fault
from edge_agent.contract.release import SCOPE_ALL, Approval, Choice, Order, bundle_path
from edge_agent.fleet.trust.keys import free_path, make_key, read_keys
from edge_agent.fleet.trust.release import Release
from edge_agent.fleet.trust.signed import (
    DAYS,
    ONLINE,
    ROLLOUT,
    ROOT_KEYS,
    ROOT_THRESHOLD,
    Now,
    Signed,
    in_days,
)

_EMPTY: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of no bytes


class Repository(Signed):
    """One repository folder. Used by one thread.

    Args:
        folder: made by :meth:`create`.
        now: seconds since 1970.

    Raises:
        ConfigError: there is no repository, or it cannot be read.
    """

    @classmethod
    def create(
        cls,
        folder: Path,
        keys: Path,
        passphrase: bytes | None,
        groups: Sequence[str] = (),
        now: Now = time.time,
    ) -> Repository:
        """Make a repository and its keys.

        Args:
            folder: must not hold one yet.
            keys: folder for the offline keys.
            passphrase: of the offline keys; None leaves them in the clear.
            groups: that get a key of their own for approvals.
            now: seconds since 1970.

        Raises:
            ConfigError: something is there already, or cannot be written.
        """
        if (folder / "trust").exists():
            raise ConfigError(f"{folder} holds a repository already")
        roots = [make_key(keys / f"root-{n + 1}.key", passphrase) for n in range(ROOT_KEYS)]
        targets_key = make_key(keys / "targets-1.key", passphrase)
        online = make_key(folder / ONLINE / f"{ONLINE}-1.key", None)
        rollout = make_key(folder / ONLINE / f"{ROLLOUT}-1.key", None)
        root = Root(expires=in_days(now, DAYS["root"]), consistent_snapshot=True)
        for signer in roots:
            root.add_key(signer.public_key, Root.type)
        root.roles[Root.type].threshold = ROOT_THRESHOLD
        root.add_key(targets_key.public_key, Targets.type)
        root.add_key(online.public_key, Snapshot.type)
        root.add_key(online.public_key, Timestamp.type)

        self = cls.__new__(cls)
        self.folder, self._trust, self._now = folder, folder / "trust", now
        self._trust.mkdir(parents=True)
        self._stamp = b""
        self.root = Metadata(root)
        targets = Targets(expires=in_days(now, DAYS["targets"]))
        targets.delegations = Delegations({}, {})
        self.roles = {Targets.type: Metadata(targets)}
        self._delegate(ROLLOUT, rollout, ["rollout/*/*/*"])
        for group in groups:
            self._add_group(group, make_key(keys / f"group-{group}-1.key", passphrase))
        self.snapshot, self.timestamp = Metadata(Snapshot()), Metadata(Timestamp())
        self._sign(self.root, roots, f"{root.version}.root.json")
        self._commit(
            {Targets.type: [targets_key], ROLLOUT: [rollout]},
            bump=False,
            keys=keys,
            passphrase=passphrase,
        )
        return self

    def approve(
        self, release: Release, signers: Sequence[CryptoSigner], scope: str = SCOPE_ALL
    ) -> None:
        """Say with an offline key that a bundle may be run.

        Args:
            release: the bundle and the forms in which it travels.
            signers: of ``targets``, or of the group's own role.
            scope: ``all``, or a group.

        Raises:
            ConfigError: the group has no key of its own, or the signer is not the role's.
        """
        role = role_of(scope)
        if role not in self.roles:
            raise ConfigError(f"the group {scope} has no key: edge-fleet keys add-group {scope}")
        for folder in ("bundles", "payload"):
            (self.folder / folder).mkdir(exist_ok=True)
        write_bundle(self.folder / "bundles" / f"{release.sha256}.bundle", release.data)
        for digest, content in release.files:
            write_bundle(self.folder / "payload" / digest, content)
        path = bundle_path(scope, release.sha256)
        now_ms = max(int(self._now() * 1000), self._latest(release.manifest.name) + 1)
        approval = msgspec.structs.replace(release.approval, approved=now_ms)
        custom = msgspec.to_builtins(approval)
        self.roles[role].signed.targets[path] = TargetFile(
            len(release.data), {"sha256": release.sha256}, path, {"custom": custom}
        )
        self._commit({role: signers})

    def approval(self, sha256: str, scopes: Sequence[str]) -> tuple[str, Approval, int] | None:
        """The scope, the approval and the size of a bundle, where it is approved."""
        for scope in scopes:
            role = self.roles.get(role_of(scope))
            target = role.signed.targets.get(bundle_path(scope, sha256)) if role else None
            if target is not None:
                return scope, msgspec.convert(target.custom, Approval), target.length
        return None

    def bundles_of(self, model: str) -> list[str]:
        """The digests of the approved bundles of a model, in the order of their approval."""
        found = sorted(self._approvals(model))
        return list(dict.fromkeys(sha256 for _, sha256 in found))

    def _approvals(self, model: str) -> list[tuple[int, str]]:
        """When each bundle of a model was approved, and its digest."""
        targets = (target for role in self.roles.values() for target in role.signed.targets.items())
        return [
            (target.custom["approved"], path.rsplit("/", 1)[1])
            for path, target in targets
            if path.startswith("bundles/") and target.custom and target.custom["model"] == model
        ]

    def _latest(self, model: str) -> int:
        return max((approved for approved, _ in self._approvals(model)), default=0)

    def order(self, path: str, order: Order) -> None:
        """Say with the online key which bundle is to run.

        Args:
            path: of the target, see :mod:`edge_agent.contract.release`.
            order: what; its choices must be approved, or devices refuse it.
        """
        self.order_all({path: order})

    def order_all(self, orders: Mapping[str, Order]) -> None:
        """The same for several orders, by path: all of them or none."""
        targets = self.roles[ROLLOUT].signed.targets
        for path, order in orders.items():
            custom = msgspec.to_builtins(order)
            targets[path] = TargetFile(0, {"sha256": _EMPTY}, path, {"custom": custom})
        self._commit({ROLLOUT: self._online(ROLLOUT)})

    def orders(self) -> dict[str, Order]:
        """What is ordered, by path."""
        targets = self.roles[ROLLOUT].signed.targets
        return {path: msgspec.convert(target.custom, Order) for path, target in targets.items()}

    def next_revision(self) -> int:
        """Above every revision that was ever ordered here."""
        highest = max((order.revision for order in self.orders().values()), default=0)
        return max(int(self._now() * 1000), highest + 1)

    def refresh(self) -> None:
        """Renew what the online keys sign, before it expires."""
        self._commit({ROLLOUT: self._online(ROLLOUT)})

    def renew(self, keys: Path, passphrase: bytes | None) -> None:
        """Sign what the offline keys sign anew, before it expires.

        Args:
            keys: folder with two of the root's keys and that of targets.
            passphrase: of these keys.

        Raises:
            ConfigError: a key is missing.
        """
        self._renew_root(self._root_signers(keys, passphrase))
        signers = read_keys(keys, Targets.type, passphrase)
        self._commit({Targets.type: signers, ROLLOUT: self._online(ROLLOUT)})

    def add_group(
        self, group: str, keys: Path, passphrase: bytes | None, signers: Sequence[CryptoSigner]
    ) -> None:
        """Give a group a key of its own for approvals.

        Args:
            group: its name.
            keys: folder for the new key.
            passphrase: of the new key.
            signers: of ``targets``.

        Raises:
            ConfigError: it has one, or the name is none.
        """
        if role_of(group) in self.roles:
            raise ConfigError(f"the group {group} has a key already")
        signer = make_key(keys / f"group-{group}-1.key", passphrase)
        self._add_group(group, signer)
        self._commit({Targets.type: signers, role_of(group): [signer]})

    def rotate(
        self, role: str, keys: Path, passphrase: bytes | None, *, revoke: Sequence[str] = ()
    ) -> str:
        """Replace the keys of a role by a new one, or one of the root's keys.

        Args:
            role: ``root``, ``targets``, ``online``, ``rollout`` or ``group-NAME``.
            keys: folder with enough of the keys that sign the change, and for new offline ones.
            passphrase: of the offline keys.
            revoke: ids of keys that go; by default all of the role, and for the root none.

        Returns:
            The path of the new key.

        Raises:
            ConfigError: a key is missing, or too few would be left.
        """
        place = self.folder / ONLINE if role in (ONLINE, ROLLOUT) else keys
        path = free_path(place, role)
        secret = None if role in (ONLINE, ROLLOUT) else passphrase
        if role in (Root.type, Targets.type, ONLINE):
            self._rotate_root(role, path, keys, (passphrase, secret), revoke)
        else:
            self._rotate_delegated(role, make_key(path, secret), keys, passphrase)
        return str(path)

    def read(self, name: str) -> bytes | None:
        """A thing by its path: ``trust/FILE``, ``payload/SHA256`` or ``blob/SHA256``; or None."""
        kind, _, rest = name.partition("/")
        if kind == "trust":
            return self.files().get(rest)
        if kind == "payload" and rest in self.payloads:
            return self.payload(rest)
        return self.blobs().get(rest) if kind == "blob" else None

    def blobs(self, choices: Iterable[Choice] | None = None) -> dict[str, bytes]:
        """Every blob of these bundles, by digest; by default of every bundle that is ordered."""
        digests = self.payloads if choices is None else self._payloads(choices)
        cuts = (cut(self.payload(digest)) for digest in sorted(digests))
        return {digest: data for pieces in cuts for digest, data in pieces.blobs.items()}

    @property
    def payloads(self) -> set[str]:
        """Digests of the payloads of every bundle that is ordered."""
        orders = self.orders().values()
        return self._payloads(c for o in orders for c in (o.choice, o.base) if c is not None)

    def _payloads(self, choices: Iterable[Choice]) -> set[str]:
        found = (self.approval(choice.sha256, [choice.scope]) for choice in set(choices))
        return {payload.sha256 for f in found if f for payload in f[1].payloads}

    def payload(self, digest: str) -> bytes:
        """The bytes of a payload that was made by an approval.

        Raises:
            BundleError: it is not there any more.
        """
        return self._content(self.folder / "payload" / digest)

    def bundle(self, sha256: str) -> bytes:
        """The bytes of an approved bundle.

        Raises:
            BundleError: it is not there any more.
        """
        return self._content(self.folder / "bundles" / f"{sha256}.bundle")

    def _rotate_root(
        self,
        role: str,
        path: Path,
        keys: Path,
        passphrases: tuple[bytes | None, bytes | None],
        revoke: Sequence[str],
    ) -> None:
        """A new root, signed by enough of the old keys and of the new ones."""
        old = self._root_signers(keys, passphrases[0])
        signer, root = make_key(path, passphrases[1]), self.root.signed
        names = ["snapshot", "timestamp"] if role == ONLINE else [role]
        for name in names:
            gone = revoke or ([] if role == Root.type else list(root.roles[name].keyids))
            for keyid in gone:
                root.revoke_key(keyid, name)
            root.add_key(signer.public_key, name)
        if len(root.roles[Root.type].keyids) < ROOT_THRESHOLD + 1 and role == Root.type:
            raise ConfigError("the root needs three keys: add one before another is revoked")
        self._renew_root([*old, signer] if role == Root.type else old)
        if role == Targets.type:
            self._commit({Targets.type: [signer]})
        else:
            self._commit({})

    def _rotate_delegated(
        self, role: str, signer: CryptoSigner, keys: Path, passphrase: bytes | None
    ) -> None:
        delegated = (self._delegations().roles or {}).get(role)
        if delegated is None:
            raise ConfigError(f"there is no role {role}: {', '.join(self.key_ids())}")
        for keyid in list(delegated.keyids):
            self.roles[Targets.type].signed.revoke_key(keyid, role)
        self.roles[Targets.type].signed.add_key(signer.public_key, role)
        targets = read_keys(keys, Targets.type, passphrase)
        self._commit({Targets.type: targets, role: [signer]})

    def _add_group(self, group: str, signer: CryptoSigner) -> None:
        if (fault := name_fault("group", group)) or group == SCOPE_ALL:
            raise ConfigError(fault or f"a group cannot be called {SCOPE_ALL}")
        self._delegate(role_of(group), signer, [f"bundles/{group}/*"])

    @staticmethod
    def _content(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as exc:
            raise BundleError(f"{path}: {exc.strerror}: approve the bundle again") from exc


def role_of(scope: str) -> str:
    """The role that approves for a scope."""
    return Targets.type if scope == SCOPE_ALL else f"group-{scope}"
