"""Bytes held for backward per optimization, on a log axis, against the weight's own size.

Contract: measured bytes in, MiB drawn; each row in its own colour; a rule at the weight's size.
Boundary: Altair only; the figures come from dashboard.lessons.clustering.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, at_y, height, labels, log_axis, row_axis, row_colours
from dashboard.lessons.clustering import Comparison
from dashboard.theme import Ground, ink
from profiler.reports.units import format_bytes, format_factor, mib


def held_records(found: Comparison) -> list[dict[str, Any]]:
    """One record per row: MiB and what it is in weights."""
    most = found.held("none")
    return [
        {
            "row": row.name,
            "mib": mib(row.host_bytes),
            "label": f"{format_bytes(row.host_bytes)}, {_times(most, row.host_bytes)}",
        }
        for row in found.rows
    ]


def held_chart(found: Comparison, ground: Ground) -> Layered:
    """The bars, and the weight as a rule across them."""
    records = held_records(found)
    weight = mib(found.weight_bytes)
    x, floor = log_axis("MiB kept for backward, log scale",
                        [weight, *(record["mib"] for record in records)], 0.35)  # fmt: skip
    for record in records:
        record["floor"] = floor
    names = [record["row"] for record in records]
    base = alt.Chart(alt.InlineData(values=records)).encode(
        y=row_axis(names), x=x,
        tooltip=[alt.Tooltip("row:N", title="optimizations"), alt.Tooltip("label:N", title="kept")],
    )  # fmt: skip
    bars = base.mark_bar().encode(x2=alt.X2("floor:Q"), color=row_colours(names))
    figures = base.mark_text(**labels(ground)).encode(text=alt.Text("label:N"))
    at = [{"mib": weight, "label": "the weight itself"}]
    rule = alt.Chart(alt.InlineData(values=at)).mark_rule(
        strokeDash=[5, 4], strokeWidth=1.5, color=ink(ground)
    ).encode(x=x)  # fmt: skip
    name = alt.Chart(alt.InlineData(values=at)).mark_text(
        align="left", baseline="bottom", dx=4, fontSize=12, color=ink(ground)
    ).encode(x=x, y=at_y(-2), text=alt.Text("label:N"))  # fmt: skip
    return alt.layer(bars, rule, figures, name, height=height(len(names), 1) + 60)


def _times(most: int, held: int) -> str:
    """ "2.9x less", "1.3x more", or "all"."""
    if held == most:
        return "all"
    return (
        f"{format_factor(most / held)} less"
        if held < most
        else f"{format_factor(held / most)} more"
    )
