"""What is told of updates: every state entered once, as a record, and the latest for the status."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.clock import Clock
from edge_agent.contract.messages import (
    Desired,
    ExperimentReport,
    Record,
    UpdateReport,
    UpdateState,
)
from edge_agent.update.experiment import Progress, Verdict
from edge_agent.update.pointer import Installed, Pointer, Refusal


class Reports:
    """Written by one thread; ``latest`` may be read from any.

    Args:
        send: gets the records; must not wait.
        clock: for their stamps.
    """

    def __init__(self, send: Callable[[Record], None], clock: Clock) -> None:
        self._send, self._clock = send, clock
        self._latest: dict[str, UpdateReport] = {}

    @property
    def latest(self) -> tuple[UpdateReport, ...]:
        """The latest report of each model."""
        return tuple(self._latest.values())

    def enter(
        self,
        model: str,
        bundle: Desired | Installed | Refusal | None,
        state: UpdateState,
        reason: str = "",
    ) -> None:
        """An update entered a state: keep it and send it.

        Args:
            model: name of the model.
            bundle: the one that is spoken of; None when even that is unknown.
            state: that was entered.
            reason: why, where that is not plain.
        """
        self._send(self._keep(model, bundle, state, reason))

    def compared(
        self, desired: Desired, incumbent: str, verdict: Verdict, progress: Progress
    ) -> None:
        """Send the figures of a comparison.

        Args:
            desired: the candidate.
            incumbent: version of the incumbent.
            verdict: on these figures.
            progress: the figures.
        """
        report = ExperimentReport(
            t=self._clock.wall(),
            synced=self._clock.synced(),
            model=desired.model,
            version=desired.version,
            sha256=desired.sha256,
            revision=desired.revision,
            incumbent=incumbent,
            outcome=verdict.outcome,
            reason=verdict.reason,
            seconds=progress.seconds,
            pipelines=progress.pipelines,
        )
        self._send(report)

    def note(self, desired: Desired, state: UpdateState, reason: str) -> None:
        """Say in the status alone what an update waits for; it is in the same state as before."""
        latest = self._latest.get(desired.model)
        if latest and (latest.sha256, latest.reason) != (desired.sha256, reason):
            self._keep(desired.model, desired, state, reason)

    def restore(self, pointer: Pointer) -> None:
        """After a start: the latest is what was decided last. It was sent at its time."""
        current = pointer.current
        if current and current.revision == pointer.revision:
            self._keep(pointer.model, current, "committed", "")
        elif pointer.refused:
            last = pointer.refused[-1]
            self._keep(pointer.model, last, "rolled_back" if last.trial else "refused", last.reason)

    def _keep(
        self,
        model: str,
        bundle: Desired | Installed | Refusal | None,
        state: UpdateState,
        reason: str,
    ) -> UpdateReport:
        report = UpdateReport(
            t=self._clock.wall(),
            synced=self._clock.synced(),
            model=model,
            version=bundle.version if bundle else "",
            sha256=bundle.sha256 if bundle else "",
            revision=bundle.revision if bundle else 0,
            state=state,
            reason=reason,
        )
        self._latest = {**self._latest, model: report}  # replaced, so that readers need no lock
        return report
