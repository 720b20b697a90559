"""Seconds of forward and backward per configuration, the paper's approximate runtimes beside them.

Contract: forward at full strength, backward lighter, stacked. The paper's seconds are another
machine's (8 x A100) and approximate: they are outlines that say so, and only for its own setting.
Boundary: draws what was recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, height, labels, row_axis, row_colours, row_scale
from dashboard.theme import FADED, FADED_TEXT, SECOND, Ground
from profiler.reports.ablation_view import AblationView, Row
from profiler.reports.units import format_seconds


def time_records(seen: AblationView, selected: str | None) -> list[dict[str, Any]]:
    """One record per bar segment: row, lane, part, start and end in seconds, strength."""
    records = []
    for row in seen.rows:
        chosen = 1.0 if selected is None or row.name == selected else FADED
        start = 0.0
        for part, seconds in (("forward", row.forward_s), ("backward", row.backward_s)):
            if seconds is None:
                continue
            strength = chosen * (1.0 if part == "forward" else SECOND)
            end = start + seconds
            about = f"{part} {format_seconds(seconds)} s"
            records.append(_record(row, "measured", part, start, end, strength, about))
            start = end
        if row.paper is not None and not seen.differences:
            seconds = row.paper.approximate_runtime_s
            about = f"paper, about {seconds:g} s on 8 x A100"
            records.append(_record(row, "paper", "total", 0.0, seconds, chosen, about))
    return records


def time_chart(seen: AblationView, selected: str | None, ground: Ground) -> Layered:
    """Forward and backward per configuration, with a label each."""
    records = time_records(seen, selected)
    names = [row.name for row in seen.rows]
    lanes = [lane for lane in ("measured", "paper") if any(r["lane"] == lane for r in records)]
    ends = _ends(records, selected)
    longest = max((end["end"] for end in ends), default=1.0)
    x = alt.X(
        "end:Q",
        scale=alt.Scale(domain=[0, longest * 1.5], nice=False),
        axis=alt.Axis(title="seconds", tickCount=6),
    )
    tooltip = [alt.Tooltip("row:N", title="configuration"), alt.Tooltip("about:N", title="time")]
    place: dict[str, Any] = {
        "y": row_axis(names),
        "yOffset": alt.YOffset("lane:N", sort=lanes, scale=alt.Scale(domain=lanes)),
    }
    bars = alt.Chart(alt.InlineData(values=records)).encode(
        x=x, x2=alt.X2("start:Q"), color=row_colours(names), tooltip=tooltip,
        opacity=alt.Opacity("strength:Q", scale=None), **place,
    )  # fmt: skip
    measured = bars.transform_filter(alt.datum.lane == "measured").mark_bar()
    paper = (
        bars.transform_filter(alt.datum.lane == "paper")
        .mark_bar(fillOpacity=0.12, strokeWidth=1.5)
        .encode(stroke=alt.Stroke("row:N", scale=row_scale(names), legend=None))
    )
    figures = (
        alt.Chart(alt.InlineData(values=ends))
        .mark_text(**labels(ground))
        .encode(x=x, text=alt.Text("label:N"), opacity=alt.Opacity("text:Q", scale=None), **place)
    )
    return alt.layer(measured, paper, figures, height=height(len(names), len(lanes)))


def _record(
    row: Row, lane: str, part: str, start: float, end: float, strength: float, about: str
) -> dict[str, Any]:
    return {
        "row": row.name, "lane": lane, "part": part, "start": start, "end": end,
        "seconds": end - start, "strength": strength, "about": about,
    }  # fmt: skip


def _ends(records: Sequence[dict[str, Any]], selected: str | None) -> list[dict[str, Any]]:
    """Where each bar ends, with its label: "4.4 + 3 s" or "paper ~8.67 s"."""
    ends: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        key = (record["row"], record["lane"])
        seconds = format_seconds(record["seconds"])
        if record["lane"] == "paper":
            label = f"paper ~{seconds} s"
        else:
            label = f"{ends[key]['label']} + {seconds}" if key in ends else seconds
        text = 1.0 if selected in (None, record["row"]) else FADED_TEXT
        ends[key] = {"row": key[0], "lane": key[1], "end": record["end"], "label": label}
        ends[key]["text"] = text
    for end in ends.values():
        if end["lane"] == "measured":
            end["label"] += " s"
    return list(ends.values())
