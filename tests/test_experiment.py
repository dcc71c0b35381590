"""The rule of a comparison, alone: verdicts from figures, and how often they are wrong."""

import numpy as np
import pytest
from bundles import make_bundle
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.arms import Arms
from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.experiment import Arm, Comparison, Experiment, Truth
from edge_agent.contract.messages import Decision
from edge_agent.update.experiment import incomparable, judge, overlap_of, total

RULE = Experiment(windows_min=200, windows_max=20_000, longest_s=3_600)
AB = Experiment(kind="ab", judge="accuracy", windows_min=10)
RUNS_N = 600


def found(compared=0, disagreed=0, *, won=0, lost=0, **b):
    a = Arm(version="1", windows=compared, p50_us=10.0)
    b = Arm(**{"version": "2", "windows": compared, "p50_us": 10.0} | b)
    return Comparison(compared=compared, disagreed=disagreed, won=won, lost=lost, a=a, b=b)


# --- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figures", "seconds", "outcome", "reason"),
    [
        (found(199, 0), 60, "look", "199 windows, 100.00% alike"),
        (found(200, 0), 60, "promote", "the candidate is good: 200 windows"),
        (found(200, 40), 60, "drop", "the candidate is worse: 200 windows, 80.00% alike"),
        (found(1_000, 34), 60, "look", "96.60% alike"),
        (found(20_000, 656), 60, "drop", "no verdict after 20000 windows"),
        (found(1_000, 34), 3_600, "drop", "no verdict after 1000 windows and 3600 s"),
        (found(0, 0), 3_600, "drop", "no verdict after 0 windows"),
        (found(50, 0, errors=1), 60, "drop", "failed on 1 windows, 0 are allowed"),
        (found(200, 0, p50_us=30.1), 60, "drop", "takes 30 µs, 300 % of the incumbent's 10"),
    ],
)
def test_figures_lead_to_a_verdict(figures, seconds, outcome, reason):
    verdict = judge(RULE, figures, seconds=seconds)
    assert (verdict.outcome, reason in verdict.reason) == (outcome, True), verdict.reason


def test_scores_that_have_moved_too_far_are_no_good():
    rule = Experiment(windows_min=200, shift_ppm_max=10_000)
    verdict = judge(rule, found(200, 0, score_sum=4.0), seconds=60)
    assert verdict.outcome == "drop"
    assert "the mean score differs by 0.02, 0.01 are allowed" in verdict.reason
    assert judge(rule, found(200, 0, score_sum=2.0), seconds=60).outcome == "promote"


def test_an_end_without_a_verdict_may_promote_what_is_fast_enough():
    rule = Experiment(windows_min=200, windows_max=1_000, at_end="promote")
    assert judge(rule, found(1_000, 34), seconds=60).outcome == "promote"
    slow = found(1_000, 34, p50_us=99.0)
    assert "median inference takes 99 µs" in judge(rule, slow, seconds=60).reason


@pytest.mark.parametrize(
    ("won", "lost", "outcome"),
    [(3, 0, "look"), (8, 0, "promote"), (0, 8, "drop"), (60, 60, "look")],
)
def test_labels_judge_accuracy(won, lost, outcome):
    """A candidate that disagrees often may be the better one."""
    rule = Experiment(judge="accuracy", windows_min=10)
    assert judge(rule, found(100, 50, won=won, lost=lost), seconds=60).outcome == outcome


def test_windows_that_share_readings_count_for_less():
    assert judge(RULE, found(200, 0), seconds=60, overlap=8).outcome == "look"
    assert judge(RULE, found(1_600, 0), seconds=60, overlap=8).outcome == "promote"
    assert overlap_of(parse_bundle(make_bundle(length=128, hop=48)).manifest) == 3


def test_pipelines_are_judged_together_by_the_slowest():
    both = total([found(100, 1, p50_us=3.0), found(200, 2, p50_us=9.0, errors=1)])
    assert (both.compared, both.disagreed, both.b.windows, both.b.errors) == (300, 3, 300, 1)
    assert (both.b.p50_us, both.b.version) == (9.0, "2")


