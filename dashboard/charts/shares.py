"""One bar of 100 %: who owns the memory of a moment.

Contract: bytes per category in, in the one order; the legend gives name and size of every part,
however small, and a part wide enough carries its percentage.
Boundary: Altair only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, top_legend
from dashboard.theme import CATEGORY_NAMES, Ground, category_colour
from profiler.reports.units import format_bytes

_WIDE = 0.05  # share from which a percentage fits into its part
_INK = {"param": "#FFFFFF", "unexplained": "#FFFFFF"}  # on the dark colours; else black


def share_records(held: Mapping[str, int]) -> list[dict[str, Any]]:
    """One record per part that is not empty: its share, from where to where, its label."""
    whole = sum(held.values())
    records, start = [], 0.0
    for name, count in held.items():
        if not count:
            continue
        share = count / whole
        records.append(
            {
                "category": name,
                "part": f"{CATEGORY_NAMES[name]}, {format_bytes(count)}",
                "start": start,
                "end": start + share,
                "middle": start + share / 2,
                "percent": f"{100 * share:.1f} %",
                "label": f"{100 * share:.0f} %" if share >= _WIDE else "",
                "ink": _INK.get(name, "#000000"),
            }
        )
        start += share
    return records


def share_chart(held: Mapping[str, int], ground: Ground) -> Layered:
    """The bar with its legend below."""
    records = share_records(held)
    colour = alt.Color(
        "part:N",
        scale=alt.Scale(
            domain=[r["part"] for r in records],
            range=[category_colour(r["category"]) for r in records],
        ),
        legend=top_legend(
            [r["part"] for r in records], orient="bottom", direction="horizontal", labelLimit=400,
            symbolType="square",
        ),
    )  # fmt: skip
    x = alt.X("start:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(alt.InlineData(values=records))
    bars = base.mark_bar(height=54, stroke="white", strokeWidth=1).encode(
        x=x, x2=alt.X2("end:Q"), color=colour,
        tooltip=[alt.Tooltip("part:N", title="part"), alt.Tooltip("percent:N", title="share")],
    )  # fmt: skip
    figures = base.mark_text(fontSize=14, fontWeight="bold").encode(
        x=alt.X("middle:Q", scale=alt.Scale(domain=[0, 1])),
        text=alt.Text("label:N"),
        color=alt.Color("ink:N", scale=None),
    )
    return alt.layer(bars, figures, height=130)
