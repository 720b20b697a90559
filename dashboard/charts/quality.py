"""Perplexity against size: one point per measured setting, the dense model as a line.

Contract: rows without a perplexity, or without the figure on the axis, are not drawn; the page
lists them. Selecting a point reports its `row`, the index in the rows that were given.
Boundary: Altair only; measured figures in, MiB scaled here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, at_x
from dashboard.quality import DENSE, Quality
from dashboard.theme import METHOD_COLOURS, Ground, ink, method_colour
from profiler.reports.units import format_bytes, mib

CHOSEN = "chosen"
AXES = {
    "bits_per_weight": "bits per weight, everything counted",
    "bits": "bits of an index",
    "size_bytes": "MiB on disk",
}
_SHAPES = (
    "circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right",
    "triangle-left",
)  # fmt: skip


def axes(rows: Sequence[Quality]) -> list[str]:
    """The figures that at least one drawable compressed row has."""
    return [
        name
        for name in AXES
        if any(getattr(r, name) is not None and r.ppl and r.method != DENSE for r in rows)
    ]


def quality_records(rows: Sequence[Quality], across: str) -> list[dict[str, Any]]:
    """One record per point."""
    records = []
    for index, row in enumerate(rows):
        value = getattr(row, across)
        if value is None or not row.ppl or (row.method == DENSE and across != "size_bytes"):
            continue
        records.append(
            {
                "row": index,
                "method": row.method,
                "x": mib(value) if across == "size_bytes" else float(value),
                "perplexity": row.ppl,
                "bits": row.bits,
                "size": format_bytes(row.size_bytes),
                "seed": row.seed,
            }
        )
    return records


def quality_chart(rows: Sequence[Quality], across: str, ground: Ground) -> Layered:
    """The points; the selection `chosen` reports `row`."""
    records = quality_records(rows, across)
    methods = [name for name in METHOD_COLOURS if any(r["method"] == name for r in records)]
    methods += sorted({r["method"] for r in records} - set(methods))
    dense = sorted({row.ppl_dense for row in rows if row.ppl_dense})
    colour = alt.Color(
        "method:N",
        scale=alt.Scale(domain=methods, range=[method_colour(name) for name in methods]),
        legend=alt.Legend(
            title=None, orient="top", labelFontSize=13, symbolSize=140, symbolStrokeWidth=0.8
        ),
    )
    values = [r["perplexity"] for r in records] + dense or [1.0]
    y = alt.Y(
        "perplexity:Q",
        scale=alt.Scale(type="log", domain=[min(values) / 1.15, max(values) * 1.15], nice=False),
        axis=alt.Axis(title="held-out perplexity, log scale", format="~g", tickCount=6),
    )
    x = alt.X(
        "x:Q", scale=alt.Scale(zero=False, padding=30),
        axis=alt.Axis(title=AXES[across], tickCount=8, tickMinStep=0.1, format="~g"),
    )  # fmt: skip
    pick = alt.selection_point(name=CHOSEN, fields=["row"], on="click", empty=True)
    points = (
        alt.Chart(alt.InlineData(values=records))
        .mark_point(filled=True, size=170, stroke=ink(ground), strokeWidth=0.8)
        .encode(
            x=x,
            y=y,
            color=colour,
            shape=alt.Shape(
                "method:N",
                scale=alt.Scale(
                    domain=methods, range=[_SHAPES[i % len(_SHAPES)] for i in range(len(methods))]
                ),
                legend=None,
            ),
            opacity=alt.condition(pick, alt.value(0.95), alt.value(0.3)),
            tooltip=[
                alt.Tooltip("method:N"),
                alt.Tooltip("perplexity:Q", format=".4~g"),
                alt.Tooltip("bits:Q"),
                alt.Tooltip("size:N", title="on disk"),
                alt.Tooltip("seed:O"),
            ],
        )
        .add_params(pick)
    )
    return alt.layer(*_dense(dense, ground), points, height=430)


def _dense(values: Sequence[float], ground: Ground) -> list[alt.Chart]:
    """The dense model's perplexity as a band from the best to the worst seed, and its name."""
    if not values:
        return []
    at = [{"low": values[0], "high": values[-1], "label": f"dense, tuned as long: {values[0]:.3g}"}]
    base = alt.Chart(alt.InlineData(values=at))
    rules = [
        base.mark_rule(color=ink(ground), strokeDash=[5, 4], opacity=0.7).encode(y=f"{end}:Q")
        for end in (("low", "high") if len(values) > 1 else ("low",))
    ]
    text = base.mark_text(
        align="left", baseline="top", dx=6, dy=5, fontSize=12, color=ink(ground)
    ).encode(x=at_x(0), y=alt.Y("low:Q"), text=alt.Text("label:N"))
    return [*rules, text]
