"""One update of one model on its way through the states, and what each state does.

``advance`` is called again and again; it never waits for the network, the child process or a
pipeline, and says which state comes next, or None to stay.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Final, Protocol

from edge_agent.config import UpdateConfig
from edge_agent.contract.errors import BundleError
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.messages import Desired, UpdateState
from edge_agent.infer import Model
from edge_agent.update.disk import storage
from edge_agent.update.fetch import Fetch
from edge_agent.update.partial import Partial, announced_fault
from edge_agent.update.pointer import Installed
from edge_agent.update.probe import Probe
from edge_agent.update.store import Store

_NS: Final = 1_000_000_000
_SWAP_S: Final = 30.0  # a pipeline takes a model within about a second


class Target(Protocol):
    """Where a model goes: a pipeline."""

    def misfit(self, manifest: Manifest) -> str | None:
        """Why a bundle cannot run here; None when it can."""
        ...

    def swap(self, model: Model) -> threading.Event:
        """Take a model over; the event is set when it decides from then on.

        Raises:
            BundleError, InferenceError: it cannot run here after all.
        """
        ...


class Job:
    """Brings one desired bundle from the broker into the pipelines. One thread.

    Attributes:
        state: as last entered; set by the owner.
        fetch: from the first chunk on; the owner ends its subscriptions, then calls ``pause``.
        note: what it waits for; empty when it moves.
        retry_ns: monotonic time before which the disk is not tried again.
    """

    def __init__(
        self, desired: Desired, store: Store, targets: Sequence[Target], config: UpdateConfig
    ) -> None:
        self.desired = desired
        self.state: UpdateState = "offered"
        self.fetch: Fetch | None = None
        self.note = ""
        self.retry_ns = 0
        self._store, self._targets, self._config = store, targets, config
        self._probe: Probe | None = None
        self._models: list[Model] = []
        self._taken: list[threading.Event] = []
        self._swapped_ns = 0

    def advance(self, now_ns: int) -> UpdateState | None:
        """Do what the state asks for.

        Raises:
            BundleError, InferenceError: the bundle must be refused.
            StorageError: the disk refused; calling again later goes on.
        """
        match self.state:
            case "offered":
                return self._offered()
            case "fetching":
                return self._fetching()
            case "verified":
                return self._verified()
            case "probing":
                return self._probing()
            case "staged":
                return self._staged(now_ns)
            case "committed" | "refused":
                return None

    def pause(self) -> None:
        """Let file and child process go; ``advance`` picks up from what is on disk."""
        if self.fetch:
            self.fetch.partial.close()
            self.fetch = None
        if self._probe:
            self._probe.close()
            self._probe = None

    def _offered(self) -> UpdateState:
        """Is there anything to do, and is what is announced sound?"""
        desired = self.desired
        current = self._store.pointer(desired.model).current
        if current and current.sha256 == desired.sha256 and self._store.has(desired.sha256):
            self._commit()
            return "committed"
        if fault := announced_fault(desired, self._config.bundle_bytes_max):
            raise BundleError(fault)
        return "fetching"

    def _fetching(self) -> UpdateState | None:
        """Until every chunk is there; the owner asks the broker and hands answers to ``fetch``."""
        sha256 = self.desired.sha256
        if self.fetch is None:
            if self._store.has(sha256):
                return self._check()
            partial = Partial(self._store.partial(sha256), self.desired)
            self.fetch = Fetch(partial, answer_s=self._config.answer_s)
        partial, waiting_n = self.fetch.partial, self.fetch.waiting_n
        self.note = f"waiting for {waiting_n} of {partial.chunks} chunks" if waiting_n else ""
        if not partial.complete:
            return None
        with storage(partial.file), partial.file.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise BundleError("the chunks do not add up to the announced digest: publish it again")
        partial.close()
        self._store.adopt(sha256, partial.file)
        return self._check()

    def _check(self) -> UpdateState:
        """Is it a bundle, for this agent, this model and these pipelines?"""
        desired, manifest = self.desired, self._store.read(self.desired.sha256).manifest
        if (manifest.name, manifest.version) != (desired.model, desired.version):
            raise BundleError(
                f"{desired.model} {desired.version} was announced, the bundle is "
                f"{manifest.name} {manifest.version}: publish it again"
            )
        for target in self._targets:
            if fault := target.misfit(manifest):
                raise BundleError(fault)
        return "verified"

    def _verified(self) -> UpdateState:
        self._probe = self._start_probe()
        return "probing"

    def _probing(self) -> UpdateState | None:
        """Until the child has an answer; then load the model here, once for each pipeline."""
        self._probe = self._probe or self._start_probe()
        if (result := self._probe.poll()) is None:
            return None
        if not result.ok:
            raise BundleError(result.reason)
        bundle = self._store.read(self.desired.sha256)
        self._models = [Model.load(bundle) for _ in self._targets]
        return "staged"

    def _staged(self, now_ns: int) -> UpdateState | None:
        """The pointer first, so that a restart from here on starts with the new model."""
        if self._models:
            self._commit()
            models, self._models = self._models, []
            pairs = zip(self._targets, models, strict=True)
            self._taken = [target.swap(model) for target, model in pairs]
            self._swapped_ns = now_ns
        late_n = sum(not event.is_set() for event in self._taken)
        if not late_n:
            return "committed"
        if now_ns - self._swapped_ns > _SWAP_S * _NS:
            self.note = f"{late_n} of {len(self._taken)} pipelines have not taken it yet"
        return None

    def _commit(self) -> None:
        desired = self.desired
        self._store.commit(
            desired.model,
            Installed(sha256=desired.sha256, version=desired.version, revision=desired.revision),
        )

    def _start_probe(self) -> Probe:
        return Probe(
            self._store.path(self.desired.sha256),
            seconds=self._config.probe_s,
            bytes_max=self._config.probe_bytes_max,
        )
