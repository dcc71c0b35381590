"""What is done at a start with what the end before has left on the disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from edge_agent.config import TrialConfig
from edge_agent.contract.errors import BundleError, InferenceError
from edge_agent.contract.messages import Desired, UpdateState
from edge_agent.infer import Model
from edge_agent.update.field_test import Target
from edge_agent.update.pointer import Installed, Journal, Refusal
from edge_agent.update.reports import Reports
from edge_agent.update.states import TRIES
from edge_agent.update.store import Store

log = logging.getLogger(__name__)


class Recovery:
    """Used by one thread, before the updater runs.

    Args:
        store: the bundles on disk.
        reports: told of what was found and done.
        targets: the pipelines of each model.
        trial: bounds of a trial.
    """

    def __init__(
        self,
        store: Store,
        reports: Reports,
        targets: Mapping[str, Sequence[Target]],
        trial: TrialConfig,
    ) -> None:
        self._store, self._reports = store, reports
        self._targets, self._trial = targets, trial

    def open(self, model: str, *, resume: bool) -> Journal | None:
        """Say what was decided last, and which update goes on; None for none.

        Args:
            model: whose.
            resume: whether updates are made at all.

        Raises:
            StorageError: the pointer cannot be read or written.
        """
        pointer = self._store.pointer(model)
        self._reports.restore(pointer)
        if fault := self._store.repaired.get(model):
            self._reports.enter(model, pointer.current, "refused", fault)
        if pointer.update is None or not resume:
            return None
        return self._resumed(model, pointer.update)

    def load(self, model: str) -> Model | None:
        """The model that is current.

        A bundle that is damaged or does not load gives way to the previous one, for good and
        reported. One that does not fit a pipeline stays, since it is the configuration that has
        changed: there is no model then.

        Raises:
            StorageError: the disk refused.
        """
        while (current := self._store.pointer(model).current) is not None:
            try:
                bundle = self._store.read(current.sha256)
                faults = (target.misfit(bundle.manifest) for target in self._targets[model])
                if fault := next(filter(None, faults), None):
                    log.error("%s %s cannot be used: %s", model, current.version, fault)
                    self._reports.enter(model, current, "refused", fault)
                    return None
                return Model.load(bundle)
            except (BundleError, InferenceError) as exc:
                self._fall_back(model, current, str(exc))
        return None

    def _resumed(self, model: str, journal: Journal) -> Journal | None:
        """Go on with an update that an end of the agent has interrupted, or give it up."""
        state, tries = journal.state, journal.tries + 1
        limit = TRIES.get(state, self._trial.starts_max)
        if tries <= limit:
            journal = msgspec.structs.replace(journal, tries=tries)
            self._store.record(model, journal)
            self._reports.enter(model, journal.desired, state)
            return journal
        reason = f"the agent ended {limit} times in the state {state}"
        refusal = refusal_of(journal.desired, reason)
        self._store.refuse(model, msgspec.structs.replace(refusal, trial=state == "trial"))
        outcome: UpdateState = "rolled_back" if state == "trial" else "refused"
        log.error("%s %s is given up: %s", model, journal.desired.version, reason)
        self._reports.enter(model, journal.desired, outcome, reason)
        return None

    def _fall_back(self, model: str, current: Installed, fault: str) -> None:
        """What is whole and yet cannot be used is refused; what is damaged may come again."""
        refusal = refusal_of(current, fault) if self._store.has(current.sha256) else None
        self._store.fall_back(model, refusal)
        pointer = self._store.pointer(model)
        before = pointer.current.version if pointer.current else None
        outcome = f"back to {before}" if before else "there is no model before it"
        log.error("%s %s cannot be used: %s; %s", model, current.version, fault, outcome)
        self._reports.enter(model, current, "refused", f"{fault}; {outcome}")


def refusal_of(bundle: Desired | Installed, reason: str) -> Refusal:
    """The refusal of a bundle."""
    return Refusal(
        sha256=bundle.sha256, version=bundle.version, revision=bundle.revision, reason=reason
    )
