"""Spans of the timeline, groups of aliases, neighbours of a node, lanes of copies: as drawn."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import altair as alt
import pytest

from dashboard.charts.aliases import MOST, alias_drawing, alike
from dashboard.charts.blocks import LEVEL, MARGINS, WIDTH, blocks_option, chart_height
from dashboard.charts.dot import Arrow, Box, Drawing, digraph, drawing_records, quoted, shortened
from dashboard.charts.nearby import nearby_drawing
from dashboard.charts.svg import svg
from dashboard.charts.timeline import (
    MOST_ROWS,
    Part,
    area_records,
    band_records,
    bins,
    brushed,
    map_chart,
    map_records,
    timeline_chart,
)
from dashboard.overlap import lane_colours, lane_name, lane_pieces, lane_stretches, overlap_words
from profiler.analyses.blocks import Blocks
from profiler.analyses.blocks import Box as BlocksBox
from profiler.analyses.duplicates import duplicates
from profiler.analyses.lanes import Lane, Lanes, Piece
from profiler.analyses.neighbourhood import Near, Neighbourhood
from profiler.analyses.timeline import CATEGORIES
from profiler.reports.theme import GREY
from profiler.reports.units import MIB
from tests.dashboard.test_explore_charts import seen_timeline
from tests.dashboard.test_pages import opened, words
from tests.profiler.analyses.runs import float32, run_of

SVG = "{http://www.w3.org/2000/svg}"

GROUNDS: Any = ["light", "dark"]
SECOND = 10**9


def event(*span: float) -> SimpleNamespace:
    return SimpleNamespace(selection={"brush": {"s": list(span)}} if span else {})


def test_a_brush_is_a_part_of_the_clock() -> None:
    seen = seen_timeline(10)
    assert brushed(seen, None) is None
    assert brushed(seen, event()) is None
    assert brushed(seen, event(2.0, 2.0)) is None
    assert brushed(seen, event(4.5, 2.0)) == Part(0, 2 * SECOND, 4_500_000_000)


def test_a_part_begins_with_what_held_and_lasts_to_its_end() -> None:
    part = Part(SECOND, 2_500_000_000, 6_500_000_000)
    seen = seen_timeline(6, used=1)  # at 0, 1 ... 5 s, of which the first two came before
    records = area_records(seen, part)
    assert [record["s"] for record in records] == [1.5, 1.5, 1.5, 2.0, 3.0, 4.0, 5.5]
    bands = band_records(seen, part)
    assert min(band["start"] for band in bands) == 1.5
    assert max(band["end"] for band in bands) == 5.5
    assert part.domain == [1.5, 5.5]


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_map_shows_all_of_it_and_has_the_brush(ground: Any) -> None:
    seen = seen_timeline(4)
    assert [r["m"] for r in map_records(seen)] == [len(CATEGORIES)] * 4
    chart = map_chart(seen, ground).to_dict()
    assert chart["params"][0]["name"] == "brush"
    alt.Chart.from_dict(chart)
    part = Part(0, SECOND, 2 * SECOND)
    zoomed = timeline_chart(seen, ground, part).to_dict()
    alt.Chart.from_dict(zoomed)
    assert "[1.0, 2.0]" in json.dumps(zoomed)
    assert len(area_records(seen_timeline(bins()), Part(0, 0, 10**15))) <= MOST_ROWS


def test_dot_shows_names_as_they_are() -> None:
    name = 'a"b\\N\n<i>'
    assert quoted(name) == '"a\\"b\\\\N <i>"'
    boxes = (Box(name="x", lines=(name, "two"), colour="#123456", strong=True),)
    arrows = (Arrow(source="x", target="x", dashed=True),)
    text = digraph(Drawing(boxes=boxes, arrows=arrows, down=True), "dark")
    assert '"x" [label="a\\"b\\\\N <i>\\ntwo", color="#123456", penwidth=3];' in text
    assert '"x" -> "x" [label="", style=dashed];' in text
    assert len(shortened("m" * 200)) <= 45
    assert shortened("short") == "short"


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_graph_of_a_group_has_a_box_per_kind_of_save(ground: Any, tmp_path: Path) -> None:
    alias: dict[str, Any] = {"action": "alias", "alias_of": 0}
    saves = [
        float32(0, 7, [4, 8], op="MmBackward0", module="q", action="copied"),
        float32(1, 7, [8, 4], stride=[1, 8], op="MmBackward0", module="k", hops=1, **alias),
        *(float32(i, 7, [4, 8], op="MulBackward0", module="v", hops=0, **alias) for i in (2, 3)),
        float32(4, 9, [4, 8], op="ClampBackward1", module="c", hops=2, action="rebuilt",
                alias_of=0),
    ]  # fmt: skip
    with run_of(tmp_path / "run", saves) as run:
        (group,) = duplicates(run).groups
    assert [count for _, count in alike(group)] == [1, 1, 2, 1]
    text = digraph(alias_drawing(group, ground), ground)
    assert text.count(" -> ") == 4
    for label in ("storage 7", "transposed, 1 hop", "the same tensor, 0 hops", "2 times, alias"):
        assert label in text
    assert 'label="computed from it, 2 hops", style=dashed' in text


def test_a_large_group_counts_what_it_does_not_draw(tmp_path: Path) -> None:
    saves = [float32(i, 1, [64], op="A", module=f"m{i}") for i in range(MOST + 5)]
    with run_of(tmp_path / "run", saves) as run:
        (group,) = duplicates(run).groups
    assert '"rest" [label="5 more saves"' in digraph(alias_drawing(group, "light"), "light")


@pytest.mark.parametrize("ground", GROUNDS)
def test_neighbours_stand_out_when_they_save(ground: Any) -> None:
    nodes = [
        Near(seq=5, name="MmBackward0", module="q", distance=0, shape=[4], saves=2,
             saved_bytes=2 * MIB),
        Near(seq=-1, name="AccumulateGrad", module="", distance=1, shape=[], saves=0,
             saved_bytes=0),
    ]  # fmt: skip
    found = Neighbourhood(step=0, rank=0, seq=5, nodes=nodes, edges=[(-1, 5)], more=0)
    text = digraph(nearby_drawing(found), ground)
    assert '"5" [label="Mm, 4\\nq\\nsaves 2 tensors, 2 MiB"' in text
    assert f'"-1" [label="leaf: a parameter\'s gradient", color="{GREY}", penwidth=1.4]' in text
    assert '"-1" -> "5"' in text


@pytest.mark.parametrize("down", [True, False])
def test_the_picture_of_a_graph_has_every_box_apart(down: bool) -> None:
    boxes = tuple(
        Box(name=name, lines=(f"<{name}> & co", "two"), colour="#123456") for name in "abcd"
    )
    ends = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    arrows = tuple(Arrow(source=s, target=t, label="as is", dashed=s == "c") for s, t in ends)
    drawing = Drawing(boxes=boxes, arrows=arrows, down=down)
    root = ElementTree.fromstring(svg(drawing, "dark"))
    rects = [each.attrib for each in root.iter(f"{SVG}rect") if "x" in each.attrib]
    spans = [
        [
            (float(r[at]), float(r[at]) + float(r[size]))
            for at, size in (("x", "width"), ("y", "height"))
        ]
        for r in rects
    ]
    for one, other in itertools.combinations(spans, 2):
        assert any(b[0] >= a[1] or a[0] >= b[1] for a, b in zip(one, other, strict=True))
    words = [each.text for each in root.iter(f"{SVG}text")]
    assert words.count("<a> & co") == 1 and words.count("as is") == 4
    assert all(
        float(root.attrib[size]) >= spans[3][at][1] for at, size in enumerate(("width", "height"))
    )
    assert drawing_records(drawing)[3] == {
        "box": "d", "says": "<d> & co, two", "from": "b; c", "as": "as is; as is",
    }  # fmt: skip


def seen_lanes(**fields: Any) -> Lanes:
    piece = Piece(start_ns=2 * SECOND, end_ns=3 * SECOND, copies=3, bytes=MIB)
    lanes = [
        Lane(direction="d2h", simulated=fields.get("hidden", 0) is not None, peer=peer, stream=7,
             pieces=[piece])
        for peer in (False, True)
    ]  # fmt: skip
    given = {"forward_end_ns": 4 * SECOND, "hidden": 0.0, "lanes": lanes, **fields}
    return Lanes(
        step=0, name="", rank=0, start_ns=SECOND, end_ns=5 * SECOND, copying_ns=SECOND, **given
    )


def test_lanes_say_what_is_simulated_and_what_is_not_known() -> None:
    found = seen_lanes()
    assert list(lane_colours(found)) == ["to the host, simulated", "to the host, simulated peers"]
    assert [(p.start, p.end, p.about) for p in lane_pieces(found)] == [
        (1, 2, "3 copies, 1 MiB")
    ] * 2
    assert [(s.name, s.start, s.end) for s in lane_stretches(found)] == [
        ("forward", 0, 3), ("backward, optimizer", 3, 4),
    ]  # fmt: skip
    assert overlap_words(found).startswith("Copies were under way for 25 % of the step; 0 %")
    unknown = seen_lanes(hidden=None, forward_end_ns=None)
    assert lane_name(unknown.lanes[0]) == "to the host, stream 7"
    assert [s.name for s in lane_stretches(unknown)] == ["step"]
    assert "is not known" in overlap_words(unknown)
    assert overlap_words(seen_lanes(lanes=[])) == "Nothing was copied in this step."


def test_the_pages_show_them(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(recorded, "duplicates", monkeypatch, run="script", step="1")
    (drawn,) = app.get("graphviz_chart")
    assert "digraph" in drawn.proto.spec
    labels = [each.proto.label for each in app.get("download_button")]
    assert labels.count("Picture (SVG)") == 1 and labels.count("Data (CSV)") == 2
    app = opened(recorded, "traffic", monkeypatch, run="script", step="1")
    assert len(app.get("vega_lite_chart")) == 1
    assert "0 % of that was hidden" in words(app)
    app = opened(recorded, "timeline", monkeypatch, run="script", step="1")
    assert len(app.get("vega_lite_chart")) == 2
    app = opened(recorded, "graph", monkeypatch, run="script", step="0")
    before = app.get("graphviz_chart")[0].proto.spec
    node = next(each for each in app.selectbox if each.label == "Node of the chosen box")
    if len(node.options) > 1:
        node.select_index(1).run()
        assert app.get("graphviz_chart")[0].proto.spec != before
    assert not app.exception


def test_boxes_keep_their_shape_even_in_one_line() -> None:
    boxes = [
        BlocksBox(index=i, module="m", first_seq=i, last_seq=i, nodes=1, operations=["Mm"],
                  saves=1, saved_bytes=1, unique_bytes=1)
        for i in range(3)
    ]  # fmt: skip
    seen = Blocks(
        step=0, name="", depth=1, depths={1: 3}, boxes=boxes, links=[(0, 1, 1), (1, 2, 1)],
        nodes=3, leaves=0,
    )  # fmt: skip
    (series,) = blocks_option(seen, "light")["series"]
    drawn = series["data"]
    assert [each["id"] for each in drawn] == ["0", "1", "2", "corner 1", "corner 2"]
    assert [each["x"] for each in drawn] == [WIDTH / 2] * 3 + [0, WIDTH]
    assert [each["y"] for each in drawn] == [0, LEVEL, 2 * LEVEL, 0, chart_height(seen) - MARGINS]
    assert all(each["symbolSize"] == 0 for each in drawn[3:])
