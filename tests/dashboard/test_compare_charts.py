"""The charts of the pages that compare: their figures are the analyses', none is left out."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import pytest

import profiler
from dashboard.bundled import RECORDED
from dashboard.charts.blocks import box_records
from dashboard.charts.causes import TOP, cause_chart, cause_records
from dashboard.charts.forecast import forecast_chart, forecast_records
from dashboard.charts.host_bytes import host_bytes_chart, host_bytes_records
from dashboard.charts.paired import paired_bins, paired_chart, paired_records
from dashboard.charts.sankey import stream_records
from dashboard.charts.timeline import MOST_ROWS
from profiler.analyses.blocks import blocks
from profiler.analyses.diff import Change, Diff, Side, diff
from profiler.analyses.levers import Combination, combinations
from profiler.analyses.timeline import CATEGORIES, Moment, Timeline
from profiler.analyses.traffic import traffic
from profiler.analyses.whatif import Scenario, measured, what_if
from profiler.reports.ablation_view import view
from profiler.reports.units import MIB, mib
from tests.profiler.reports import samples

GROUNDS: Any = ["light", "dark"]


def valid(chart: Any) -> str:
    """The chart's specification as text; raises where Vega-Lite's schema is not met."""
    spec = chart.to_dict()
    alt.Chart.from_dict(spec)
    return json.dumps(spec)


def side(device: int) -> Side:
    return Side(
        run="r", step=0, name="", saves=1, device_bytes=device, host_bytes=0, d2h_bytes=0,
        h2d_bytes=0, peak_bytes=device, forward_ns=1, backward_ns=1,
    )  # fmt: skip


def change(number: int, device: int, host: int = 0) -> Change:
    return Change(
        modules=[f"layers.{number}"], count=1, phase="forward", op="MmBackward0",
        cause="only in b", device_bytes=device, host_bytes=host,
    )  # fmt: skip


def test_the_bars_of_the_causes_add_up_to_the_difference() -> None:
    changes = [change(i, (-1) ** i * (40 - i) * MIB, MIB if i == 3 else 0) for i in range(TOP + 9)]
    records = cause_records(Diff(a=side(0), b=side(1), changes=changes))
    assert len({record["line"] for record in records}) == TOP + 1
    assert records[-1]["line"] == "9 smaller changes"
    for kind, name in (("on the device", "device_bytes"), ("on the host", "host_bytes")):
        drawn = sum(record["mib"] for record in records if record["kind"] == kind)
        assert drawn == pytest.approx(sum(mib(getattr(each, name)) for each in changes))


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_causes_of_two_real_runs(ground: Any) -> None:
    with profiler.open_run(RECORDED / "bundled-checkpointed") as a:
        with profiler.open_run(RECORDED / "bundled-finetune") as b:
            found = diff(a, b)
    spec = valid(cause_chart(found, ground))
    assert "action rebuilt -> kept" in spec
    total = sum(r["mib"] for r in cause_records(found) if r["kind"] == "on the device")
    assert total == pytest.approx(mib(found.b.device_bytes - found.a.device_bytes), abs=1e-5)


def test_paired_charts_share_their_axes_and_their_budget() -> None:
    def made(count: int, size: int) -> Timeline:
        held = (size, *[1] * (len(CATEGORIES) - 1))
        moments = [
            Moment(time_ns=i * 10**9, step=0, phase="forward", bytes=held, rss_bytes=0)
            for i in range(count)
        ]
        return Timeline(rank=0, samples=count, moments=moments, bands=[], peak=moments[0])

    sides = {"A": made(paired_bins(), MIB), "B": made(paired_bins() // 2, 7 * MIB)}
    assert len(paired_records(sides)) <= MOST_ROWS
    charts = [paired_chart(seen, sides, "light").to_dict() for seen in sides.values()]
    domains = [
        [chart["layer"][0]["encoding"][axis]["scale"]["domain"] for axis in "xy"]
        for chart in charts
    ]
    assert domains[0] == domains[1]
    assert domains[0][0] == [0, paired_bins() - 1]
    assert domains[0][1][1] > 7


@pytest.mark.parametrize("ground", GROUNDS)
def test_predicted_figures_carry_the_word_and_stand_by_the_measured_ones(ground: Any) -> None:
    scenario = Scenario(name="levers", checkpoint=("model.layers.*",))
    with profiler.open_run(RECORDED / "bundled-checkpointed") as other:
        beside = measured(other)
    with profiler.open_run(RECORDED / "bundled-finetune") as run:
        found = what_if(run, [scenario], beside=beside)
    records = forecast_records(found.base, found.predictions)
    assert [record["kind"] for record in records] == ["measured", "predicted", "measured"]
    assert all(record["label"].startswith(record["kind"]) for record in records)
    assert records[1]["mib"] == mib(found.predictions[0].predicted_peak_bytes)
    assert records[1]["mib"] == pytest.approx(records[2]["mib"], rel=0.05)
    assert records[1]["mib"] < 0.7 * records[0]["mib"]
    spec = valid(forecast_chart(found.base, found.predictions, ground, budget_mib=20.0))
    assert "20 MiB there" in spec
    assert "there" not in valid(forecast_chart(found.base, found.predictions, ground))


def test_all_combinations_stand_beside_what_was_measured() -> None:
    with profiler.open_run(RECORDED / "bundled-attn0") as run:
        assert run.ablation is not None
        seen, predicted = view(run.ablation), combinations(run)
    assert predicted is not None
    assert len(predicted.rows) == 8
    for one in predicted.rows:
        row = seen.row(one.name)
        assert row is not None
        if one.upper_bound:  # tables are taken as full: all 65,536 values of 16 bits
            assert row.host_bytes <= one.predicted_host_bytes <= 1.2 * row.host_bytes
        else:
            assert row.host_bytes == one.predicted_host_bytes
    spec = valid(host_bytes_chart(seen, "M", "light", predicted.rows))
    assert spec.count('"what-if"') >= 8
    assert "what-if at most 98.0 MiB" in spec


def test_what_was_not_measured_is_drawn_as_a_prediction_only() -> None:
    guess = Combination(
        name="U+S", predicted_host_bytes=38 * MIB, predicted_peer_bytes=0,
        predicted_d2h_bytes=0, predicted_h2d_bytes=0, upper_bound=False,
    )  # fmt: skip
    records = host_bytes_records(view(samples.ablation(("none", "M"))), [guess])
    assert [r["source"] for r in records if r["row"] == "U+S"] == ["what-if"]
    assert next(r["label"] for r in records if r["row"] == "U+S") == "what-if 38.0 MiB"


def test_what_boxes_and_streams_draw_can_be_had_as_a_table() -> None:
    with profiler.open_run(RECORDED / "bundled-offloaded") as run:
        seen, moved = blocks(run, 1), traffic(run, 1)
    records = box_records(seen)
    assert sum(record["nodes"] for record in records) == seen.nodes
    assert sum(len(record["uses"].split()) for record in records) == len(seen.links)
    flows = [flow for flow in moved.modules if flow.direction == "d2h"]
    drawn = sum(record["MiB"] for record in stream_records(flows))
    assert drawn == pytest.approx(mib(sum(flow.bytes for flow in flows)))