# --- how often it is wrong, and that it ends -----------------------------------------------------


def verdicts(rule, draw, looks_n):
    """The outcomes of many comparisons, each looked at ``looks_n`` times until it ends."""
    outcomes = []
    for _ in range(RUNS_N):
        figures = draw()
        for at in range(looks_n):
            outcome = judge(rule, figures(at), seconds=at).outcome
            if outcome != "look":
                outcomes.append(outcome)
                break
        else:
            pytest.fail("it did not end within its bound")
    return outcomes


def agreements(rng, share, step=25):
    def draw():
        differ = np.cumsum(rng.random(40_000) > share)[step - 1 :: step]
        return lambda at: found((at + 1) * step, int(differ[at]))

    return draw


@pytest.mark.parametrize(
    ("share", "wrong", "most"), [(0.98, "drop", 0.05 / 0.95), (0.95, "promote", 0.05 / 0.95)]
)
def test_wrong_verdicts_on_agreement_are_as_rare_as_promised(share, wrong, most):
    rule = Experiment(windows_min=25, windows_max=40_000)
    rng = np.random.default_rng(1)
    outcomes = verdicts(rule, agreements(rng, share), 1_600)
    spread = 3 * (most * (1 - most) / RUNS_N) ** 0.5
    assert outcomes.count(wrong) / RUNS_N <= most + spread
    assert outcomes.count(wrong) < RUNS_N / 10 < outcomes.count("promote") + outcomes.count("drop")


@pytest.mark.parametrize(("share", "wrong"), [(0.6, "drop"), (0.4, "promote")])
def test_wrong_verdicts_on_accuracy_are_as_rare_as_promised(share, wrong):
    rule = Experiment(judge="accuracy", windows_min=1, windows_max=100_000)
    rng = np.random.default_rng(2)

    def draw():
        won = np.cumsum(rng.random(5_000) < share)
        return lambda at: found(at + 1, won=int(won[at]), lost=at + 1 - int(won[at]))

    outcomes = verdicts(rule, draw, 5_000)
    most = 0.05 / 0.95
    assert outcomes.count(wrong) / RUNS_N <= most + 3 * (most * (1 - most) / RUNS_N) ** 0.5


