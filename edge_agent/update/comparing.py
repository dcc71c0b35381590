"""A candidate beside the incumbent in all pipelines of a model: run, judged, taken away again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_agent.contract.bundle import Bundle
from edge_agent.contract.errors import BundleError
from edge_agent.contract.experiment import Comparison, Experiment, Truth
from edge_agent.contract.release import Ring
from edge_agent.update.beside import Beside, Match, beside
from edge_agent.update.experiment import (
    Progress,
    Verdict,
    incomparable,
    judge,
    overlap_of,
    total,
)
from edge_agent.update.field_test import Target

_NS: Final = 1_000_000_000


class Comparing:
    """One comparison, from ``begin`` to ``close``. One thread; no call waits.

    Args:
        new: the candidate.
        old: the incumbent, which the pipelines run.
        targets: the pipelines.
        rule: of the experiment.
        salt: what splits the keys of this experiment on this device.
        progress: to go on from; with another incumbent it is begun anew.
        now_ns: monotonic time.

    Attributes:
        incumbent: version of the incumbent.
    """

    def __init__(
        self,
        new: Bundle,
        old: Bundle,
        targets: Sequence[Target],
        rule: Experiment,
        *,
        salt: str,
        progress: Progress | None,
        now_ns: int,
    ) -> None:
        self.incumbent = old.manifest.version
        ring = Ring(salt=salt, share_ppm=rule.share_ppm)
        self._match = Match(old=old, new=new, rule=rule, ring=ring)
        self._targets, self._began_ns = targets, now_ns
        goes_on = progress is not None and progress.incumbent == old.digest
        self._before = progress if progress and goes_on else Progress(incumbent=old.digest)
        self._sides: list[Beside] = []

    def begin(self) -> None:
        """Set the candidate beside the incumbent.

        Raises:
            BundleError, InferenceError: it cannot be compared here; nothing stays behind.
        """
        match = self._match
        if fault := incomparable(match.old.manifest, match.new.manifest, match.rule):
            raise BundleError(fault)
        for target in self._targets:
            side = beside(target, match, self._before.pipelines.get(target.name))
            self._sides.append(side)
            side.begin()

    def look(self, now_ns: int) -> Verdict:
        """Let the slots take turns, and judge what was counted so far.

        Raises:
            BundleError, InferenceError: a model cannot decide any more.
        """
        match, seconds = self._match, self._seconds(now_ns)
        for side in self._sides:
            side.turn(int(seconds // match.rule.slot_s))
        found = total(self.figures().values())
        return judge(match.rule, found, seconds=seconds, overlap=overlap_of(match.new.manifest))

    def learn(self, truth: Truth) -> None:
        """Take what a window really was."""
        for side in self._sides:
            if side.target.name == truth.pipeline:
                side.counting.learn(truth)

    def figures(self) -> dict[str, Comparison]:
        """What was counted so far, by pipeline."""
        return {side.target.name: side.counting.comparison() for side in self._sides}

    def progress(self, now_ns: int) -> Progress:
        """How far it has come."""
        return Progress(
            incumbent=self._match.old.digest,
            seconds=self._seconds(now_ns),
            pipelines=self.figures(),
        )

    def close(self) -> None:
        """Take the candidate away: the incumbent decides alone. May be called twice."""
        for side in self._sides:
            side.close()
        self._sides = []

    def _seconds(self, now_ns: int) -> float:
        return self._before.seconds + (now_ns - self._began_ns) / _NS
