"""When was the memory held?

Contract: memory over the run or one step; a span chosen on the small map above is drawn in full,
and gives the table of what lived at its fullest moment.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

import streamlit as st

from dashboard.charts.timeline import (
    BRUSH,
    area_records,
    bins,
    brushed,
    map_chart,
    timeline_chart,
)
from dashboard.frame import View, explore, ground, pick_rank
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.tables import mib_columns, mib_value, short_op
from profiler.analyses.timeline import Timeline, alive_at, timeline
from profiler.reports.units import format_bytes

TITLE = "When was the memory held?"
SPANS = ("the whole run", "the chosen step")
FEW_STEPS = 12  # a run of more steps opens on one of them


def page() -> None:
    """Draws the page."""
    view = explore(TITLE, "memory")
    if view is None:
        return
    rank = pick_rank(view)
    step = _span(view)
    seen = view.opened.ask(timeline, rank=rank, step=step, bins=bins())
    if not seen.moments:
        st.info("No memory sample was taken here. Choose another step, or the whole run.")
        return
    _map_words(seen)
    event = show_chart(
        map_chart(seen, ground()), key="memory", select=BRUSH,
        alt="All memory over time, to choose a span",
    )  # fmt: skip
    part = brushed(seen, event)
    shown = seen
    if part is not None:
        between = (part.start_ns, part.end_ns)
        shown = view.opened.ask(timeline, rank=rank, step=step, bins=bins(), between=between)
    st.write("Height is memory, stacked by what it is for; grey bands are backward and optimizer.")
    show_chart(
        timeline_chart(shown, ground(), part), key="areas",
        alt="Memory over time by category, with the phases of each step",
    )  # fmt: skip
    offer_data("timeline", lambda: area_records(shown, part))
    _alive(view, rank, shown, part.origin_ns if part else seen.moments[0].time_ns, bool(part))


def _span(view: View) -> int | None:
    """The step to draw, or None for the whole run."""
    if len(view.contents.steps) < 2:
        return None
    default = SPANS[0] if len(view.contents.steps) <= FEW_STEPS else SPANS[1]
    chosen = st.segmented_control(
        "Show", SPANS, default=default, key="span", bind="query-params", required=True
    )
    return view.step if chosen == SPANS[1] else None


def _map_words(seen: Timeline) -> None:
    thinned = (
        ""
        if len(seen.moments) == seen.samples
        else f" {seen.samples} samples are drawn as {len(seen.moments)}: the fullest of each bin."
    )
    st.write(
        "Drag over the small chart to look at a span of it more closely; double-click on it to let "
        "the span go." + thinned
    )


def _alive(view: View, rank: int, seen: Timeline, origin_ns: int, chosen: bool) -> None:
    moment = seen.peak
    if moment is None:
        st.info("Nothing was sampled before the end of this span.")
        return
    found = view.opened.ask(alive_at, moment.time_ns, rank=rank)
    seconds = (moment.time_ns - origin_ns) / 1e9
    st.subheader("Alive at the fullest moment" + (" of the span" if chosen else ""))
    st.write(
        f"At {seconds:.3f} s, step {moment.step}, {moment.phase}: "
        f"{format_bytes(moment.total_bytes)}. Storages that had been seen and not yet died:"
    )
    if not found.storages:
        st.caption("None: what lived then was not recorded, or has not been written yet.")
        return
    rows = [
        {
            "storage": row["storage_id"],
            "MiB": mib_value(row["bytes"]),
            "category": row["category"],
            "module": row["module"],
            "last kept by": short_op(row["last_keeper"]) if row["last_keeper"] else "",
            "first seen in step": row["step"],
            "device": row["device"],
        }
        for row in found.storages
    ]
    st.dataframe(
        rows, hide_index=True, alt="Storages alive at the chosen moment",
        column_config=mib_columns(rows, ("MiB",)),
    )  # fmt: skip
    if found.more:
        st.caption(f"{found.more} smaller items, {format_bytes(found.more_bytes)}.")


page()
