"""Streams of work over time, one line each: who is busy, and who waits.

Contract: pieces of work in seconds in, milliseconds or microseconds drawn, whichever suits the
length. At most `MOST_PIECES` pieces; thinning is the caller's.
Boundary: Altair only; knows nothing of devices or layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, at_y
from dashboard.theme import Ground, ink

MOST_PIECES = 4_000


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One piece of work, in seconds."""

    lane: str
    start: float
    end: float
    about: str


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of the time with a name, in seconds: forward, backward."""

    name: str
    start: float
    end: float


def unit_of(seconds: float) -> tuple[float, str]:
    """What to multiply seconds by, and the name of the unit."""
    return (1e3, "ms") if seconds >= 1e-3 else (1e6, "microseconds")


def lane_records(pieces: Sequence[Piece], scale: float) -> list[dict[str, Any]]:
    """One record per piece of work, in the unit of the axis."""
    return [
        {
            "lane": piece.lane, "start": piece.start * scale, "end": piece.end * scale,
            "about": piece.about,
        }
        for piece in pieces
    ]  # fmt: skip


def lane_chart(
    pieces: Sequence[Piece], stretches: Sequence[Stretch], colours: Mapping[str, str],
    ground: Ground,
) -> Layered:  # fmt: skip
    """The lanes in the order of `colours`, each with its colour, named stretches behind them."""
    ends = [each.end for each in pieces] + [each.end for each in stretches]
    last = max(ends, default=0.0)
    scale, unit = unit_of(last)
    lanes = list(colours)
    x = alt.X(
        "start:Q",
        scale=alt.Scale(domain=[0, last * scale or 1.0], nice=False),
        axis=alt.Axis(title=unit, grid=False),
    )
    bars = (
        alt.Chart(alt.InlineData(values=_alternating(lane_records(pieces, scale))))
        .mark_bar(strokeWidth=1)
        .encode(
            x=x, x2=alt.X2("end:Q"),
            y=alt.Y(
                "lane:N", sort=lanes, scale=alt.Scale(domain=lanes, paddingInner=0.25),
                axis=alt.Axis(title=None, labelFontSize=13, labelLimit=260, ticks=False,
                              domain=False, labelOverlap=False),
            ),
            color=alt.Color(
                "lane:N", scale=alt.Scale(domain=lanes, range=list(colours.values())), legend=None
            ),
            # a thin piece is its outline, in its own colour
            stroke=alt.Stroke(
                "lane:N", scale=alt.Scale(domain=lanes, range=list(colours.values())), legend=None
            ),
            opacity=alt.Opacity("strength:Q", scale=None),
            tooltip=[
                alt.Tooltip("lane:N", title="stream"), alt.Tooltip("about:N", title="what"),
                alt.Tooltip("start:Q", title=f"from, {unit}", format=".4~g"),
                alt.Tooltip("end:Q", title=f"to, {unit}", format=".4~g"),
            ],
        )
    )  # fmt: skip
    return alt.layer(*_stretches(stretches, scale, x, ground), bars, height=90 + 46 * len(lanes))


def _alternating(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of a lane in two strengths, so that they are told apart."""
    seen: Counter[str] = Counter()
    found = []
    for record in records:
        found.append({**record, "strength": 0.7 if seen[record["lane"]] % 2 else 1.0})
        seen[record["lane"]] += 1
    return found


def _stretches(
    stretches: Sequence[Stretch], scale: float, x: alt.X, ground: Ground
) -> list[alt.Chart]:
    last = max((each.end for each in stretches), default=0.0)
    records = [
        {"name": each.name, "start": each.start * scale, "end": each.end * scale, "odd": i % 2,
         "late": each.start > 0.75 * last}
        for i, each in enumerate(stretches)
    ]  # fmt: skip
    base = alt.Chart(alt.InlineData(values=records)).encode(x=x)
    shades = (
        base.transform_filter(alt.datum.odd == 1)
        .mark_rect(color=ink(ground), opacity=0.07)
        .encode(x2=alt.X2("end:Q"))
    )
    above: dict[str, Any] = {"baseline": "bottom", "fontSize": 12, "color": ink(ground)}
    early = (
        base.transform_filter(~alt.datum.late)
        .mark_text(align="left", dx=3, **above)
        .encode(y=at_y(-3), text=alt.Text("name:N"))
    )
    late = (  # it would reach beyond the chart
        base.transform_filter(alt.datum.late)
        .mark_text(align="right", **above)
        .encode(x=alt.X("end:Q"), y=at_y(-3), text=alt.Text("name:N"))
    )
    return [shades, early, late]
