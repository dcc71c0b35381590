"""A candidate beside the model that decides: the rule of their comparison, and its figures.

The rule is part of a signed order, so all its numbers are integers: shares in millionths (ppm).
The figures are what a device counts; they travel in statuses and records, and lie in its pointer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

WHOLE_PPM: Final = 1_000_000
ANSWERS_N_MAX: Final = 100_000


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a candidate is compared with the incumbent before it may go on trial.

    An unknown field is refused here: a rule of which a part is ignored is another rule.

    The sequential test has an error of each kind; see :mod:`edge_agent.update.experiment`. Nothing
    but too many errors is judged before ``windows_min``.

    Attributes:
        kind: ``shadow`` answers the incumbent's windows and does not act; ``ab`` decides in the
            incumbent's place for a share of the time slots or of the sensors.
        judge: what is tested: ``agreement`` of the two on the same windows (``shadow`` only), or
            ``accuracy``, where labels arrive.
        windows_min: windows before a verdict; of each of the two for ``ab``.
        windows_max: windows after which there is no more looking.
        longest_s: seconds of comparing after which there is none either; an agent that is off
            does not compare.
        agree_good_ppm: of windows on which a good candidate agrees, at least.
        agree_bad_ppm: of windows on which a bad one agrees, at most.
        win_good_ppm: of labelled windows that only one of the two got right, those that a good
            candidate got right, at least.
        win_bad_ppm: the same of a bad one, at most.
        alpha_ppm: probability that a good candidate is dropped, at most.
        beta_ppm: probability that a bad one is promoted, at most.
        errors_max: windows on which the candidate may fail.
        tolerance_ppm: values of a regression that differ by so many millionths of the value's unit
            count as equal.
        latency_percent_max: median inference of the candidate, in percent of the incumbent's; None
            for no bound. A shadow is measured in processor time; on a busy machine it may look half
            as slow again as an equal model that decides.
        shift_ppm_max: difference of the mean scores, in millionths; None for no bound.
        at_end: what becomes of a candidate when there was no verdict.
        answers_n: answers kept for labels that come later.
        share_ppm: of the slots or sensors for which the candidate decides; ``ab`` only.
        split: ``slot``, stretches of time, or ``sensor``, for a pipeline with many; ``ab`` only.
        slot_s: length of a time slot.
    """

    kind: Literal["shadow", "ab"] = "shadow"
    judge: Literal["agreement", "accuracy"] = "agreement"
    windows_min: int = 1_000
    windows_max: int = 1_000_000
    longest_s: int = 604_800
    agree_good_ppm: int = 980_000
    agree_bad_ppm: int = 950_000
    win_good_ppm: int = 600_000
    win_bad_ppm: int = 400_000
    alpha_ppm: int = 50_000
    beta_ppm: int = 50_000
    errors_max: int = 0
    tolerance_ppm: int = 0
    latency_percent_max: int | None = 300
    shift_ppm_max: int | None = None
    at_end: Literal["drop", "promote"] = "drop"
    answers_n: int = 10_000
    share_ppm: int = 500_000
    split: Literal["slot", "sensor"] = "slot"
    slot_s: int = 600

    @property
    def fault(self) -> str | None:
        """The first contradiction, or None."""
        if self.kind == "ab" and self.judge == "agreement":
            return "the two arms of an A/B test see different windows: judge by accuracy"
        return next((text for is_wrong, text in self._rules() if is_wrong), None)

    def _rules(self) -> Iterator[tuple[bool, str]]:
        """What would be wrong with a number, and how to say it."""
        half = WHOLE_PPM // 2
        yield (
            not 0 < self.agree_bad_ppm < self.agree_good_ppm < WHOLE_PPM,
            f"agree_bad_ppm must be below agree_good_ppm, both inside 0 to {WHOLE_PPM}",
        )
        yield (
            not 0 < self.win_bad_ppm < self.win_good_ppm < WHOLE_PPM,
            f"win_bad_ppm must be below win_good_ppm, both inside 0 to {WHOLE_PPM}",
        )
        yield (
            not (0 < self.alpha_ppm < half and 0 < self.beta_ppm < half),
            f"alpha_ppm and beta_ppm must lie inside 0 to {half}",
        )
        yield (
            not 1 <= self.windows_min <= self.windows_max,
            "windows_min must be from 1 to windows_max",
        )
        yield (
            min(self.errors_max, self.tolerance_ppm, self.shift_ppm_max or 0) < 0,
            "errors_max, tolerance_ppm and shift_ppm_max must be at least 0",
        )
        yield (
            min(self.longest_s, self.slot_s, self.latency_percent_max or 1) < 1
            or self.latency_percent_max == 0,
            "longest_s, slot_s and latency_percent_max must be at least 1",
        )
        yield (
            not 1 <= self.answers_n <= ANSWERS_N_MAX,
            f"answers_n must be from 1 to {ANSWERS_N_MAX}",
        )
        yield not 0 < self.share_ppm < WHOLE_PPM, f"share_ppm must lie inside 0 to {WHOLE_PPM}"


