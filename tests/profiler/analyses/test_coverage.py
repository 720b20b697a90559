"""Coverage counts bytes as a plain set of byte positions does."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.analyses import coverage
from profiler.analyses.coverage import Coverage, touched_bytes

VIEWS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=3),
        st.integers(0, 20),
        st.sampled_from([1, 2, 4]),
    ),
    min_size=1,
    max_size=6,
)


@given(VIEWS)
def test_new_bytes_equal_those_of_a_set(
    views: list[tuple[list[tuple[int, int]], int, int]],
) -> None:
    covered, truth = Coverage(), set[int]()
    for dimensions, offset, itemsize in views:
        shape, stride = [n for n, _ in dimensions], [s for _, s in dimensions]
        places = {
            (offset + sum(i * s for i, s in zip(index, stride, strict=True))) * itemsize + byte
            for index in itertools.product(*map(range, shape))
            for byte in range(itemsize)
        }
        assert covered.add(shape, stride, offset, itemsize) == len(places - truth)
        truth |= places
        assert covered.bytes == len(truth)
    assert covered.exact


def test_an_expanded_tensor_touches_its_bytes_once() -> None:
    assert touched_bytes([5, 3], [0, 1], 4) == 12
    assert touched_bytes([0, 3], [3, 1], 4) == 0
    assert touched_bytes([], [], 8) == 8


def test_too_many_runs_are_taken_as_their_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "MAX_RUNS", 3)
    covered = Coverage()
    assert covered.add([4], [2], 0, 1) == 7  # 4 bytes, reaching over 7
    assert not covered.exact
