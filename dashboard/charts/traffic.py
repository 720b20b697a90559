"""Bytes that crossed to the host and back, per configuration, on a log axis.

Contract: D2H at full strength, H2D lighter, each labelled. Bytes only: on a machine without a
bus they are counted and not timed, so no bandwidth is drawn.
Boundary: draws what was recorded; the page says what is simulated.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from dashboard.charts.frame import (
    Layered,
    height,
    labels,
    log_axis,
    row_axis,
    row_colours,
)
from dashboard.theme import FADED, FADED_TEXT, SECOND, Ground
from profiler.reports.ablation_view import AblationView
from profiler.reports.units import format_mib, mib

_DIRECTIONS = ("D2H", "H2D")


def traffic_records(seen: AblationView, selected: str | None) -> list[dict[str, Any]]:
    """One record per bar: row, direction, mib, label, strength."""
    records = []
    for row in seen.rows:
        chosen = selected is None or row.name == selected
        for direction, count in zip(_DIRECTIONS, (row.d2h_bytes, row.h2d_bytes), strict=True):
            if count is None:
                continue
            records.append(
                {
                    "row": row.name,
                    "direction": direction,
                    "mib": mib(count),
                    "label": f"{direction} {format_mib(count)} MiB",
                    "strength": (1.0 if direction == "D2H" else SECOND) * (1 if chosen else FADED),
                    "text": 1.0 if chosen else FADED_TEXT,
                }
            )
    return records


def traffic_chart(seen: AblationView, selected: str | None, ground: Ground) -> Layered:
    """D2H and H2D per configuration."""
    records = traffic_records(seen, selected)
    x, floor = log_axis("MiB, log scale", [record["mib"] for record in records], 0.7)
    for record in records:
        record.update(floor=floor, shown=max(record["mib"], floor))
    names = [row.name for row in seen.rows]
    x.shorthand = "shown:Q"
    base = alt.Chart(alt.InlineData(values=records)).encode(
        x=x,
        y=row_axis(names),
        yOffset=alt.YOffset(
            "direction:N", sort=list(_DIRECTIONS), scale=alt.Scale(domain=list(_DIRECTIONS))
        ),
        tooltip=[
            alt.Tooltip("row:N", title="configuration"),
            alt.Tooltip("label:N", title="bytes"),
        ],
    )
    bars = base.mark_bar().encode(
        x2=alt.X2("floor:Q"),
        color=row_colours(names),
        opacity=alt.Opacity("strength:Q", scale=None),
    )
    figures = base.mark_text(**labels(ground)).encode(
        text=alt.Text("label:N"), opacity=alt.Opacity("text:Q", scale=None)
    )
    return alt.layer(bars, figures, height=height(len(names), 2))