class Arm(msgspec.Struct, kw_only=True):
    """What one of two models has done.

    Attributes:
        version: of its bundle.
        windows: that it has answered; beside a shadow, those that both have.
        fired: of those, how many fired.
        errors: windows on which it failed.
        labelled: answers of which the truth became known.
        correct: of those, how many were right.
        score_sum: of all its scores.
        p50_us: median of an inference since the agent started.
        p99_us: 99th percentile of an inference since the agent started.
    """

    version: str = ""
    windows: int = 0
    fired: int = 0
    errors: int = 0
    labelled: int = 0
    correct: int = 0
    score_sum: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0

    @property
    def score_mean(self) -> float:
        """Mean of its scores; 0 when there are none."""
        return self.score_sum / max(1, self.windows)

    @property
    def accuracy(self) -> float | None:
        """Share of its labelled answers that were right; None when there are none."""
        return self.correct / self.labelled if self.labelled else None


class Comparison(msgspec.Struct, kw_only=True):
    """How two models have answered: ``a`` is the one that decides, ``b`` the other.

    Attributes:
        compared: windows that both have answered.
        disagreed: of those, how many got two labels; for a regression, values further apart than
            the tolerance.
        left_out: windows that came while the shadow was busy.
        won: labelled windows, or in an A/B test pairs of one of each arm, that ``b`` alone got
            right.
        lost: the same that ``a`` alone got right.
        unmatched: labels that named no answer that is still known.
    """

    compared: int = 0
    disagreed: int = 0
    left_out: int = 0
    won: int = 0
    lost: int = 0
    unmatched: int = 0
    a: Arm = msgspec.field(default_factory=Arm)
    b: Arm = msgspec.field(default_factory=Arm)

    @property
    def score_shift(self) -> float:
        """Mean score of ``b`` minus that of ``a``."""
        return self.b.score_mean - self.a.score_mean if self.a.windows and self.b.windows else 0.0


def copied(comparison: Comparison) -> Comparison:
    """The figures of this moment, which do not change any more."""
    a, b = msgspec.structs.replace(comparison.a), msgspec.structs.replace(comparison.b)
    return msgspec.structs.replace(comparison, a=a, b=b)


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What a window really was, said later by whoever knows.

    Attributes:
        pipeline: name of the pipeline.
        sensor: which of its sensors; empty where there is one only.
        reading: as in the :class:`~.messages.Decision` on it; 0 when only the time is known.
        t: as in the decision: the nearest one within a second is meant, or, with ``reading``, that
            one if it is not from another start of the agent.
        label: the right label.
        value: the right value, for a regression.
    """

    pipeline: str
    sensor: str = ""
    reading: int = 0
    t: float = 0.0
    label: str = ""
    value: float | None = None

    @property
    def fault(self) -> str | None:
        """The first contradiction, or None."""
        if self.reading < 0 or not (self.reading or self.t > 0):
            return "a truth names a reading, or the time t of a decision"
        if bool(self.label) == (self.value is not None):
            return "a truth has either a label or a value"
        return None
