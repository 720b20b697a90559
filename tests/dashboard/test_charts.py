"""The charts: the recorded figures in MiB, the paper's beside them, nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import altair as alt
import pytest

from dashboard.charts.host_bytes import host_bytes_chart, host_bytes_records
from dashboard.charts.times import time_chart, time_records
from dashboard.charts.traffic import traffic_chart, traffic_records
from dashboard.theme import FADED, ROW_COLOURS, SECOND, ink
from profiler.reports import theme
from profiler.reports.ablation_view import AblationView, view
from tests.profiler.reports import samples

CHARTS: dict[str, Callable[..., Any]] = {
    "host_bytes": host_bytes_chart,
    "traffic": traffic_chart,
    "times": time_chart,
}


@pytest.fixture
def seen() -> AblationView:
    return view(samples.ablation())


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("ground", ["light", "dark"])
def test_every_chart_is_a_valid_specification(name: str, ground: Any, seen: AblationView) -> None:
    for selected in (None, "M+U"):
        chart = CHARTS[name](seen, selected, ground)
        alt.Chart.from_dict(chart.to_dict())  # validates against the Vega-Lite schema
        words = json.dumps(chart.to_dict())
        assert ink(ground) in words
        assert "http" not in words.replace("https://vega.github.io/schema", "")


def test_host_bars_are_measured_and_papers_in_mib(seen: AblationView) -> None:
    records = host_bytes_records(seen)
    bars = {(record["row"], record["source"]): record["mib"] for record in records}
    assert bars["none", "measured"] == 1600.0
    assert bars["M", "measured"] == bars["M", "paper"] == 544
    assert bars["M+U+S", "paper"] == 12
    assert ("fused", "paper") not in bars
    labels = [record["label"] for record in records]
    assert "544.0 MiB  (2.9x)" in labels
    assert "paper 544 MB  (2.9x)" in labels


def test_another_setting_has_no_bars_of_the_paper() -> None:
    other = view({**samples.ablation(), "bits": 4, "clusters": 16})
    assert {record["source"] for record in host_bytes_records(other)} == {"measured"}
    assert {record["lane"] for record in time_records(other, None)} == {"measured"}


def test_zero_bytes_are_drawn_on_a_log_axis() -> None:
    data = samples.ablation(("none", "fused"))
    data["rows"][1].update(host_bytes=0, d2h_bytes=0, h2d_bytes=0, reduction=None)
    for build in (host_bytes_chart, traffic_chart):
        spec = build(view(data), None, "light").to_dict()
        values = (
            [row for rows in spec["datasets"].values() for row in rows]
            if "datasets" in spec
            else _values(spec)
        )
        assert all(row["shown"] > 0 and row["floor"] > 0 for row in values if "shown" in row)
    assert host_bytes_records(view(data))[-1]["label"] == "0.0 MiB"


def _values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    found = list(spec.get("data", {}).get("values", []))
    for layer in spec.get("layer", []):
        found += _values(layer)
    return found


def test_traffic_has_both_directions_and_fades_the_rest(seen: AblationView) -> None:
    records = {(r["row"], r["direction"]): r for r in traffic_records(seen, "M+S")}
    assert len(records) == 2 * len(seen.rows)
    assert records["M+S", "D2H"]["mib"] == 544.0
    assert records["M+S", "H2D"]["mib"] == 68.0
    assert records["M+S", "D2H"]["strength"] == 1.0
    assert records["M+S", "H2D"]["strength"] == SECOND
    assert records["none", "D2H"]["strength"] == FADED


def test_times_stack_forward_and_backward(seen: AblationView) -> None:
    records = [r for r in time_records(seen, None) if r["row"] == "none"]
    assert [(r["part"], r["start"], r["end"]) for r in records] == [
        ("forward", 0.0, 4.4),
        ("backward", 4.4, 7.4),
        ("total", 0.0, 8.67),
    ]
    assert "8 x A100" in records[-1]["about"]
    assert "about" in records[-1]["about"]


def test_figures_that_were_not_recorded_are_left_out() -> None:
    bare = view({"rows": [{"name": "M", "host_bytes": 2**20}]})
    assert traffic_records(bare, None) == []
    assert time_records(bare, None) == []
    for build in CHARTS.values():
        build(bare, None, "light").to_dict()


def test_the_screen_has_the_pictures_colours() -> None:
    assert ROW_COLOURS is theme.ROW_COLOURS
    spec = json.dumps(host_bytes_chart(view(samples.ablation()), None, "light").to_dict())
    assert all(theme.row_colour(name) in spec for name in ("none", "M", "M+U+S", "fused"))
