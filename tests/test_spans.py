"""Sets of ranges behave as sets of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.spans import Spans

RANGES = st.lists(st.tuples(st.booleans(), st.integers(-5, 40), st.integers(-5, 40)), max_size=25)


@given(RANGES)
def test_adding_and_removing_ranges_is_adding_and_removing_members(
    steps: list[tuple[bool, int, int]],
) -> None:
    spans, members = Spans(), set[int]()
    for adds, first, last in steps:
        numbers = set(range(first, last + 1))
        if adds:
            spans.add(first, last)
            members |= numbers
        else:
            assert spans.remove(first, last) == len(members & numbers)
            members -= numbers
        ranges = list(spans)
        assert [n for a, b in ranges for n in range(a, b + 1)] == sorted(members)
        assert all(b + 1 < c for (_, b), (c, _) in pairwise(ranges))
        assert (spans.count, bool(spans)) == (len(members), bool(members))
        assert spans == Spans.of(members)
