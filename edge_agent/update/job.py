"""One update of one model on its way through the states, and what each state does.

``advance`` is called again and again; it never waits for the network, the child process or a
pipeline, and says which state comes next, or None to stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.config import UpdateConfig
from edge_agent.contract.bundle import Bundle
from edge_agent.contract.errors import BundleError, InferenceError, StorageError
from edge_agent.contract.experiment import Truth
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.messages import Desired, UpdateState
from edge_agent.contract.release import Payload, stable_fraction
from edge_agent.memory import free_bytes
from edge_agent.update.comparing import Comparing
from edge_agent.update.disk import storage
from edge_agent.update.experiment import Verdict, incomparable
from edge_agent.update.fetch import Fetch
from edge_agent.update.field_test import FieldTest, Target
from edge_agent.update.partial import Partial, announced_fault
from edge_agent.update.pointer import Installed, Journal
from edge_agent.update.probe import Probe
from edge_agent.update.reports import Reports
from edge_agent.update.store import Store

_NS: Final = 1_000_000_000
_UNPACKED: Final = "bundle"  # in the folder of a payload
_SAVE_S: Final = 60.0  # between two times that the figures of a comparison go to the disk
_TELL_S: Final = 3_600.0  # between two records of them


class Job:
    """Brings one desired bundle to the pipelines. One thread.

    Args:
        journal: where it is; its state was entered on disk already.
        device: id of this device.
        store: the bundles on disk.
        targets: the pipelines of the model.
        config: bounds.
        reports: told how a comparison goes.
        is_running: whether the bundle, on trial, is what the pipelines were started with.

    Attributes:
        journal: as last entered; set by the owner.
        fetch: while chunks are missing; the owner drops what it has asked for, then calls
            ``pause``.
        note: what it waits for; empty when it moves.
        retry_ns: monotonic time before which the disk is not tried again.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        device: str,
        store: Store,
        targets: Sequence[Target],
        config: UpdateConfig,
        reports: Reports,
        is_running: bool = False,
    ) -> None:
        self.journal = journal
        self.fetch: Fetch | None = None
        self.note = ""
        self.retry_ns = 0
        self._device, self._store, self._targets = device, store, targets
        self._config, self._reports, self._is_running = config, reports, is_running
        self._payload: Payload | None = None
        self._start_ns: int | None = None
        self._probe: Probe | None = None
        self._comparing: Comparing | None = None
        self._save_ns = self._tell_ns = 0
        self._field_test: FieldTest | None = None

    @property
    def desired(self) -> Desired:
        """The bundle."""
        return self.journal.desired

    @property
    def watches(self) -> bool:
        """Whether a child process or a pipeline is about to answer."""
        waits = self._field_test is not None and self._field_test.waits
        return waits or self.journal.state == "probing"

    def advance(self, now_ns: int) -> UpdateState | None:
        """Do what the state asks for.

        Raises:
            BundleError, InferenceError: the bundle must be refused or, on trial, taken back.
            StorageError: the disk refused; calling again later goes on.
        """
        match self.journal.state:
            case "offered":
                after = self._offered(now_ns)
            case "fetching":
                after = self._fetching()
            case "verified":
                after = self._verified()
            case "staged":
                after = self._staged()
            case "probing":
                after = self._probing()
            case "comparing":
                after = self._compare(now_ns)
            case "trial":
                after = self._trial(now_ns)
            case "committed" | "rolled_back" | "refused":
                after = None
        return after

    def pause(self) -> None:
        """Let file and child process go; ``advance`` picks up from what is on disk."""
        if self.fetch:
            self.fetch.partial.close()
            self.fetch = None
        if self._probe:
            self._probe.close()
            self._probe = None
        if self._comparing:
            self._comparing.close()
            self._comparing = None
        if self._field_test:
            self._field_test.close()

    def learn(self, truth: Truth) -> None:
        """Take what a window of a pipeline really was."""
        if self._comparing:
            self._comparing.learn(truth)

    def save(self, now_ns: int) -> None:
        """Put the figures of a comparison on the disk: the next start goes on from them.

        Raises:
            StorageError: the disk refused.
        """
        if self._comparing is None:
            return
        progress = self._comparing.progress(now_ns)
        journal = msgspec.structs.replace(self.journal, progress=progress, tries=0)
        self._store.record(self.desired.model, journal)
        self.journal = journal

    def go_back(self) -> None:
        """The trial has failed: the pipelines take the model before again."""
        field_test = self._field_test or self._make_trial(0)
        field_test.go_back()

    # --- what each state does --------------------------------------------------------------------

    def _offered(self, now_ns: int) -> UpdateState | None:
        """Is there anything to do, is what is announced sound, and is it our time?"""
        desired, pointer = self.desired, self._store.pointer(self.desired.model)
        if pointer.current and pointer.current.sha256 == desired.sha256:
            if self._store.has(desired.sha256):
                return "committed"
        elif pointer.has_failed(desired.sha256):
            raise BundleError("this bundle was taken back after a trial before: publish another")
        if fault := announced_fault(desired, self._config.bundle_bytes_max):
            raise BundleError(fault)
        if self._start_ns is None:
            share = stable_fraction(f"{desired.revision}/{self._device}")
            self._start_ns = now_ns + round(desired.start_within_s * share * _NS)
        left_s = (self._start_ns - now_ns) / _NS
        self.note = f"begins in {left_s:.0f} s" if left_s > 1 else ""
        return "fetching" if left_s <= 0 else None

    def _fetching(self) -> UpdateState | None:
        """Until every chunk is there; the owner asks the ways and hands answers to ``fetch``."""
        if self.fetch is None:
            if self._store.has(self.desired.sha256):
                return "verified"
            self.fetch = self._begin_fetch()
        partial, waiting_n = self.fetch.partial, self.fetch.waiting_n
        self.note = f"waiting for {waiting_n} of {partial.chunks} chunks" if waiting_n else ""
        if not partial.complete:
            self._require_progress(self.fetch)
            return None
        partial.close()
        return "verified"

    def _require_progress(self, fetch: Fetch) -> None:
        """Refuse a bundle whose chunks never come."""
        if fetch.silence_s > self._config.silence_s_max:
            raise BundleError(
                f"no chunk has come for {fetch.silence_s:.0f} s, {len(fetch.partial.missing)} are "
                "missing (update.silence_s_max): publish the bundle again"
            )

    def _begin_fetch(self) -> Fetch:
        self._payload = self._choose()
        folder = self._store.partial(self._payload.sha256)
        partial = Partial(folder, self._payload, disk=self._store.disk)
        return Fetch(
            partial, answer_s=self._config.answer_s, bytes_per_s=self._config.bytes_per_s_max
        )

    def _choose(self) -> Payload:
        """The smallest payload whose base is here and that has not failed."""
        usable = [
            payload
            for payload in self.desired.payloads
            if payload.sha256 not in self.journal.failed
            and (not payload.base or self._store.has(payload.base))
        ]
        if not usable:
            raise BundleError("no payload gives the announced bundle: publish it again")
        return min(usable, key=lambda payload: payload.bytes)

    def _verified(self) -> UpdateState:
        """Unpack, check the whole and put it into the store; is it for these pipelines?"""
        desired = self.desired
        if not self._store.has(desired.sha256):
            payload = self._payload or self._choose()
            fault = self._unpack(payload, self._store.partial(payload.sha256))
            if fault is not None:
                return self._without(payload, fault)
        manifest = self._store.read(desired.sha256).manifest
        if (manifest.name, manifest.version) != (desired.model, desired.version):
            raise BundleError(
                f"{desired.model} {desired.version} was announced, the bundle is "
                f"{manifest.name} {manifest.version}: publish it again"
            )
        for target in self._targets:
            if fault := target.misfit(manifest):
                raise BundleError(fault)
        self._require_comparable(manifest)
        return "staged"

    def _require_comparable(self, manifest: Manifest) -> None:
        """Refuse what is to be compared and cannot be; sooner than it would be found out."""
        rule = self.desired.experiment
        incumbent = self._incumbent() if rule else None
        if rule and incumbent and (fault := incomparable(incumbent.manifest, manifest, rule)):
            raise BundleError(fault)

    def _unpack(self, payload: Payload, folder: Path) -> str | None:
        """Put the bundle that a payload stands for into the store; or why it is not that one."""
        from edge_agent.encoding import unpack  # noqa: PLC0415 (zstd only where there is an update)

        source, target = folder / "data", folder / _UNPACKED
        base = self._store.path(payload.base) if payload.base else None
        if not source.exists():
            return "the payload is gone"
        try:
            with storage(source), self._store.disk.create(target) as file:
                at = 0
                for piece in unpack(payload.encoding, source, base=base, size=self.desired.bytes):
                    file.write(at, piece)
                    at += len(piece)
        except BundleError as exc:
            return str(exc)
        with storage(target), target.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.desired.sha256:
            return "the payload does not give the announced digest"
        self._store.adopt(self.desired.sha256, target)
        return None

    def _without(self, payload: Payload, fault: str) -> UpdateState:
        """Go on without a payload that failed: the whole is there for when a delta does."""
        failed = (*self.journal.failed, payload.sha256)
        self.journal = msgspec.structs.replace(self.journal, failed=failed)
        self._payload = None
        self._store.forget_partial(payload.sha256)
        if len(failed) >= len(self.desired.payloads):
            raise BundleError(f"{fault}: publish the bundle again")
        return "fetching"

    def _staged(self) -> UpdateState:
        self._probe = self._start_probe()
        return "probing"

    def _probing(self) -> UpdateState | None:
        """Until the child has an answer; is it good, and is there memory for the model?"""
        self._probe = self._probe or self._start_probe()
        if (result := self._probe.poll()) is None:
            return None
        if not result.ok:
            raise BundleError(result.reason)
        limit_us = self._config.latency_us_max
        if limit_us is not None and result.p50_us > limit_us:
            raise BundleError(
                f"an inference takes {result.p50_us:.0f} µs here, update.latency_us_max allows "
                f"{limit_us:g}"
            )
        incumbent = self._incumbent()
        compares = self.desired.experiment is not None and incumbent is not None
        given_back = _forecast(incumbent.manifest) if incumbent and not compares else 0
        self._require_memory(result.rss_bytes, given_back)
        return "comparing" if compares else "trial"

    def _require_memory(self, model_bytes: int, given_back: int) -> None:
        """Refuse a model that does not fit beside the one before it, or in its place."""
        free = free_bytes()
        needed = model_bytes * len(self._targets) + self._config.reserve_bytes
        if free is not None and needed > free + given_back * len(self._targets):
            raise BundleError(
                f"it needs {needed / 2**20:.0f} MiB with update.reserve_bytes, "
                f"{free / 2**20:.0f} are free"
            )

    def _compare(self, now_ns: int) -> UpdateState | None:
        """Run it beside the incumbent until there is a verdict."""
        comparing = self._comparing or self._begin_comparing(now_ns)
        if comparing is None:
            return "trial"
        verdict = comparing.look(now_ns)
        over = verdict.outcome != "look"
        if over or now_ns >= self._tell_ns:
            self._tell_ns = now_ns + round(_TELL_S * _NS)
            progress = comparing.progress(now_ns)
            self._reports.compared(self.desired, comparing.incumbent, verdict, progress)
            self.journal = msgspec.structs.replace(self.journal, progress=progress)
        if not over:
            self._save_at_times(now_ns, verdict)
            return None
        comparing.close()
        self._comparing = None
        if verdict.outcome == "drop":
            raise BundleError(verdict.reason)
        return "trial"

    def _save_at_times(self, now_ns: int, verdict: Verdict) -> None:
        """Rarely, as a disk wears out; the status is published when the note changes."""
        if now_ns < self._save_ns:
            return
        self._save_ns = now_ns + round(_SAVE_S * _NS)
        self.note = verdict.reason
        with suppress(StorageError):  # they stay in memory, and a minute later it may work
            self.save(now_ns)

    def _begin_comparing(self, now_ns: int) -> Comparing | None:
        """Set it beside what is current; None when that has been lost since."""
        desired, incumbent = self.desired, self._incumbent()
        rule = desired.experiment
        if incumbent is None or rule is None:
            return None
        self._comparing = Comparing(
            self._store.read(desired.sha256),
            incumbent,
            self._targets,
            rule,
            salt=f"{desired.revision}/{self._device}",
            progress=self.journal.progress,
            now_ns=now_ns,
        )
        self._save_ns = now_ns + round(_SAVE_S * _NS)
        self._comparing.begin()
        self.note = f"beside {self._comparing.incumbent}"
        return self._comparing

    def _incumbent(self) -> Bundle | None:
        """What is current; None for nothing."""
        current = self._store.pointer(self.desired.model).current
        return self._store.read(current.sha256) if current else None

    def _trial(self, now_ns: int) -> UpdateState | None:
        """Run it in the pipelines, and watch."""
        if self._field_test is None:
            self._field_test = self._make_trial(now_ns)
            if self._is_running:
                self._field_test.compare()
            else:
                self._is_running = True
                self._field_test.begin()
        self.note = self._field_test.note(now_ns)
        if fault := self._field_test.fault():
            raise InferenceError(fault)
        if not self._field_test.is_over(now_ns):
            return None
        self._field_test.close()
        return "committed"

    def _make_trial(self, now_ns: int) -> FieldTest:
        new = self._store.read(self.desired.sha256)
        return FieldTest(new, self._incumbent(), self._targets, self._config, now_ns)

    def _start_probe(self) -> Probe:
        return Probe(
            self._store.path(self.desired.sha256),
            seconds=self._config.probe_s,
            bytes_max=self._config.probe_bytes_max,
        )


def installed(desired: Desired) -> Installed:
    """A desired bundle as the store knows it."""
    return Installed(sha256=desired.sha256, version=desired.version, revision=desired.revision)


def _forecast(manifest: Manifest) -> int:
    return manifest.chosen.figures.rss_bytes
