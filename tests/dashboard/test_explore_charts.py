"""The charts of the explore pages: pure functions whose figures are the analyses'."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import altair as alt
import pytest

from dashboard.charts.blocks import LEVEL, blocks_option, chart_height, kind, plain, positions
from dashboard.charts.icicle import ROOT, icicle_chart, rectangles
from dashboard.charts.sankey import MODULES, sankey_option, streams
from dashboard.charts.shares import share_chart, share_records
from dashboard.charts.spans import span_chart, span_records
from dashboard.charts.timeline import MOST_ROWS, area_records, band_records, bins, timeline_chart
from dashboard.tables import counted, short_op, source_words
from profiler.analyses.blocks import Blocks, Box
from profiler.analyses.duplicates import duplicates
from profiler.analyses.places import Place, Places
from profiler.analyses.timeline import CATEGORIES, Band, Moment, Timeline
from profiler.analyses.traffic import Flow
from profiler.reports.units import MIB
from tests.profiler.analyses.runs import float32, run_of

GROUNDS: Any = ["light", "dark"]


def moments(count: int, used: int = len(CATEGORIES)) -> list[Moment]:
    held = tuple(MIB if i < used else 0 for i in range(len(CATEGORIES)))
    return [
        Moment(time_ns=i * 10**9, step=0, phase="forward", bytes=held, rss_bytes=0)
        for i in range(count)
    ]


def seen_timeline(count: int, used: int = len(CATEGORIES)) -> Timeline:
    found = moments(count, used)
    bands = [
        Band(step=i, name="", part=part, start_ns=i * 10**9, end_ns=(i + 1) * 10**9)
        for i in range(30)
        for part in ("forward", "backward")
    ]
    return Timeline(rank=0, samples=count, moments=found, bands=bands, peak=found[count // 2])


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_timeline_is_valid_and_within_its_budget(ground: Any) -> None:
    chart = timeline_chart(seen_timeline(bins()), ground)
    alt.Chart.from_dict(chart.to_dict())
    assert len(area_records(seen_timeline(bins()))) <= MOST_ROWS
    assert "peak 8.0 MiB" in json.dumps(chart.to_dict())


def test_the_timeline_draws_mib_of_used_categories_inside_its_span() -> None:
    records = area_records(seen_timeline(3, used=2))
    assert len(records) == 6
    assert {record["c"] for record in records} == {"parameters", "optimizer state"}
    assert {record["m"] for record in records} == {1.0}
    assert max(record["end"] for record in band_records(seen_timeline(3))) == 2.0


@pytest.mark.parametrize("ground", GROUNDS)
def test_shares_fill_the_bar(ground: Any) -> None:
    held = {"param": MIB, "optimizer": 0, "saved": 3 * MIB, "temp": 1}
    records = share_records(held)
    assert [record["category"] for record in records] == ["param", "saved", "temp"]
    assert records[0]["start"] == 0
    assert records[-1]["end"] == pytest.approx(1)
    assert [record["label"] for record in records] == ["25 %", "75 %", ""]
    assert "saved for backward, 3 MiB" in json.dumps(share_chart(held, ground).to_dict())


@pytest.mark.parametrize("ground", GROUNDS)
def test_spans_lie_where_the_views_do(ground: Any, tmp_path: Path) -> None:
    elements = 2**18
    saves = [
        float32(0, 1, [elements], op="AddBackward0", module="m"),
        float32(1, 1, [elements // 2], storage_elements=elements, storage_offset=elements // 2),
    ]
    with run_of(tmp_path / "run", saves) as run:
        (group,) = duplicates(run).groups
    records = span_records(group)
    assert [(r["start"], r["end"], r["unit"]) for r in records] == [(0, 1, "MiB"), (0.5, 1, "MiB")]
    assert records[0]["line"] == "1. m Add"
    alt.Chart.from_dict(span_chart(group, ground).to_dict())


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_icicle_is_the_tree(ground: Any) -> None:
    nodes = [
        Place(path="", parent=None, label="model", kind="module", module="", total_bytes=30),
        Place(path="a", parent="", label="a", kind="module", module="a", total_bytes=20),
        Place(path="z", parent="", label="z", kind="module", module="z", total_bytes=0),
        Place(
            path="r", parent="", label="2 smaller items", kind="rest", module="", total_bytes=10,
            items=2,
        ),
    ]  # fmt: skip
    seen = Places(step=0, name="", nodes=nodes)
    alt.Chart.from_dict(icicle_chart(seen, ground).to_dict())
    placed = {each["id"]: (each["x"], each["x2"], each["level"]) for each in rectangles(seen)}
    assert placed == {ROOT: (0, 1, 0), "a": (0, 2 / 3, 1), "r": (2 / 3, 1, 1)}
    alt.Chart.from_dict(icicle_chart(seen, ground, "a").to_dict())
    placed = {each["id"]: (each["x"], each["x2"]) for each in rectangles(seen, "a")}
    assert rectangles(seen, "z") == rectangles(seen)  # has nothing, so no width
    assert placed == {ROOT: (0, 1), "a": (0, 1)}  # what the chosen place lies in stays above it


def seen_blocks() -> Blocks:
    boxes = [
        Box(
            index=i, module="<b>{m}</b>", first_seq=i, last_seq=i, nodes=1, operations=["Mm"],
            saves=i, saved_bytes=i * MIB, unique_bytes=(i > 1) * MIB,
        )
        for i in range(4)
    ]  # fmt: skip
    links = [(0, 1, 1), (0, 2, 1), (1, 3, 1), (2, 3, 2)]
    return Blocks(
        step=0, name="", depth=0, depths={0: 4}, boxes=boxes, links=links, nodes=4, leaves=0
    )


@pytest.mark.parametrize("ground", GROUNDS)
def test_boxes_stand_below_what_they_use(ground: Any) -> None:
    seen = seen_blocks()
    place = positions(seen)
    assert all(place[source][1] < place[target][1] for source, target, _ in seen.links)
    lost = positions(dataclasses.replace(seen, links=[]))
    assert [lost[box.index][1] for box in seen.boxes] == [0, 1, 2, 3]  # never side by side
    assert len(set(place.values())) == 4
    (series,) = blocks_option(seen, ground)["series"]
    boxes = series["data"][: len(seen.boxes)]
    assert [node["category"] for node in boxes] == [2, 1, 0, 0]
    assert [kind(box) for box in seen.boxes] == ["nothing", "again", "new", "new"]
    assert len({node["name"] for node in boxes}) == 4
    assert not any(mark in json.dumps(boxes) for mark in ("<b>", "{m}"))
    assert chart_height(seen) >= 3 * LEVEL
    assert plain("{a|b}<i>") == "(a/b)(i)"


def test_operations_have_short_names_and_counts_their_plural() -> None:
    long = "GeneratedBackwardFor_edkm_fused_dkm_defaultBackward"
    given = ("MmBackward0", "_EuclideanBackward", long, "AccumulateGrad", "Backward0")
    assert [short_op(name) for name in given] == [
        "Mm", "Euclidean", "edkm_fused_dkm", "AccumulateGrad", "Backward0",
    ]  # fmt: skip
    assert [counted(n, "box", "boxes") for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]
    assert source_words("/a/b.py:3:C.f") == "b.py:3 in C.f"
    assert source_words("") == ""


@pytest.mark.parametrize("ground", GROUNDS)
def test_streams_lose_no_byte(ground: Any) -> None:
    flows = [
        Flow(direction="d2h", simulated=True, peer=False, module=f"m{i}", action="copied", bytes=i)
        for i in range(1, 100)
    ]
    found = streams(flows)
    assert len(found) == MODULES + 1
    assert found[0][0] == "m99"
    assert found[-1][0] == f"{99 - MODULES} smaller modules"
    assert sum(count for _, _, count in found) == sum(range(100))
    (series,) = sankey_option(flows, "d2h", ground)["series"]
    into_host = [link["value"] for link in series["links"] if link["target"] == "host"]
    assert into_host == [round(sum(range(100)) / MIB, 6)]
    (back,) = sankey_option(flows, "h2d", ground)["series"]
    assert {link["target"] for link in back["links"]} >= {"device"}
