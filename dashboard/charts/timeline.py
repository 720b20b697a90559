"""Memory over time by category: step areas, phase bands, a rule at the peak; a map with a brush.

Contract: at most `MOST_ROWS` rows reach the browser; the highest point of the areas is the highest
of the timeline. A category that never holds anything is left out. MiB are 2**20, scaled here.
Seconds count from the first moment of the whole, in the map and in every part of it.
Boundary: Altair only; thinning is profiler.analyses.timeline's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, at_y, top_legend
from dashboard.theme import CATEGORY_NAMES, Ground, category_colour, ink
from profiler.analyses.timeline import CATEGORIES, Timeline
from profiler.reports.units import format_mib, mib

MOST_ROWS = 12_000
BRUSH = "brush"
_NAMED_BANDS = 16  # more steps than these have no name at their top


def bins() -> int:
    """How many moments may be drawn: every one has a row per category, the end has them again."""
    return MOST_ROWS // len(CATEGORIES) - 1


@dataclass(frozen=True)
class Part:
    """Which part of the run's clock is drawn, and where its seconds begin."""

    origin_ns: int
    start_ns: int
    end_ns: int

    def seconds(self, time_ns: int) -> float:
        return (time_ns - self.origin_ns) / 1e9

    @property
    def domain(self) -> list[float]:
        return [self.seconds(self.start_ns), self.seconds(self.end_ns)]


def whole(seen: Timeline) -> Part:
    """All of a timeline."""
    if not seen.moments:
        return Part(0, 0, 0)
    first, last = seen.moments[0].time_ns, seen.moments[-1].time_ns
    return Part(first, first, last)


def brushed(seen: Timeline, event: Any) -> Part | None:
    """The part of `seen` that is chosen on its map; None where none is."""
    span = event.selection.get(BRUSH, {}).get("s") if event else None
    if not span or len(span) != 2:
        return None
    origin = whole(seen).origin_ns
    start, end = sorted(origin + round(float(each) * 1e9) for each in span)
    return Part(origin, start, end) if end > start else None


def area_records(seen: Timeline, part: Part | None = None) -> list[dict[str, Any]]:
    """One record per moment and category that is ever used.

    Of a part, what held at its start is drawn from there, and what held last to its end.
    """
    used = [i for i in range(len(CATEGORIES)) if any(m.bytes[i] for m in seen.moments)]
    window = part or whole(seen)
    at = [(max(moment.time_ns, window.start_ns), moment) for moment in seen.moments]
    if at and at[-1][0] < window.end_ns:
        at.append((window.end_ns, at[-1][1]))
    return [
        {
            "s": window.seconds(time_ns),
            "c": CATEGORY_NAMES[CATEGORIES[i]],
            "o": i,
            "m": round(mib(moment.bytes[i]), 6),
        }
        for time_ns, moment in at
        for i in used
    ]


def band_records(seen: Timeline, part: Part | None = None) -> list[dict[str, Any]]:
    """One record per stretch of a step, in seconds."""
    window = part or whole(seen)
    records = []
    for band in seen.bands:
        start, stop = max(band.start_ns, window.start_ns), min(band.end_ns, window.end_ns)
        if stop > start:
            name = band.name or f"step {band.step}"
            records.append(
                {
                    "start": window.seconds(start),
                    "end": window.seconds(stop),
                    "part": "forward" if band.part == "forward" else "backward, optimizer",
                    "name": name,
                    "label": name if band.part == "forward" else "",
                }
            )
    return records


def map_records(seen: Timeline) -> list[dict[str, float]]:
    """One record per moment: all of its memory."""
    window = whole(seen)
    return [
        {"s": window.seconds(moment.time_ns), "m": round(mib(moment.total_bytes), 6)}
        for moment in seen.moments
    ]


def map_chart(seen: Timeline, ground: Ground) -> alt.Chart:
    """The whole, small; the selection `brush` reports a span of `s`, seconds."""
    brush = alt.selection_interval(name=BRUSH, encodings=["x"])
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=map_records(seen)))
        .mark_area(interpolate="step-after", color=ink(ground), opacity=0.45)
        .encode(
            x=alt.X(
                "s:Q", axis=alt.Axis(title=None, grid=False), scale=alt.Scale(nice=False)
            ),
            y=alt.Y(
                "m:Q", axis=alt.Axis(title="MiB", tickCount=2, grid=False),
                scale=alt.Scale(domain=[0, _top(seen)], nice=False),
            ),
            tooltip=[
                alt.Tooltip("s:Q", title="seconds", format=".4~g"),
                alt.Tooltip("m:Q", title="MiB", format=".4~g"),
            ],
        )
        .add_params(brush)
        .properties(height=90)
    )  # fmt: skip
    return chart


