"""An A/B test: two models that decide in turn, each with its own figures.

Which of them decides is not chosen here; a decision says it by the version of its model.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from edge_agent.arrays import F32
from edge_agent.contract.experiment import Arm, Comparison, Truth, copied
from edge_agent.contract.messages import Decision
from edge_agent.metrics import Histogram
from edge_agent.recent import Answers, Given, Recent
from edge_agent.shadow import describe

_PAIRS_N: Final = 1_000  # labelled answers of one arm that wait for one of the other


class Arms:
    """Counts what two models decide; a :class:`~edge_agent.shadow.Companion`.

    Args:
        a: version of the incumbent.
        b: version of the candidate, another one.
        tolerance: of a regression's value, absolute.
        answers_n: answers that are kept for labels that come later.
        so_far: figures to go on from.
    """

    def __init__(
        self,
        a: str,
        b: str,
        *,
        tolerance: float,
        answers_n: int,
        so_far: Comparison | None = None,
    ) -> None:
        self._b, self._tolerance = b, tolerance
        self._count = copied(so_far) if so_far else Comparison()
        self._count.a.version, self._count.b.version = a, b
        self._latency = (Histogram(), Histogram())
        self._recent = Recent(answers_n)
        self._unpaired: tuple[deque[bool], deque[bool]] = (
            deque(maxlen=_PAIRS_N),
            deque(maxlen=_PAIRS_N),
        )

    # --- the pipeline's thread ---

    def saw(self, decision: Decision, window: F32, took_ns: int) -> None:  # noqa: ARG002 (not kept)
        """Count a decision for the arm that made it."""
        is_b, arm = self._arm(decision.model)
        arm.windows += 1
        arm.fired += decision.fired
        arm.score_sum += decision.score
        self._latency[is_b].record(took_ns)
        given = Given(decision.label, decision.score)
        answers = Answers(decision.t, *((None, given) if is_b else (given, None)))
        self._recent.keep(decision.sensor, decision.reading, answers)

    def missed(self, version: str) -> None:
        """Count a window without an answer."""
        self._arm(version)[1].errors += 1

    # --- any thread ---

    def comparison(self) -> Comparison:
        """The figures so far; latencies are those since the start of the agent."""
        found = copied(self._count)
        for arm, histogram in zip((found.a, found.b), self._latency, strict=True):
            describe(arm, histogram)
        return found

    def learn(self, truth: Truth) -> None:
        """Take what a window really was; every answer of one arm is paired with one of the other.

        One thread. Pairs in the order of arrival, as in Wald's test of two processes.
        """
        answers = self._recent.take(truth)
        if answers is None:
            self._count.unmatched += 1
            return
        is_b = answers.b is not None
        given = answers.b if is_b else answers.a
        right = given is not None and given.is_right(truth, self._tolerance)
        arm = self._count.b if is_b else self._count.a
        arm.labelled += 1
        arm.correct += right
        mine, other = self._unpaired[is_b], self._unpaired[not is_b]
        if not other:
            mine.append(right)
            return
        a, b = (other.popleft(), right) if is_b else (right, other.popleft())
        self._count.won += b > a
        self._count.lost += a > b

    def _arm(self, version: str) -> tuple[bool, Arm]:
        is_b = version == self._b
        return is_b, self._count.b if is_b else self._count.a
