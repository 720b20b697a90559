"""The charts of the lessons: what operations keep, and what four lines hold.

Contract: measured bytes in, MiB drawn; the operation or line that is asked about stands out.
Boundary: Altair only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, label_limit, labels, top_legend
from dashboard.lessons.saves import OWNERS, Kept
from dashboard.lessons.storages import Line
from dashboard.theme import FADED, Ground, category_colour, ink
from profiler.reports.theme import BLUE, GREEN, GREY, ORANGE, VERMILION
from profiler.reports.units import format_bytes, mib

OWNER_COLOURS = dict(zip(OWNERS, (VERMILION, ORANGE, BLUE, GREY), strict=True))
OWNER_WORDS = {
    "input": "its input", "output": "its result", "weight": "the weight",
    "other": "something made on the way",
}  # fmt: skip
HELD = {"device": "on the device", "host": "on the host", "marshaled": "on the host, marshaled"}


def kept_records(found: Sequence[Kept], asked: str) -> list[dict[str, Any]]:
    """One record per operation and owner that is kept."""
    return [
        {
            "code": kept.code,
            "owner": OWNER_WORDS[owner],
            "order": OWNERS.index(owner),
            "mib": mib(count),
            "label": format_bytes(count),
            "strength": 1.0 if kept.code == asked else FADED,
        }
        for kept in found
        for owner, count in kept.bytes.items()
        if count
    ]


def kept_chart(found: Sequence[Kept], asked: str, ground: Ground) -> Layered:
    """Bytes kept per operation, stacked by whose they are."""
    records = kept_records(found, asked)
    codes = [kept.code for kept in found]
    y = alt.Y(
        "code:N", sort=codes, scale=alt.Scale(domain=codes),
        axis=alt.Axis(title=None, labelFont="monospace", labelFontSize=13, labelLimit=260,
                      ticks=False, domain=False, labelOverlap=False),
    )  # fmt: skip
    bars = (
        alt.Chart(alt.InlineData(values=records))
        .mark_bar()
        .encode(
            x=alt.X(
                "mib:Q", stack="zero", axis=alt.Axis(title="MiB kept for backward", tickCount=6)
            ),
            y=y,
            color=alt.Color(
                "owner:N",
                scale=alt.Scale(
                    domain=[OWNER_WORDS[name] for name in OWNERS],
                    range=[OWNER_COLOURS[name] for name in OWNERS],
                ),
                legend=top_legend([*OWNER_WORDS.values()]),
            ),
            order=alt.Order("order:Q"),
            opacity=alt.Opacity("strength:Q", scale=None),
            tooltip=[alt.Tooltip("owner:N"), alt.Tooltip("label:N", title="kept")],
        )
    )
    sums: list[dict[str, Any]] = [
        {"code": kept.code, "mib": mib(sum(kept.bytes.values())),
         "label": format_bytes(sum(kept.bytes.values())) if any(kept.bytes.values()) else "nothing"}
        for kept in found
    ]  # fmt: skip
    top = max((each["mib"] for each in sums), default=0.0) * 1.15 or 1.0
    figures = (
        alt.Chart(alt.InlineData(values=sums))
        .mark_text(**labels(ground))
        .encode(x=alt.X("mib:Q", scale=alt.Scale(domain=[0, top])), y=y, text=alt.Text("label:N"))
    )
    return alt.layer(bars, figures, height=80 + 32 * len(codes))


def line_records(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One record per line of the program and place of memory."""
    return [
        {
            "line": f"{number}  {line.code}",
            "held": words,
            "mib": mib(getattr(line, name)),
            "label": format_bytes(getattr(line, name)),
        }
        for number, line in enumerate(lines)
        for name, words in HELD.items()
    ]


def line_chart(lines: Sequence[Line], ground: Ground) -> Layered:
    """Three bars per line: device, host as torch copies, host with marshaling."""
    records = line_records(lines)
    order = list(dict.fromkeys(record["line"] for record in records))
    top = max((record["mib"] for record in records), default=0.0) * 1.2 or 1.0
    base = alt.Chart(alt.InlineData(values=records)).encode(
        x=alt.X(
            "mib:Q", axis=alt.Axis(title="MiB", tickCount=6),
            scale=alt.Scale(domain=[0, top], nice=False),
        ),
        y=alt.Y(
            "line:N", sort=order, scale=alt.Scale(paddingInner=0.3),
            axis=alt.Axis(title=None, labelFont="monospace", labelFontSize=13,
                          labelLimit=label_limit(320), ticks=False, domain=False,
                          labelOverlap=False),
        ),
        yOffset=alt.YOffset("held:N", sort=list(HELD.values())),
        tooltip=[alt.Tooltip("held:N"), alt.Tooltip("label:N", title="bytes")],
    )  # fmt: skip
    bars = base.mark_bar().encode(
        color=alt.Color(
            "held:N",
            scale=alt.Scale(
                domain=list(HELD.values()), range=[category_colour("saved"), BLUE, GREEN]
            ),
            legend=top_legend([*HELD.values()]),
        )
    )
    figures = base.mark_text(align="left", dx=5, fontSize=12, color=ink(ground)).encode(
        text=alt.Text("label:N")
    )
    return alt.layer(bars, figures, height=80 + 80 * len(lines))
