"""Whether a candidate is good enough to decide, from what was counted so far. Pure.

The test is Wald's sequential probability ratio test (A. Wald, "Sequential Tests of Statistical
Hypotheses", Annals of Mathematical Statistics 16(2), 1945, pp. 117-186). After every look the log
of the likelihood ratio of "bad" to "good" is compared with two borders,

    ln((1 - beta) / alpha)    above it the candidate is bad
    ln(beta / (1 - alpha))    below it the candidate is good

and between the two one keeps looking. For ``agreement`` a trial is a window, and failure is
disagreement. For ``accuracy`` it is Wald's test of two processes (*Sequential Analysis*, 1947,
chapter 6): of the labelled pairs only those count of which exactly one is right, and success is
that it is the candidate's. Whatever the moments of looking are, a good candidate is dropped with
probability alpha / (1 - beta) at most, and a bad one promoted with beta / (1 - alpha) at most.

That holds for independent trials. Windows that share readings are not: where a window is ``n``
hops long, ``n`` windows count as one, and the log ratio is divided by ``n``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import msgspec

from edge_agent.contract.experiment import WHOLE_PPM, Arm, Comparison, Experiment
from edge_agent.contract.manifest import Manifest

Outcome = Literal["look", "promote", "drop"]


class Verdict(msgspec.Struct, frozen=True):
    """What to do with a candidate: ``look`` on, ``promote`` or ``drop``; and why."""

    outcome: Outcome
    reason: str


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a comparison has come, as it is kept on the disk.

    Attributes:
        incumbent: digest of the bundle that the candidate is compared with.
        seconds: that it has lasted, without the time during which the agent was off.
        pipelines: the figures, by the names of the pipelines.
    """

    incumbent: str
    seconds: float = 0.0
    pipelines: dict[str, Comparison] = {}


def incomparable(before: Manifest, after: Manifest, rule: Experiment) -> str | None:
    """Why a candidate cannot be compared with the incumbent; None when it can."""
    for what, ours, theirs in (
        ("task", before.task, after.task),
        ("labels", before.labels, after.labels),
        ("window", _window(before), _window(after)),
        ("channels", _channels(before), _channels(after)),
    ):
        if ours != theirs:
            return f"it cannot be compared: its {what} is {theirs}, that of the incumbent {ours}"
    if before.states or after.states:
        return "it cannot be compared: a model that carries state must answer every window"
    if rule.kind == "ab" and before.version == after.version:
        return f"it cannot be compared: both arms are version {after.version}, give it another"
    return None


def judge(rule: Experiment, found: Comparison, *, seconds: float, overlap: int = 1) -> Verdict:
    """Say what to do with a candidate.

    Args:
        rule: of the experiment.
        found: the figures of all pipelines together.
        seconds: that it has lasted.
        overlap: windows that share a reading.
    """
    if found.b.errors > rule.errors_max:
        return Verdict(
            "drop",
            f"the candidate failed on {found.b.errors} windows, {rule.errors_max} are allowed",
        )
    windows = min(found.a.windows, found.b.windows)
    is_over = windows >= rule.windows_max or seconds >= rule.longest_s
    ratio = evidence(rule, found) / overlap
    alpha, beta = rule.alpha_ppm / WHOLE_PPM, rule.beta_ppm / WHOLE_PPM
    if windows >= rule.windows_min and ratio >= math.log((1 - beta) / alpha):
        return Verdict("drop", f"the candidate is worse: {told(rule, found)}")
    if windows >= rule.windows_min and ratio <= math.log(beta / (1 - alpha)):
        return _good(rule, found, f"the candidate is good: {told(rule, found)}")
    if not is_over:
        return Verdict("look", told(rule, found))
    end = f"no verdict after {windows} windows and {seconds:.0f} s: {told(rule, found)}"
    return Verdict("drop", end) if rule.at_end == "drop" else _good(rule, found, end)


def evidence(rule: Experiment, found: Comparison) -> float:
    """The log of the likelihood ratio of a bad candidate to a good one, of independent trials."""
    if rule.judge == "agreement":
        bad, good = rule.agree_bad_ppm / WHOLE_PPM, rule.agree_good_ppm / WHOLE_PPM
        successes, failures = found.compared - found.disagreed, found.disagreed
    else:
        bad, good = rule.win_bad_ppm / WHOLE_PPM, rule.win_good_ppm / WHOLE_PPM
        successes, failures = found.won, found.lost
    return successes * math.log(bad / good) + failures * math.log((1 - bad) / (1 - good))


def total(comparisons: Iterable[Comparison]) -> Comparison:
    """All pipelines together; latencies are those of the slowest."""
    found = Comparison()
    for one in comparisons:
        for name in ("compared", "disagreed", "left_out", "won", "lost", "unmatched"):
            setattr(found, name, getattr(found, name) + getattr(one, name))
        for arm, more in ((found.a, one.a), (found.b, one.b)):
            _add(arm, more)
    return found


def overlap_of(manifest: Manifest) -> int:
    """How many windows share a reading: as many as begin within the length of one."""
    return math.ceil(manifest.window.length / manifest.window.hop)


def told(rule: Experiment, found: Comparison) -> str:
    """The figures in one line."""
    parts = [f"{found.a.windows} windows" if rule.kind == "shadow" else _each(found)]
    if rule.kind == "shadow":
        share = 1 - found.disagreed / max(1, found.compared)
        parts.append(f"{share:.2%} alike")
    if found.a.labelled or found.b.labelled or rule.judge == "accuracy":
        right = " to ".join(_right(arm) for arm in (found.b, found.a))
        parts.append(f"right {right}, alone {found.won} to {found.lost}")
    parts.append(f"median {found.b.p50_us:.0f} to {found.a.p50_us:.0f} µs")
    return ", ".join(parts)


def _good(rule: Experiment, found: Comparison, reason: str) -> Verdict:
    """Promote it, unless it is too slow or its scores are elsewhere."""
    percent_max = rule.latency_percent_max
    if percent_max is not None and 100 * found.b.p50_us > percent_max * found.a.p50_us:
        return Verdict(
            "drop",
            f"the median inference takes {found.b.p50_us:.0f} µs, {percent_max} % of the "
            f"incumbent's {found.a.p50_us:.0f} are allowed; {reason}",
        )
    shift_max = rule.shift_ppm_max
    if shift_max is not None and abs(found.score_shift) * WHOLE_PPM > shift_max:
        return Verdict(
            "drop",
            f"the mean score differs by {found.score_shift:.4g}, "
            f"{shift_max / WHOLE_PPM:g} are allowed; {reason}",
        )
    return Verdict("promote", reason)


def _add(arm: Arm, more: Arm) -> None:
    arm.version = more.version or arm.version
    for name in ("windows", "fired", "errors", "labelled", "correct", "score_sum"):
        setattr(arm, name, getattr(arm, name) + getattr(more, name))
    arm.p50_us, arm.p99_us = max(arm.p50_us, more.p50_us), max(arm.p99_us, more.p99_us)


def _each(found: Comparison) -> str:
    return f"windows {found.b.windows} to {found.a.windows}"


def _right(arm: Arm) -> str:
    return "-" if arm.accuracy is None else f"{arm.accuracy:.2%} of {arm.labelled}"


def _window(manifest: Manifest) -> str:
    window = manifest.window
    return f"{window.length} readings every {window.hop} at {window.rate_hz:g} Hz"


def _channels(manifest: Manifest) -> str:
    return ", ".join(f"{c.name} [{c.unit}]" if c.unit else c.name for c in manifest.channels)