def by_category(shown: list[str], colours: Mapping[str, str]) -> dict[str, Any]:
    """How areas are told apart: colour, order and what a pointer shows."""
    return {
        "color": alt.Color(
            "c:N",
            scale=alt.Scale(domain=shown, range=[colours[name] for name in shown]),
            legend=top_legend(shown),
        ),
        "order": alt.Order("o:Q"),
        "tooltip": [
            alt.Tooltip("c:N", title="category"),
            alt.Tooltip("m:Q", title="MiB", format=".4~g"),
            alt.Tooltip("s:Q", title="seconds", format=".4~g"),
        ],
    }


def timeline_chart(seen: Timeline, ground: Ground, part: Part | None = None) -> Layered:
    """The areas with their bands, of the whole or of a part of it."""
    records = area_records(seen, part)
    shown = list(dict.fromkeys(record["c"] for record in records))
    colours = {CATEGORY_NAMES[name]: category_colour(name) for name in CATEGORIES}
    window = part or whole(seen)
    areas = (
        alt.Chart(alt.InlineData(values=records))
        .mark_area(interpolate="step-after", line=False)
        .encode(
            x=_x("s:Q", window),
            y=alt.Y(
                "m:Q",
                stack="zero",
                axis=alt.Axis(title="MiB"),
                scale=alt.Scale(domain=[0, _top(seen)], nice=False),
            ),
            **by_category(shown, colours),
        )
    )
    layers = [
        *_bands(band_records(seen, part), window, ground),
        areas,
        *_peak(seen, window, ground),
    ]
    return alt.layer(*layers, height=420)


def _top(seen: Timeline) -> float:
    """The end of the MiB axis: room above the peak for its label and the names of steps."""
    peak = 0.0 if seen.peak is None else mib(seen.peak.total_bytes)
    return peak * 1.18 or 1.0


def _x(field: str, window: Part) -> alt.X:
    """The axis of time; every layer says the same, lest one of them widens it."""
    scale = alt.Scale(nice=False, zero=False)
    if window.end_ns > window.start_ns:
        scale = alt.Scale(nice=False, zero=False, domain=window.domain)
    return alt.X(field, axis=alt.Axis(title="seconds", grid=False), scale=scale)


def _bands(records: list[dict[str, Any]], window: Part, ground: Ground) -> list[alt.Chart]:
    base = alt.Chart(alt.InlineData(values=records))
    shades = (
        base.transform_filter(alt.datum.part != "forward")
        .mark_rect(color=ink(ground), opacity=0.07)
        .encode(
            x=_x("start:Q", window),
            x2=alt.X2("end:Q"),
            tooltip=[alt.Tooltip("name:N", title="backward of")],
        )
    )
    starts = (
        base.transform_filter(alt.datum.part == "forward")
        .mark_rule(color=ink(ground), opacity=0.3, strokeWidth=1)
        .encode(x=_x("start:Q", window))
    )
    named = [record for record in records if record["label"]]
    if len(named) > _NAMED_BANDS:
        return [shades]
    names = (
        alt.Chart(alt.InlineData(values=_apart(named)))
        .mark_text(align="left", baseline="top", dx=3, fontSize=12, color=ink(ground))
        .encode(x=_x("start:Q", window), y=at_y(2), text=alt.Text("label:N"))
    )
    return [shades, starts, names]


def _apart(named: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The names that have room: one that would cover the one before it is left out."""
    whole = max((record["end"] for record in named), default=0.0) or 1.0
    kept: list[dict[str, Any]] = []
    for record in named:
        if not kept or record["start"] - kept[-1]["start"] > whole * (
            0.012 * len(kept[-1]["label"]) + 0.01
        ):
            kept.append(record)
    return kept


def _peak(seen: Timeline, window: Part, ground: Ground) -> list[alt.Chart]:
    if seen.peak is None:
        return []
    time_ns = max(seen.peak.time_ns, window.start_ns)
    length = max(window.end_ns - window.start_ns, 1)
    late = (time_ns - window.start_ns) / length > 0.75
    at = {
        "s": window.seconds(time_ns),
        "m": mib(seen.peak.total_bytes),
        "label": f"peak {format_mib(seen.peak.total_bytes)} MiB",
    }
    base = alt.Chart(alt.InlineData(values=[at]))
    rule = base.mark_rule(color=ink(ground), strokeDash=[4, 3]).encode(x=_x("s:Q", window))
    text = base.mark_text(
        align="right" if late else "left", dx=-6 if late else 6, dy=-9, fontSize=13,
        fontWeight="bold", color=ink(ground),
    ).encode(x=_x("s:Q", window), y=alt.Y("m:Q"), text=alt.Text("label:N"))  # fmt: skip
    return [rule, text]
