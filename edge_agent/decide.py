"""How the answers of a model become a stable state, and when that state fires. Pure.

**Classification.** The state is a label, or ``""`` before the first. A window votes for its label
when its score is at least ``threshold``; to leave a state for another, at least ``threshold +
hysteresis``. Other windows have no vote. The state changes when ``debounce`` windows in a row vote
for the same other label; a window without a vote, or with a vote for the state, starts the count
anew. The first state counts as a change.

**Anomaly and regression.** The states are the two labels (normal first), or ``inactive`` and
``active``; the first of each is the initial one, which fires nothing. The second is entered when
``score > threshold``, and left when ``score <= threshold - hysteresis``, in ``debounce`` windows
in a row. With ``direction: below`` (regression only) it is entered when ``score < threshold`` and
left when ``score >= threshold + hysteresis``. The label of an anomaly model has no part in it.

**Firing.** A window fires when it changed the state, the new state is in ``fire_on`` (or that is
empty), and the last firing is at least ``cooldown_s`` ago. A change during the cooldown does not
fire later.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import msgspec

from edge_agent.config import DecideConfig
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import DecideSpec, Manifest, Task

INACTIVE: Final = "inactive"
ACTIVE: Final = "active"
_NS_PER_S: Final = 1_000_000_000


class Decider:
    """The state of one pipeline. Used by one thread.

    Args:
        task: of the model.
        labels: of the model; none for regression.
        spec: resolved, see :func:`resolve`.

    Attributes:
        state: the stable state.
    """

    def __init__(self, task: Task, labels: Sequence[str], spec: DecideSpec) -> None:
        self._states = states(task, labels)
        self._classes = task == "classification"
        self._spec = spec
        # Below is above with both signs turned: one rule serves both directions.
        self._sign = -1.0 if task == "regression" and spec.direction == "below" else 1.0
        self._threshold = self._sign * spec.threshold
        self._cooldown_ns = round(spec.cooldown_s * _NS_PER_S)
        self._candidate = ""
        self._votes = 0
        self._fired_ns: int | None = None
        self.state = "" if self._classes else self._states[0]

    def step(self, label_index: int, score: float, now_ns: int) -> tuple[str, bool]:
        """Take the answer to one window.

        Args:
            label_index: of the label; not looked at for anomaly and regression.
            score: finite.
            now_ns: monotonic time.

        Returns:
            The state after this window, and whether it fired.
        """
        vote = self._class_vote(label_index, score) if self._classes else self._border_vote(score)
        if vote == self.state:
            self._votes = 0
            return vote, False
        self._votes = self._votes + 1 if vote == self._candidate and self._votes else 1
        self._candidate = vote
        if self._votes < self._spec.debounce:
            return self.state, False
        self._votes = 0
        self.state = vote
        return vote, self._fires(now_ns)

    def adopt(self, other: Decider) -> None:
        """Go on from another model's decider: its state, if it exists here, and its cooldown."""
        if other.state in self._states:
            self.state = other.state
        self._fired_ns = other._fired_ns

    def _class_vote(self, label_index: int, score: float) -> str:
        """The label that a window votes for; the present state when it has no vote."""
        label, spec = self._states[label_index], self._spec
        needed = spec.threshold
        if self.state and label != self.state:
            needed += spec.hysteresis
        return label if score >= needed else self.state

    def _border_vote(self, score: float) -> str:
        """The state that a score asks for; between the two borders the present one."""
        score *= self._sign
        if score > self._threshold:
            return self._states[1]
        if score <= self._threshold - self._spec.hysteresis:
            return self._states[0]
        return self.state

    def _fires(self, now_ns: int) -> bool:
        """Whether a change of state at this moment fires; if so the cooldown starts."""
        if self._spec.fire_on and self.state not in self._spec.fire_on:
            return False
        if self._fired_ns is not None and now_ns - self._fired_ns < self._cooldown_ns:
            return False
        self._fired_ns = now_ns
        return True


def states(task: Task, labels: Sequence[str]) -> tuple[str, ...]:
    """The states that a model of this task can be in; for anomaly and regression normal first."""
    return (INACTIVE, ACTIVE) if task == "regression" else tuple(labels)


def resolve(spec: DecideSpec, override: DecideConfig) -> DecideSpec:
    """The bundle's defaults with what the pipeline's configuration says instead."""
    said = {
        name: value for name, value in msgspec.structs.asdict(override).items() if value is not None
    }
    return msgspec.structs.replace(spec, **said)


def require_states(spec: DecideSpec, manifest: Manifest) -> None:
    """Check that every state in ``fire_on`` exists.

    Args:
        spec: resolved.
        manifest: of the model that is to decide.

    Raises:
        ConfigError: one does not.
    """
    known = states(manifest.task, manifest.labels)
    for state in spec.fire_on:
        if state not in known:
            near = get_close_matches(state, known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"decide.fire_on names {state!r}, but the states of {manifest.name} "
                f"{manifest.version} are {', '.join(known)}{hint}"
            )
