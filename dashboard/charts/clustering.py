"""Soft k-means in pictures: weights and where their centroids go, and who belongs to whom.

Contract: the three charts share the axis of weight values; nothing is drawn that was not computed.
Boundary: Altair only; the clustering is dashboard.lessons.centroids's.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, top_legend
from dashboard.lessons.centroids import Clustered
from dashboard.theme import Ground, ink, surface
from profiler.reports.theme import BLUE, ORANGE, VERMILION

LEFT = 62  # pixels of every left axis: the charts stand exactly below each other
SERIES = {"weights": BLUE, "softly clustered": ORANGE}


def weight_records(seen: Clustered) -> list[dict[str, Any]]:
    """One record per bin and series."""
    both = zip(SERIES, (seen.counts, seen.soft_counts), strict=True)
    return [
        {"start": seen.edges[i], "end": seen.edges[i + 1], "count": count, "zero": 0, "of": name}
        for name, counts in both
        for i, count in enumerate(counts)
    ]


def path_records(seen: Clustered) -> list[dict[str, Any]]:
    """One record per centroid and update."""
    return [
        {"cluster": f"c{index}", "update": update, "value": value, "size": seen.sizes[index]}
        for update, centroids in enumerate(seen.paths)
        for index, value in enumerate(centroids)
    ]


def attention_records(seen: Clustered) -> list[dict[str, Any]]:
    """One record per weight and centroid; a weight's column reaches to the next weight."""
    order = sorted(range(len(seen.paths[-1])), key=lambda index: seen.paths[-1][index])
    ends = [*seen.points[1:], seen.edges[-1]]
    return [
        {
            "start": point, "end": end, "share": round(seen.attention[number][index], 4),
            "centroid": f"{seen.paths[-1][index]:+.4f}", "rank": rank,
        }
        for number, (point, end) in enumerate(zip(seen.points, ends, strict=True))
        for rank, index in enumerate(order)
    ]  # fmt: skip


def histogram_chart(seen: Clustered, ground: Ground) -> Layered:
    """Weights before and after, and the centroids as rules."""
    bars = (
        alt.Chart(alt.InlineData(values=weight_records(seen)))
        .mark_rect(opacity=0.65)
        .encode(
            x=_values(seen, "start:Q", title="value of a weight"),
            x2=alt.X2("end:Q"),
            y=alt.Y("count:Q", axis=_left("weights")),
            y2=alt.Y2("zero:Q"),
            color=alt.Color(
                "of:N",
                scale=alt.Scale(domain=list(SERIES), range=list(SERIES.values())),
                legend=top_legend(list(SERIES)),
            ),
            tooltip=[alt.Tooltip("of:N", title="which"), alt.Tooltip("count:Q")],
        )
    )
    ends = [record for record in path_records(seen) if record["update"] == len(seen.paths) - 1]
    rules = (
        alt.Chart(alt.InlineData(values=ends))
        .mark_rule(color=ink(ground), strokeWidth=1.2)
        .encode(
            x=alt.X("value:Q"),
            tooltip=[
                alt.Tooltip("value:Q", title="centroid", format=".4f"),
                alt.Tooltip("size:Q", title="weights nearest"),
            ],
        )
    )
    return alt.layer(bars, rules, height=320)


def paths_chart(seen: Clustered, ground: Ground) -> Layered:
    """Where each centroid was after every update, downwards."""
    records = path_records(seen)
    base = alt.Chart(alt.InlineData(values=records)).encode(
        x=_values(seen, "value:Q", title="value of a centroid"),
        y=alt.Y(
            "update:Q", scale=alt.Scale(reverse=True, domain=[0, max(1, len(seen.paths) - 1)]),
            axis=_left("update", tickMinStep=1, format="d"),
        ),
        detail=alt.Detail("cluster:N"),
    )  # fmt: skip
    lines = base.mark_line(color=VERMILION, strokeWidth=1.6).encode(order=alt.Order("update:Q"))
    dots = base.mark_point(filled=True, size=36, color=VERMILION).encode(
        tooltip=[
            alt.Tooltip("update:Q"),
            alt.Tooltip("value:Q", title="centroid", format=".4f"),
        ]
    )
    return alt.layer(lines, dots, height=260)


def attention_chart(seen: Clustered, ground: Ground) -> alt.Chart:
    """How strongly each weight belongs to each centroid."""
    records = attention_records(seen)
    names = [record["centroid"] for record in records[: len(seen.paths[-1])]]
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=records))
        .mark_rect(strokeWidth=0)
        .encode(
            x=_values(seen, "start:Q", title="weight"),
            x2=alt.X2("end:Q"),
            y=alt.Y(
                "rank:O", sort="descending",
                axis=_left("centroid", labelExpr=f"{names}[datum.value]", ticks=False),
            ),
            color=alt.Color(
                "share:Q",
                scale=alt.Scale(domain=[0, 1], range=[surface(ground), BLUE]),
                legend=alt.Legend(
                    title="attention", orient="top", gradientLength=220, tickCount=5
                ),
            ),
            tooltip=[
                alt.Tooltip("start:Q", title="weight", format=".4f"),
                alt.Tooltip("centroid:N"),
                alt.Tooltip("share:Q", title="attention", format=".3f"),
            ],
        )
        .properties(height=170 + 24 * max(4, len(names)))
    )  # fmt: skip
    return chart


def _values(seen: Clustered, field: str, title: str | None) -> alt.X:
    scale = alt.Scale(domain=[seen.edges[0], seen.edges[-1]], nice=False)
    return alt.X(field, scale=scale, axis=alt.Axis(title=title, tickCount=8, format="~g"))


def _left(title: str, **settings: Any) -> alt.Axis:
    return alt.Axis(title=title, minExtent=LEFT, maxExtent=LEFT, **settings)
