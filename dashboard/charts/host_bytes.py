"""Host bytes per configuration on a log axis: measured, predicted, and the paper's.

Contract: measured bars are full, predicted ones dashed and called what-if, the paper's outlined and
only there for its own setting. A row with nothing on the host has a label and no bar. The chosen
row is drawn at full strength, the others faded.
Boundary: draws what was recorded or predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from dashboard.theme import FADED, FADED_TEXT, Ground, in_order
from profiler.analyses.levers import Combination
from profiler.reports.ablation_view import AblationView
from profiler.reports.units import format_factor, format_mib, mib

_SOURCES = ("measured", "what-if", "paper")


def host_bytes_records(
    seen: AblationView, predicted: Sequence[Combination] = ()
) -> list[dict[str, Any]]:
    """One record per bar: row, source, mib, label."""
    records = [
        {
            "row": one.name,
            "source": "what-if",
            "mib": mib(one.predicted_host_bytes),
            "label": f"what-if {'at most ' if one.upper_bound else ''}"
            f"{format_mib(one.predicted_host_bytes)} MiB",
        }
        for one in predicted
    ]
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


def host_bytes_chart(
    seen: AblationView,
    selected: str | None,
    ground: Ground,
    predicted: Sequence[Combination] = (),
) -> Layered:
    """The main chart of the page."""
    records = host_bytes_records(seen, predicted)
    x, floor = log_axis("MiB on the host, log scale", [record["mib"] for record in records], 0.25)
    for record in records:
        record.update(floor=floor, shown=max(record["mib"], floor))
    names = in_order(dict.fromkeys(record["row"] for record in records))
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
        .encode(x=x, x2=alt.X2("floor:Q"), color=colours)
    )
    guessed = (
        base.transform_filter(alt.datum.source == "what-if")
        .mark_bar(fillOpacity=0.3, strokeWidth=1.2, strokeDash=[5, 3])
        .encode(x=x, x2=alt.X2("floor:Q"), color=colours, stroke=stroke)
    )
    paper = (
        base.transform_filter(alt.datum.source == "paper")
        .mark_bar(fillOpacity=0.12, strokeWidth=1.5)
        .encode(
            x=x,
            x2=alt.X2("floor:Q"),
            color=colours,
            stroke=stroke,
        )
    )
    figures = base.mark_text(**labels(ground)).encode(
        x=x, text=alt.Text("label:N"), opacity=fade(selected, FADED_TEXT)
    )
    return alt.layer(measured, guessed, paper, figures, height=height(len(names), len(sources)))
