"""Lengths of intervals, against counting unit by unit."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dashboard.lessons.intervals import covered, length, merged

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)


def cells(spans: list[tuple[int, int]]) -> set[int]:
    return {cell for start, end in spans for cell in range(start, end)}


@given(SPANS, SPANS)
def test_lengths_are_what_counting_gives(
    one: list[tuple[int, int]], two: list[tuple[int, int]]
) -> None:
    assert length(one) == len(cells(one))
    assert covered(one, two) == covered(two, one) == len(cells(one) & cells(two))
    apart = merged(one)
    assert cells(apart) == cells(one)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(apart))


def test_seconds_are_as_good_as_nanoseconds() -> None:
    assert covered([(0.0, 1.5)], [(1.0, 4.0)]) == 0.5
