"""How often each storage was copied to the host, by two ways of copying.

Contract: one bar per storage and way; each copy is a piece of it, the first in another colour
than those that follow. Bytes in, MiB drawn.
Boundary: Altair only; the copies come from dashboard.lessons.devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, labels, top_legend
from dashboard.lessons.devices import Copies
from dashboard.theme import Ground, surface
from profiler.reports.theme import BLUE, VERMILION
from profiler.reports.units import mib

ORDER = {"first copy": BLUE, "copied again": VERMILION}


def copy_records(ways: Mapping[str, Copies]) -> list[dict[str, Any]]:
    """One record per copy: storage, way, which copy, MiB from and to."""
    records = []
    for way, found in ways.items():
        for storage in found.storages:
            end = 0.0
            for number, count in enumerate(found.of(storage)):
                start, end = end, end + mib(count)
                records.append(
                    {
                        "storage": storage, "way": way, "start": start, "end": end,
                        "which": "copied again" if number else "first copy",
                    }
                )  # fmt: skip
    return records


def total_records(ways: Mapping[str, Copies]) -> list[dict[str, Any]]:
    """One record per storage and way: how many copies, in words."""
    records = []
    for way, found in ways.items():
        for storage in found.storages:
            sizes = found.of(storage)
            times = {0: "none", 1: "1 copy"}.get(len(sizes), f"{len(sizes)} copies")
            end = mib(sum(sizes))
            records.append({"storage": storage, "way": way, "end": end, "label": f"{times}: {way}"})
    return records


def copy_chart(ways: Mapping[str, Copies], ground: Ground) -> Layered:
    """The bars, the ways of one storage beneath each other."""
    totals = total_records(ways)
    storages = list(dict.fromkeys(record["storage"] for record in totals))
    longest = max((record["end"] for record in totals), default=0.0) or 1.0
    place: dict[str, Any] = {
        "y": alt.Y(
            "storage:N", sort=storages, scale=alt.Scale(domain=storages, paddingInner=0.3),
            axis=alt.Axis(title=None, labelFont="monospace", labelFontSize=14, ticks=False,
                          domain=False, labelOverlap=False),
        ),
        "yOffset": alt.YOffset("way:N", sort=list(ways), scale=alt.Scale(domain=list(ways))),
    }  # fmt: skip
    scale = alt.Scale(domain=[0, longest * 1.5], nice=False)
    x = alt.X("end:Q", scale=scale, axis=alt.Axis(title="MiB copied to the host", tickMinStep=0.5))
    bars = (
        alt.Chart(alt.InlineData(values=copy_records(ways)))
        .mark_bar(stroke=surface(ground), strokeWidth=1)
        .encode(
            x=x, x2=alt.X2("start:Q"),
            color=alt.Color(
                "which:N", scale=alt.Scale(domain=list(ORDER), range=list(ORDER.values())),
                legend=top_legend(list(ORDER)),
            ),
            tooltip=[alt.Tooltip("storage:N"), alt.Tooltip("way:N"), alt.Tooltip("which:N")],
            **place,
        )
    )  # fmt: skip
    figures = (
        alt.Chart(alt.InlineData(values=totals))
        .mark_text(**labels(ground))
        .encode(x=x, text=alt.Text("label:N"), **place)
    )
    return alt.layer(bars, figures, height=90 + 52 * len(storages))
