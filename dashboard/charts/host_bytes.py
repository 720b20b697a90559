"""Host bytes per configuration on a log axis, the paper's figures as outlines beside them.

Contract: the paper's bars appear only for its own setting. A row with nothing on the host has a
label and no bar. The chosen row is drawn at full strength, the others faded.
Boundary: draws what was recorded.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from dashboard.charts.frame import (
    Layered,
    fade,
    height,
    labels,
    log_axis,
    row_axis,
    row_colours,
    row_scale,
)
from dashboard.theme import FADED, FADED_TEXT, Ground
from profiler.reports.ablation_view import AblationView
from profiler.reports.units import format_factor, format_mib, mib

_SOURCES = ("measured", "paper")


def host_bytes_records(seen: AblationView) -> list[dict[str, Any]]:
    """One record per bar: row, source, mib, label."""
    records = []
    for row in seen.rows:
        factor = "" if row.reduction is None else f"  ({format_factor(row.reduction)})"
        label = f"{format_mib(row.host_bytes)} MiB{factor}"
        records.append(
            {"row": row.name, "source": "measured", "mib": mib(row.host_bytes), "label": label}
        )
        if row.paper is not None and not seen.differences:
            label = f"paper {row.paper.host_mib} MB  ({format_factor(row.paper.reduction)})"
            records.append(
                {"row": row.name, "source": "paper", "mib": row.paper.host_mib, "label": label}
            )
    return records


def host_bytes_chart(seen: AblationView, selected: str | None, ground: Ground) -> Layered:
    """The main chart of the page."""
    records = host_bytes_records(seen)
    x, floor = log_axis("MiB on the host, log scale", [record["mib"] for record in records], 0.25)
    for record in records:
        record.update(floor=floor, shown=max(record["mib"], floor))
    names = [row.name for row in seen.rows]
    sources = [source for source in _SOURCES if any(r["source"] == source for r in records)]
    base = alt.Chart(alt.InlineData(values=records)).encode(
        y=row_axis(names),
        yOffset=alt.YOffset("source:N", sort=sources, scale=alt.Scale(domain=sources)),
        opacity=fade(selected, FADED),
        tooltip=[
            alt.Tooltip("row:N", title="configuration"),
            alt.Tooltip("source:N"),
            alt.Tooltip("label:N", title="host bytes"),
        ],
    )
    x.shorthand = "shown:Q"
    colours = row_colours(names)
    stroke = alt.Stroke("row:N", scale=row_scale(names), legend=None)
    measured = (
        base.transform_filter(alt.datum.source == "measured")
        .mark_bar()
        .encode(x=x, x2="floor:Q", color=colours)
    )
    paper = (
        base.transform_filter(alt.datum.source == "paper")
        .mark_bar(fillOpacity=0.12, strokeWidth=1.5)
        .encode(
            x=x,
            x2="floor:Q",
            color=colours,
            stroke=stroke,
        )
    )
    figures = base.mark_text(**labels(ground)).encode(
        x=x, text="label:N", opacity=fade(selected, FADED_TEXT)
    )
    return alt.layer(measured, paper, figures).properties(height=height(len(names), len(sources)))
