"""Ranges of seqs against plain sets, and what is acknowledged."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.fleet.ranges import ACK_RANGES_MAX, Ranges, acknowledgements, runs

SEQS = st.integers(1, 60)
PAIRS = st.lists(st.tuples(SEQS, st.integers(0, 8)), max_size=40)


@given(PAIRS)
def test_ranges_hold_what_a_set_holds(pairs):
    ranges, plain = Ranges(), set()
    for first, more in pairs:
        ranges.add(first, first + more)
        plain |= set(range(first, first + more + 1))
    assert list(ranges) == runs(plain)
    assert ranges.count == len(plain)
    assert ranges.last() == max(plain, default=0)
    assert [seq for seq in range(70) if seq in ranges] == sorted(plain)
    through = next(seq for seq in range(100) if seq + 1 not in plain)
    assert ranges.through() == through
    assert ranges.newest(2) == runs(plain)[::-1][:2]


@given(st.lists(SEQS))
def test_runs_are_unbroken_and_complete(seqs):
    found = runs(seqs)
    assert [seq for first, last in found for seq in range(first, last + 1)] == sorted(set(seqs))
    assert all(left[1] + 1 < right[0] for left, right in pairwise(found))


@given(PAIRS, st.sets(SEQS, min_size=1))
def test_everything_touched_is_acknowledged_and_nothing_that_is_not_covered(pairs, touched):
    covered = Ranges((first, first + more) for first, more in pairs)
    for seq in touched:
        covered.add(seq, seq)
    said = set()
    for ack in acknowledgements("b", covered, runs(touched)):
        said |= set(range(1, ack.through + 1))
        said |= {seq for first, last in ack.ranges for seq in range(first, last + 1)}
    assert touched <= said
    assert all(seq in covered for seq in said)


def test_an_acknowledgement_repeats_the_newest_ranges_within_its_bound():
    covered = Ranges((seq, seq) for seq in range(3, 303, 2))
    (ack,) = acknowledgements("b", covered, [(3, 3)])
    assert ack.through == 0
    assert len(ack.ranges) == ACK_RANGES_MAX
    assert ack.ranges[0] == (3, 3)
    assert ack.ranges[-1] == (301, 301)
    assert list(ack.ranges) == sorted(ack.ranges)


def test_more_touched_ranges_than_fit_take_several_acknowledgements():
    seqs = range(2, 402, 2)
    covered = Ranges((seq, seq) for seq in seqs)
    acks = acknowledgements("b", covered, runs(seqs))
    assert {seq for ack in acks for seq, _ in ack.ranges} == set(seqs)
    assert all(len(ack.ranges) <= ACK_RANGES_MAX for ack in acks)


def test_an_empty_boot_acknowledges_nothing():
    (ack,) = acknowledgements("b", Ranges(), [])
    assert (ack.through, ack.ranges) == (0, ())
