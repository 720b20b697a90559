"""The layout: boxes never overlap, edges point down and pass no box, the same every time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.reports.fold import fold_small
from profiler.reports.labels import spread, text_width, wrap
from profiler.reports.layered import Extent, layered_layout


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[int, Extent], list[tuple[int, int]]]:
    size = draw(st.integers(1, 14))
    reach = st.floats(0.1, 2.0)
    extents = {at: Extent(draw(reach), draw(reach)) for at in range(size)}
    pairs = [(a, b) for a in range(size) for b in range(a + 1, size)]
    edges = draw(st.lists(st.sampled_from(pairs), max_size=24)) if pairs else []
    return extents, edges


@given(graphs())
def test_no_box_overlaps_another_or_a_passing_edge(
    graph: tuple[dict[int, Extent], list[tuple[int, int]]],
) -> None:
    extents, edges = graph
    layout = layered_layout(extents, edges, gap=0.3)
    spans: dict[int, list[tuple[float, float]]] = {}
    for node, (x, layer) in layout.place.items():
        assert isinstance(node, int)
        extent = extents[node]
        spans.setdefault(layer, []).append((x - extent.left, x + extent.right))
    for route in layout.routes.values():
        for x, layer in route[1:-1]:
            spans.setdefault(layer, []).append((x, x))
    for layer_spans in spans.values():
        for one, other in pairwise(sorted(layer_spans)):
            assert other[0] - one[1] > 0.3 - 1e-6
    for (source, target), route in layout.routes.items():
        assert route[0] == layout.place[source]
        assert route[-1] == layout.place[target]
        assert all(below[1] == above[1] + 1 for above, below in pairwise(route))
    assert layered_layout(extents, edges, gap=0.3) == layout


def test_a_late_source_sits_next_to_its_consumer() -> None:
    layout = layered_layout(
        {name: Extent(0.5, 0.5) for name in "abcx"},
        [("a", "b"), ("b", "c"), ("x", "c")],
    )
    assert {name: layer for name, (_, layer) in layout.place.items()} == {
        "a": 0,
        "b": 1,
        "x": 1,
        "c": 2,
    }


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        layered_layout({0: Extent(1, 1), 1: Extent(1, 1)}, [(0, 1), (1, 0)])


def test_folding_keeps_the_heavy_nodes_and_who_feeds_whom() -> None:
    weights = {0: 9, 1: 0, 2: 0, 3: 8, 4: 7}
    edges = [(0, 1), (1, 2), (2, 3), (0, 4), (3, 4)]
    kept, joined, folded = fold_small(weights, edges, 3)
    assert (kept, folded) == ({0, 3, 4}, {1, 2})
    assert sorted(map(str, joined)) == ["(0, 3)", "(3, 4)"]  # (0, 4) follows from the two
    everything, same, nothing = fold_small(weights, edges, 5)
    assert (everything, sorted(map(str, same)), nothing) == (
        set(weights),
        sorted(map(str, edges)),
        set(),
    )


def test_labels_move_apart_and_stay_inside() -> None:
    placed = spread([1.0, 1.1, 9.9], [2.0, 2.0, 2.0], 0.0, 10.0)
    assert placed[1] - placed[0] >= 2.0
    assert placed[0] >= 1.0
    assert placed[2] <= 9.0
    assert spread([], [], 0.0, 1.0) == []


def test_wrapped_lines_fit() -> None:
    words = "saved two times by one node and rebuilt from one storage"
    lines = wrap(words, 9, 1.5)
    assert " ".join(lines) == words
    assert len(lines) > 1
    assert all(text_width(line, 9) <= 1.5 for line in lines)
