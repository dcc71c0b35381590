"""How a candidate runs beside the incumbent in one pipeline: as a shadow, in slots, for sensors."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

import msgspec

from edge_agent.arms import Arms
from edge_agent.contract.bundle import Bundle
from edge_agent.contract.errors import BundleError, InferenceError
from edge_agent.contract.experiment import WHOLE_PPM, Comparison, Experiment, Truth
from edge_agent.contract.release import Ring
from edge_agent.infer import Model
from edge_agent.shadow import PLACES, Shadow
from edge_agent.update.field_test import Target

log = logging.getLogger(__name__)


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """Who is compared with whom, and how.

    Attributes:
        old: the incumbent.
        new: the candidate.
        rule: of the experiment.
        ring: of the slots or sensors, those that are the candidate's.
    """

    old: Bundle
    new: Bundle
    rule: Experiment
    ring: Ring

    def arms(self, so_far: Comparison | None) -> Arms:
        """What counts the decisions of an A/B test."""
        return Arms(
            self.old.manifest.version,
            self.new.manifest.version,
            tolerance=self.tolerance,
            answers_n=self.rule.answers_n,
            so_far=so_far,
        )

    @property
    def tolerance(self) -> float:
        """Of a regression's values, absolute."""
        return self.rule.tolerance_ppm / WHOLE_PPM


class Counting(Protocol):
    """What counts beside a pipeline."""

    def comparison(self) -> Comparison:
        """The figures so far."""
        ...

    def learn(self, truth: Truth) -> None:
        """Take what a window really was."""
        ...


class Beside(Protocol):
    """A candidate in one pipeline, from ``begin`` to ``close``. One thread; no call waits."""

    @property
    def target(self) -> Target:
        """The pipeline."""
        ...

    @property
    def counting(self) -> Counting:
        """What is counted of it."""
        ...

    def begin(self) -> None:
        """Set the candidate beside the incumbent.

        Raises:
            BundleError, InferenceError: it cannot run here.
        """
        ...

    def turn(self, slot: int) -> None:
        """It is the time slot of this number.

        Raises:
            BundleError, InferenceError: a model cannot decide any more.
        """
        ...

    def close(self) -> None:
        """Take the candidate away: the incumbent decides alone. May be called twice."""
        ...


class AsShadow:
    """It answers the incumbent's windows and does not act; see :class:`Beside`."""

    def __init__(self, target: Target, match: Match, so_far: Comparison | None) -> None:
        self.target = target
        self.counting = self._shadow = Shadow(
            Model.load(match.new),
            tolerance=match.tolerance,
            places=max(PLACES, target.batch_n),
            so_far=so_far,
            answers_n=match.rule.answers_n,
        )
        self._runs = False

    def begin(self) -> None:
        """Let it answer from now on."""
        self._shadow.start()
        self._runs = True
        self.target.accompany(self._shadow)

    def turn(self, slot: int) -> None:
        """It has no slots."""

    def close(self) -> None:
        """Let it answer no more."""
        if self._runs:
            self._runs = False
            self.target.accompany(None)
            self._shadow.stop()


class InSlots:
    """It decides in the incumbent's place in some slots of time; see :class:`Beside`.

    The two are handed to the pipeline in turn, as new models are: between two readings.
    """

    def __init__(self, target: Target, match: Match, so_far: Comparison | None) -> None:
        self.target = target
        self.counting = self._arms = match.arms(so_far)
        self._match = match
        self._models: dict[bool, Model] = {True: Model.load(match.new)}  # by whether it is B
        self._is_b = False
        self._taken: threading.Event | None = None

    def begin(self) -> None:
        """Count from now on; :meth:`turn` says who decides."""
        self.target.accompany(self._arms)

    def turn(self, slot: int) -> None:
        """Hand the other model over where the slot is the other's."""
        if self._taken is not None and not self._taken.is_set():
            return  # a pipeline that does not answer: later
        if (is_b := self._match.ring.holds(str(slot))) != self._is_b:
            self._hand_over(is_b=is_b)

    def close(self) -> None:
        """Let the incumbent decide alone, and count no more."""
        self.target.accompany(None)
        if not self._is_b:
            return
        try:
            self._hand_over(is_b=False)
        except (BundleError, InferenceError) as exc:
            # A candidate must not decide on: without the incumbent nobody does, and it is said.
            log.error("the model before cannot be loaded: %s", exc)  # noqa: TRY400 - it says all
            self.target.withdraw()

    def _hand_over(self, *, is_b: bool) -> None:
        """What a pipeline was started with is its own, so the incumbent is loaded at first need."""
        if is_b not in self._models:
            self._models[is_b] = Model.load(self._match.old)
        self._taken = self.target.swap(self._models[is_b])
        self._is_b = is_b


class ForSensors:
    """It decides in the incumbent's place for some sensors of a pipeline; see :class:`Beside`."""

    def __init__(self, target: Target, match: Match, so_far: Comparison | None) -> None:
        self.target = target
        self.counting = self._arms = match.arms(so_far)
        self._match = match
        self._runs = False

    def begin(self) -> None:
        """Share the sensors and count."""
        self.target.share(Model.load(self._match.new), self._match.ring.holds)
        self._runs = True
        self.target.accompany(self._arms)

    def turn(self, slot: int) -> None:
        """It has no slots."""

    def close(self) -> None:
        """Give all sensors back, and count no more."""
        if self._runs:
            self._runs = False
            self.target.accompany(None)
            self.target.share(None, self._match.ring.holds)


def beside(target: Target, match: Match, so_far: Comparison | None) -> Beside:
    """The way that the rule asks for.

    Raises:
        InferenceError: the candidate cannot be loaded.
    """
    if match.rule.kind == "shadow":
        return AsShadow(target, match, so_far)
    kind = ForSensors if match.rule.split == "sensor" else InSlots
    return kind(target, match, so_far)
