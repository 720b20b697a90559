"""Why one run holds more than another: one signed bar per change, the largest first.

Contract: a change's device and host bytes are drawn apart, with their sign; what is not drawn is
one bar of its own, so the bars add up to the difference. MiB scaled here.
Boundary: Altair only; aligning and ranking is profiler.analyses.diff's.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from dashboard.charts.frame import NARROW, Layered, label_limit, top_legend
from dashboard.tables import short_op
from dashboard.theme import Ground, category_colour, ink
from profiler.analyses.diff import Change, Diff
from profiler.reports.diff_text import signed
from profiler.reports.units import mib

TOP = 12
KINDS = {
    "on the device": ("device_bytes", category_colour("saved")),
    "on the host": ("host_bytes", category_colour("host")),
}


def change_name(change: Change, most: int = 1, between: str = "\n") -> str:
    """Where a change is: the modules, and on a second line the operation."""
    names = [name or "(root)" for name in change.modules[:most]]
    more = len(change.modules) - len(names)
    where = ", ".join(names) + (f" and {more} more" if more else "")
    return f"{where}{between}{short_op(change.op) if change.op else change.phase}"


def cause_name(change: Change) -> str:
    """Why, with the sides called as the page calls them."""
    return change.cause.replace("only in a", "only in A").replace("only in b", "only in B")


def cause_records(found: Diff) -> list[dict[str, Any]]:
    """One record per change and kind of memory, in order; the rest in one line."""
    lines = [
        (f"{number + 1}. {change_name(change)}", f"{cause_name(change)} ({change.phase})", [change])
        for number, change in enumerate(found.changes[:TOP])
    ]
    if rest := found.changes[TOP:]:
        lines.append((f"{len(rest)} smaller changes", "all others together", rest))
    return [
        {
            "line": line,
            "why": why,
            "kind": kind,
            "mib": mib(size),
            "size": signed(size) if size else "",
            "label": f"{signed(size)}   {why}" if size else "",
        }
        for line, why, changes in lines
        for kind, (name, _) in KINDS.items()
        if (size := sum(getattr(change, name) for change in changes))
    ]


def cause_chart(found: Diff, ground: Ground) -> Layered:
    """The bars, right of zero where b has more."""
    records = cause_records(found)
    lines = list(dict.fromkeys(record["line"] for record in records))
    kinds = [kind for kind in KINDS if any(record["kind"] == kind for record in records)]
    ends = [record["mib"] for record in records] + [0.0]
    span = max(ends) - min(ends) or 1.0
    domain = [min(ends) - 0.02 * span, max(ends) + 1.1 * span]  # room for the labels
    y = alt.Y(
        "line:N", sort=lines, scale=alt.Scale(domain=lines, paddingInner=0.3),
        axis=alt.Axis(title=None, labelLimit=label_limit(360), labelFontSize=12, ticks=False,
                      domain=False, labelOverlap=False, labelOffset=-8,
                      labelExpr="split(datum.label, '\\n')"),
    )  # fmt: skip
    offset = alt.YOffset("kind:N", sort=kinds, scale=alt.Scale(domain=kinds))
    base = alt.Chart(alt.InlineData(values=records)).encode(
        x=alt.X(
            "mib:Q", axis=alt.Axis(title="MiB more in B", tickCount=8),
            scale=alt.Scale(domain=domain, nice=False),
        ),
        y=y,
        tooltip=[
            alt.Tooltip("line:N", title="where"), alt.Tooltip("why:N"),
            alt.Tooltip("kind:N", title="memory"),
            alt.Tooltip("mib:Q", title="MiB", format="+.4~g"),
        ],
    )  # fmt: skip
    bars = base.mark_bar().encode(
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=kinds, range=[KINDS[kind][1] for kind in kinds]),
            legend=top_legend(kinds),
        )
    )
    zero = (
        alt.Chart(alt.InlineData(values=[{"mib": 0.0}]))
        .mark_rule(color=ink(ground))
        .encode(x=alt.X("mib:Q"))
    )
    figures = (
        alt.Chart(alt.InlineData(values=[{**r, "mib": max(r["mib"], 0.0)} for r in records]))
        .transform_calculate(said=f"{NARROW} ? datum.size : datum.label")
        .mark_text(align="left", baseline="middle", dx=5, fontSize=12, color=ink(ground))
        .encode(x=alt.X("mib:Q"), y=y, text=alt.Text("said:N"))
    )
    if len(kinds) > 1:
        bars, figures = bars.encode(yOffset=offset), figures.encode(yOffset=offset)
    return alt.layer(bars, zero, figures, height=80 + max(36, 27 * len(kinds)) * len(lines))
