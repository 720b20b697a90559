"""Soft clustering of weights: what each becomes, and how strongly each feels one gradient.

Contract: weights and their images as they were computed, nothing smoothed.
Boundary: Altair only; the figures come from dashboard.lessons.kmeans.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, top_legend
from dashboard.lessons.kmeans import ASKED, GROUPS, Clustered
from dashboard.theme import Ground, ink
from profiler.reports.theme import BLUE, GREY, ORANGE, VERMILION

GROUP_WORDS = {
    "itself": "the weight itself", "own cluster": "others of its cluster",
    "other clusters": "weights of other clusters",
}  # fmt: skip
COLOURS = dict(zip(GROUPS, (VERMILION, ORANGE, BLUE), strict=True))
CURVES = {"hard: the nearest centroid": GREY, "soft: DKM": VERMILION}


def pull_records(found: Clustered) -> list[dict[str, Any]]:
    """One record per weight: where it lies and the gradient that it gets."""
    return [
        {"weight": weight, "gradient": gradient, "group": GROUP_WORDS[group]}
        for weight, gradient, group in zip(found.weights, found.gradient, found.groups, strict=True)
    ]


def curve_records(found: Clustered) -> list[dict[str, Any]]:
    """One record per weight and kind of clustering."""
    return [
        {"weight": weight, "clustered": value, "kind": kind}
        for kind, values in zip(CURVES, (found.hard, found.soft), strict=True)
        for weight, value in zip(found.weights, values, strict=True)
    ]


def pull_chart(found: Clustered, ground: Ground) -> Layered:
    """The gradient of one clustered weight with respect to every weight."""
    words = list(GROUP_WORDS.values())
    base = alt.Chart(alt.InlineData(values=pull_records(found)))
    stems = base.mark_rule(strokeWidth=1.2, opacity=0.55).encode(
        x=_x(), y=_y(),
        y2=alt.Y2Datum(0), color=_colour(words),
    )  # fmt: skip
    dots = base.mark_circle(size=34, opacity=0.9).encode(
        x=_x(),
        y=_y(),
        color=_colour(words),
        tooltip=[
            alt.Tooltip("group:N", title="which"),
            alt.Tooltip("weight:Q", format=".4f"),
            alt.Tooltip("gradient:Q", format=".3g"),
        ],
    )
    return alt.layer(_centroids(found, ground), stems, dots, height=360)


def curve_chart(found: Clustered, ground: Ground) -> Layered:
    """What each weight becomes, softly and by its nearest centroid."""
    lines = (
        alt.Chart(alt.InlineData(values=curve_records(found)))
        .mark_line(strokeWidth=2.5)
        .encode(
            x=_x(),
            y=alt.Y("clustered:Q", axis=alt.Axis(title="what it becomes")),
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=list(CURVES), range=list(CURVES.values())),
                legend=top_legend(list(CURVES)),
            ),
            tooltip=[
                alt.Tooltip("kind:N"),
                alt.Tooltip("weight:Q", format=".4f"),
                alt.Tooltip("clustered:Q", format=".4f"),
            ],
        )
    )
    asked = (
        alt.Chart(
            alt.InlineData(values=[{"weight": found.weights[ASKED], "soft": found.soft[ASKED]}])
        )
        .mark_point(size=120, filled=False, strokeWidth=2.5, color=ink(ground))
        .encode(x=_x(), y=alt.Y("soft:Q"))
    )
    return alt.layer(_centroids(found, ground), lines, asked, height=300)


def _x() -> alt.X:
    return alt.X(
        "weight:Q", axis=alt.Axis(title="weight", grid=False, tickCount=8),
        scale=alt.Scale(nice=False, zero=False, padding=12),
    )  # fmt: skip


def _y() -> alt.Y:
    """Linear near zero and logarithmic beyond, so that small shares of many are seen too."""
    return alt.Y(
        "gradient:Q",
        axis=alt.Axis(
            title="gradient that it gets (symlog)", format="~g",
            values=[-1, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1, 3],
        ),
        scale=alt.Scale(type="symlog", constant=0.01),
    )  # fmt: skip


def _colour(words: list[str]) -> alt.Color:
    return alt.Color(
        "group:N",
        scale=alt.Scale(domain=words, range=list(COLOURS.values())),
        legend=top_legend(words),
    )


def _centroids(found: Clustered, ground: Ground) -> alt.Chart:
    values = [{"weight": each, "about": "centroid"} for each in found.centroids]
    rules: alt.Chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_rule(strokeDash=[4, 4], color=ink(ground), opacity=0.4)
        .encode(x=_x(), tooltip=[alt.Tooltip("about:N"), alt.Tooltip("weight:Q")])
    )
    return rules
