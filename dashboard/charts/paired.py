"""Two steps over time, each in a chart of its own on the same axes.

Contract: time starts at each step's own first moment; both charts end at the longer one's end and
at the higher one's peak, so widths and heights compare. At most `MOST_ROWS` rows in both together.
Boundary: Altair only; thinning is profiler.analyses.timeline's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, at_x
from dashboard.charts.timeline import MOST_ROWS, area_records, by_category
from dashboard.theme import CATEGORY_NAMES, Ground, category_colour, ink
from profiler.analyses.timeline import CATEGORIES, Timeline
from profiler.reports.units import format_mib, mib


def paired_bins() -> int:
    """How many moments of each side may be drawn."""
    return MOST_ROWS // (2 * len(CATEGORIES))


def paired_records(sides: Mapping[str, Timeline]) -> list[dict[str, Any]]:
    """One record per side, moment and category."""
    return [{"side": name, **each} for name, seen in sides.items() for each in area_records(seen)]


def paired_chart(seen: Timeline, sides: Mapping[str, Timeline], ground: Ground) -> Layered:
    """The chart of one side, on the axes of all."""
    everything = paired_records(sides)
    shown = [CATEGORY_NAMES[name] for name in CATEGORIES]
    shown = [name for name in shown if any(record["c"] == name for record in everything)]
    colours = {CATEGORY_NAMES[name]: category_colour(name) for name in CATEGORIES}
    top = max((mib(s.peak.total_bytes) for s in sides.values() if s.peak), default=0.0)
    end = max((record["s"] for record in everything), default=0.0)
    areas = (
        alt.Chart(alt.InlineData(values=area_records(seen)))
        .mark_area(interpolate="step-after", line=False)
        .encode(
            x=alt.X(
                "s:Q",
                axis=alt.Axis(title="seconds since the step began", grid=False),
                scale=alt.Scale(domain=[0, end or 1.0], nice=False),
            ),
            y=alt.Y(
                "m:Q",
                stack="zero",
                axis=alt.Axis(title="MiB", tickCount=4),
                scale=alt.Scale(domain=[0, top * 1.2 or 1.0], nice=False),
            ),
            **by_category(shown, colours),
        )
    )
    return alt.layer(areas, *_peak(seen, ground), height=250)


def _peak(seen: Timeline, ground: Ground) -> list[alt.Chart]:
    if seen.peak is None:
        return []
    size = seen.peak.total_bytes
    base = alt.Chart(alt.InlineData(values=[{"m": mib(size), "label": f"{format_mib(size)} MiB"}]))
    rule = base.mark_rule(color=ink(ground), strokeDash=[4, 3]).encode(y=alt.Y("m:Q"))
    text = base.mark_text(
        align="left", dx=6, dy=-8, fontSize=13, fontWeight="bold", color=ink(ground)
    ).encode(x=at_x(0), y=alt.Y("m:Q"), text=alt.Text("label:N"))
    return [rule, text]
