"""Intervals of time: how long they last together, and how much of them others cover.

Contract: pairs (start, end) in any order, overlapping or not, in any one unit; an end before its
start counts as an empty interval.
Boundary: arithmetic only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def merged(intervals: Iterable[tuple[Number, Number]]) -> list[tuple[Number, Number]]:
    """The same moments as disjoint intervals in order."""
    found: list[tuple[Number, Number]] = []
    for start, end in sorted(pair for pair in intervals if pair[1] > pair[0]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def length(intervals: Iterable[tuple[Number, Number]]) -> Number | int:
    """How long the intervals last together; what several cover counts once."""
    return sum(end - start for start, end in merged(intervals))


def covered(
    intervals: Iterable[tuple[Number, Number]], by: Iterable[tuple[Number, Number]]
) -> Number | int:
    """How long moments of `intervals` are moments of `by` too."""
    one, other = merged(intervals), merged(by)
    total: Number | int = 0
    i = j = 0
    while i < len(one) and j < len(other):
        total += max(0, min(one[i][1], other[j][1]) - max(one[i][0], other[j][0]))
        if one[i][1] <= other[j][1]:
            i += 1
        else:
            j += 1
    return total