def test_windows_that_share_readings_do_not_make_it_rash():
    """One bad reading spoils eight windows; a good candidate is still dropped as rarely."""
    rule = Experiment(windows_min=200, windows_max=200_000)
    rng = np.random.default_rng(3)
    rare = 1 - 0.98 ** (1 / 8)  # of readings, so that two windows in a hundred are spoilt

    def dropped(overlap):
        count = 0
        for _ in range(RUNS_N // 2):
            bad = rng.random(40_000) < rare
            spoilt = np.convolve(bad, np.ones(8))[: len(bad)] > 0
            differ = np.cumsum(spoilt)
            for at in range(100, len(bad), 100):
                figures = found(at, int(differ[at - 1]))
                if (outcome := judge(rule, figures, seconds=1, overlap=overlap).outcome) != "look":
                    count += outcome == "drop"
                    break
        return count / (RUNS_N // 2)

    most = 0.05 / 0.95
    assert dropped(8) <= most + 3 * (most * (1 - most) / (RUNS_N // 2)) ** 0.5
    assert dropped(1) > 0.1  # what would be without the division


@given(
    compared=st.integers(0, 10**7),
    share=st.floats(0, 1),
    seconds=st.floats(0, 10**7),
    overlap=st.integers(1, 1000),
    rule=st.builds(
        Experiment,
        windows_min=st.integers(1, 1000),
        windows_max=st.integers(1000, 10**6),
        longest_s=st.integers(1, 10**6),
        at_end=st.sampled_from(["drop", "promote"]),
    ),
)
def test_it_always_ends_within_its_bounds(compared, share, seconds, overlap, rule):
    figures = found(compared, round(share * compared))
    outcome = judge(rule, figures, seconds=seconds, overlap=overlap).outcome
    if compared >= rule.windows_max or seconds >= rule.longest_s:
        assert outcome in {"promote", "drop"}
    elif compared < rule.windows_min:
        assert outcome == "look"


# --- what can be compared, and what a rule may say -----------------------------------------------


def manifest(**fields):
    return parse_bundle(make_bundle(**fields)).manifest


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        ({"length": 8}, "its window is 8 readings every 1 at 10 Hz, that of the incumbent 4"),
        ({"labels": ("rest", "walk")}, "its labels is"),
        ({"task": "anomaly"}, "its task is anomaly, that of the incumbent classification"),
        ({"channels": ("a", "c")}, "its channels is a, c, that of the incumbent a, b"),
    ],
)
def test_what_answers_other_questions_cannot_be_compared(other, fault):
    assert fault in incomparable(manifest(), manifest(**other), RULE)


def test_two_versions_alike_can_be_compared_but_are_no_arms():
    assert incomparable(manifest(), manifest(bias=1.0), RULE) is None
    assert "both arms are version 1.0.0" in incomparable(manifest(), manifest(), AB)
    assert incomparable(manifest(), manifest(version="1.1.0"), AB) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "ab"},
        {"agree_bad_ppm": 990_000},
        {"win_good_ppm": 1_000_000},
        {"alpha_ppm": 0},
        {"beta_ppm": 500_000},
        {"windows_min": 0},
        {"windows_max": 10},
        {"longest_s": 0},
        {"errors_max": -1},
        {"latency_percent_max": 0},
        {"answers_n": 100_001},
        {"share_ppm": 0},
        {"slot_s": 0},
    ],
)
def test_a_rule_that_contradicts_itself_says_so(fields):
    assert Experiment(**fields).fault
    assert Experiment().fault is None
    assert AB.fault is None


@pytest.mark.parametrize(
    "fields", [{}, {"reading": 1}, {"reading": 1, "label": "x", "value": 1.0}, {"label": "x"}]
)
def test_a_label_that_says_nothing_is_refused(fields):
    assert Truth(pipeline="p", **fields).fault


# --- two that decide in turn ---------------------------------------------------------------------


def decided(arms, version, reading, label, *, fired=False):
    decision = Decision(
        t=1.0, pipeline="p", model=version, reading=reading, label=label, score=0.5, fired=fired
    )
    arms.saw(decision, np.zeros((1, 1), np.float32), 5_000)


def test_each_arm_has_its_figures_and_labels_are_paired_in_turn():
    arms = Arms("1", "2", tolerance=0.0, answers_n=100)
    for reading, (version, label) in enumerate(
        [("1", "rest"), ("1", "rest"), ("2", "move"), ("1", "rest"), ("2", "rest")], 1
    ):
        decided(arms, version, reading, label, fired=label == "move")
    arms.missed("2")
    for reading, label in ((1, "move"), (2, "rest"), (3, "move"), (5, "move"), (4, "rest")):
        arms.learn(Truth(pipeline="p", reading=reading, label=label))
    arms.learn(Truth(pipeline="p", reading=99, label="rest"))
    counted = arms.comparison()
    assert (counted.a.windows, counted.b.windows) == (3, 2)
    assert (counted.a.fired, counted.b.fired, counted.b.errors) == (0, 1, 1)
    assert (counted.a.correct, counted.a.labelled) == (2, 3)
    assert (counted.b.correct, counted.b.labelled) == (1, 2)
    assert (counted.won, counted.lost, counted.unmatched) == (1, 1, 1)  # 3 with 1, 5 with 2
    assert counted.b.p50_us == pytest.approx(5.0, rel=0.07)
    assert judge(AB, counted, seconds=1).reason.startswith("the candidate failed on 1 windows")
