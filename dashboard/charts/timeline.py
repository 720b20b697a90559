"""Memory over time by category: step areas, phase bands, a rule at the peak, a brush.

Contract: at most `MOST_ROWS` rows reach the browser; the highest point of the areas is the highest
of the timeline. A category that never holds anything is left out. MiB are 2**20, scaled here.
Boundary: Altair only; thinning is profiler.analyses.timeline's.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from dashboard.charts.frame import Layered
from dashboard.theme import CATEGORY_NAMES, Ground, category_colour, ink
from profiler.analyses.timeline import CATEGORIES, Timeline
from profiler.reports.units import format_mib, mib

MOST_ROWS = 12_000
BRUSH = "brush"
_NAMED_BANDS = 16  # more steps than these have no name at their top


def bins() -> int:
    """How many moments may be drawn: every one has a row per category."""
    return MOST_ROWS // len(CATEGORIES)


def area_records(seen: Timeline) -> list[dict[str, Any]]:
    """One record per moment and category that is ever used."""
    used = [i for i in range(len(CATEGORIES)) if any(m.bytes[i] for m in seen.moments)]
    origin = seen.moments[0].time_ns if seen.moments else 0
    return [
        {
            "s": (moment.time_ns - origin) / 1e9,
            "c": CATEGORY_NAMES[CATEGORIES[i]],
            "o": i,
            "m": round(mib(moment.bytes[i]), 6),
        }
        for moment in seen.moments
        for i in used
    ]


def band_records(seen: Timeline) -> list[dict[str, Any]]:
    """One record per stretch of a step, in seconds from the first moment."""
    if not seen.moments:
        return []
    origin, end = seen.moments[0].time_ns, seen.moments[-1].time_ns
    records = []
    for band in seen.bands:
        start, stop = max(band.start_ns, origin), min(band.end_ns, end)
        if stop > start:
            name = band.name or f"step {band.step}"
            records.append(
                {
                    "start": (start - origin) / 1e9,
                    "end": (stop - origin) / 1e9,
                    "part": "forward" if band.part == "forward" else "backward, optimizer",
                    "name": name,
                    "label": name if band.part == "forward" else "",
                }
            )
    return records


def timeline_chart(seen: Timeline, ground: Ground) -> Layered:
    """The areas with their bands; the selection `brush` reports a span of `s`, seconds."""
    records = area_records(seen)
    shown = list(dict.fromkeys(record["c"] for record in records))
    colours = {CATEGORY_NAMES[name]: category_colour(name) for name in CATEGORIES}
    x = alt.X("s:Q", axis=alt.Axis(title="seconds", grid=False), scale=alt.Scale(nice=False))
    brush = alt.selection_interval(name=BRUSH, encodings=["x"])
    areas = (
        alt.Chart(alt.InlineData(values=records))
        .mark_area(interpolate="step-after", line=False)
        .encode(
            x=x,
            y=alt.Y(
                "m:Q",
                stack="zero",
                axis=alt.Axis(title="MiB"),
                scale=alt.Scale(domain=[0, _top(seen)], nice=False),
            ),
            color=alt.Color(
                "c:N",
                scale=alt.Scale(domain=shown, range=[colours[name] for name in shown]),
                legend=alt.Legend(title=None, orient="top", labelLimit=300, labelFontSize=13),
            ),
            order=alt.Order("o:Q"),
            tooltip=[
                alt.Tooltip("c:N", title="category"),
                alt.Tooltip("m:Q", title="MiB", format=".4~g"),
                alt.Tooltip("s:Q", title="seconds", format=".4~g"),
            ],
        )
        .add_params(brush)
    )
    layers = [*_bands(band_records(seen), ground), areas, *_peak(seen, ground)]
    return alt.layer(*layers).properties(height=420)


def _top(seen: Timeline) -> float:
    """The end of the MiB axis: room above the peak for its label and the names of steps."""
    peak = 0.0 if seen.peak is None else mib(seen.peak.total_bytes)
    return peak * 1.18 or 1.0


def _bands(records: list[dict[str, Any]], ground: Ground) -> list[alt.Chart]:
    base = alt.Chart(alt.InlineData(values=records))
    shades = (
        base.transform_filter(alt.datum.part != "forward")
        .mark_rect(color=ink(ground), opacity=0.07)
        .encode(x="start:Q", x2="end:Q", tooltip=[alt.Tooltip("name:N", title="backward of")])
    )
    starts = (
        base.transform_filter(alt.datum.part == "forward")
        .mark_rule(color=ink(ground), opacity=0.3, strokeWidth=1)
        .encode(x="start:Q")
    )
    named = [record for record in records if record["label"]]
    if len(named) > _NAMED_BANDS:
        return [shades]
    names = (
        alt.Chart(alt.InlineData(values=_apart(named)))
        .mark_text(align="left", baseline="top", dx=3, fontSize=12, color=ink(ground))
        .encode(x="start:Q", y=alt.value(2), text="label:N")
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


def _peak(seen: Timeline, ground: Ground) -> list[alt.Chart]:
    if seen.peak is None:
        return []
    origin = seen.moments[0].time_ns
    length = max(seen.moments[-1].time_ns - origin, 1)
    late = (seen.peak.time_ns - origin) / length > 0.75
    at = {
        "s": (seen.peak.time_ns - origin) / 1e9,
        "m": mib(seen.peak.total_bytes),
        "label": f"peak {format_mib(seen.peak.total_bytes)} MiB",
    }
    base = alt.Chart(alt.InlineData(values=[at]))
    rule = base.mark_rule(color=ink(ground), strokeDash=[4, 3]).encode(x="s:Q")
    text = base.mark_text(
        align="right" if late else "left", dx=-6 if late else 6, dy=-9, fontSize=13,
        fontWeight="bold", color=ink(ground),
    ).encode(x="s:Q", y="m:Q", text="label:N")  # fmt: skip
    return [rule, text]
