"""A new model in the pipelines on trial: handing it over, watching it, taking it back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from edge_agent.config import UpdateConfig
from edge_agent.contract.bundle import Bundle
from edge_agent.contract.errors import BundleError, InferenceError
from edge_agent.contract.manifest import Manifest
from edge_agent.health import Health
from edge_agent.infer import Model
from edge_agent.memory import free_bytes
from edge_agent.shadow import PLACES, Companion, Shadow
from edge_agent.update.trial import illness, is_over

_NS: Final = 1_000_000_000
_SWAP_S: Final = 30.0  # a pipeline takes a model within about a second


class Target(Protocol):
    """Where a model goes: a pipeline."""

    @property
    def name(self) -> str:
        """Of the pipeline."""
        ...

    @property
    def batch_n(self) -> int:
        """How many windows may be decided together."""
        ...

    def misfit(self, manifest: Manifest) -> str | None:
        """Why a bundle cannot run here; None when it can."""
        ...

    def swap(self, model: Model) -> threading.Event:
        """Take a model over; the event is set when it decides from then on.

        Raises:
            BundleError, InferenceError: it cannot run here after all.
        """
        ...

    def exchange(self, load: Callable[[], Model], back: Callable[[], Model]) -> threading.Event:
        """The same, letting the old model go before ``load`` gives the new one."""
        ...

    def withdraw(self) -> threading.Event:
        """Decide no more until there is another model."""
        ...

    def accompany(self, companion: Companion | None) -> None:
        """Show every decided window to a companion; None for no more."""
        ...

    def share(self, model: Model | None, holds: Callable[[str], bool]) -> None:
        """Let a second model decide for the sensors that it holds; None for no other.

        Raises:
            BundleError: there is one sensor only.
        """
        ...

    def health(self) -> Health:
        """How the model that it runs has done since it was taken over."""
        ...


class FieldTest:
    """One trial. One thread; no call waits.

    Args:
        new: the bundle on trial.
        old: the one before; None when there was none.
        targets: the pipelines.
        config: bounds.
        now_ns: monotonic time.
    """

    def __init__(
        self,
        new: Bundle,
        old: Bundle | None,
        targets: Sequence[Target],
        config: UpdateConfig,
        now_ns: int,
    ) -> None:
        self._new, self._old, self._targets = new, old, targets
        self._config, self._handed_ns = config, now_ns
        self._began_ns: int | None = None  # when every pipeline had taken it
        self._taken: list[threading.Event] = []
        self._shadows: list[Shadow] = []

    def begin(self) -> None:
        """Hand the new model to the pipelines, beside the old one if both fit into memory.

        Raises:
            BundleError, InferenceError: it cannot run here.
        """
        self._taken = self._hand_over(self._new, self._old)
        self.compare()

    def compare(self) -> None:
        """Run the model before beside the new one, when that is asked for and possible.

        Raises:
            InferenceError: it cannot be loaded.
        """
        if self._config.trial.disagreement_max is None or self._old is None:
            return
        before, after = self._old.manifest, self._new.manifest
        if (before.window, before.task) != (after.window, after.task) or before.states:
            return
        for target in self._targets:
            shadow = Shadow(Model.load(self._old), places=max(PLACES, target.batch_n))
            shadow.start()
            target.accompany(shadow)
            self._shadows.append(shadow)

    @property
    def waits(self) -> bool:
        """Whether a pipeline has not taken the new model yet."""
        return not all(event.is_set() for event in self._taken)

    def fault(self) -> str | None:
        """Why the new model must go back; None while it may stay."""
        faults = (illness(target.health(), self._config.trial) for target in self._targets)
        return next(filter(None, faults), None)

    def is_over(self, now_ns: int) -> bool:
        """Whether it was watched for long enough by every pipeline."""
        if self.waits:
            return False
        if self._began_ns is None:
            self._began_ns = now_ns
        lasted_s = (now_ns - self._began_ns) / _NS
        return all(is_over(t.health(), self._config.trial, lasted_s) for t in self._targets)

    def note(self, now_ns: int) -> str:
        """What it waits for."""
        late_n = sum(not event.is_set() for event in self._taken)
        if late_n:
            late = now_ns - self._handed_ns > _SWAP_S * _NS
            return f"{late_n} of {len(self._taken)} pipelines have not taken it" if late else ""
        trial = self._config.trial
        if now_ns - self._handed_ns < trial.seconds * _NS:
            return ""
        seen = min(target.health().windows for target in self._targets)
        return (
            f"on trial: {seen} of {trial.windows_min} windows" if seen < trial.windows_min else ""
        )

    def go_back(self) -> None:
        """Hand the model before to the pipelines again, or none where there is none.

        Raises:
            BundleError, InferenceError: it cannot run any more; the pipelines wait for another.
        """
        self.close()
        try:
            if self._old is not None:
                self._hand_over(self._old, self._new)
                return
        except (BundleError, InferenceError):
            self._withdraw()
            raise
        self._withdraw()

    def _withdraw(self) -> None:
        for target in self._targets:
            target.withdraw()

    def close(self) -> None:
        """Compare no more. May be called twice."""
        for target in self._targets:
            target.accompany(None)
        for shadow in self._shadows:
            shadow.stop()
        self._shadows = []

    def _hand_over(self, bundle: Bundle, before: Bundle | None) -> list[threading.Event]:
        needed = bundle.manifest.chosen.figures.rss_bytes * len(self._targets)
        free = free_bytes()
        if before is None or free is None or needed + self._config.reserve_bytes <= free:
            models = [Model.load(bundle) for _ in self._targets]
            pairs = zip(self._targets, models, strict=True)
            return [target.swap(model) for target, model in pairs]
        return [
            target.exchange(lambda: Model.load(bundle), lambda: Model.load(before))
            for target in self._targets
        ]
