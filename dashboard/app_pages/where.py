"""Which module and which line keeps it?

Contract: the tree of modules and operations by kept bytes; the chosen part has its figures and its
lines of code below, and is in the URL.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.charts.icicle import PICK, ROOT, icicle_chart, icicle_records
from dashboard.frame import View, explore, ground
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.metrics import metric_grid
from dashboard.tables import mib_columns, mib_value, short_op, source_words
from dashboard.words import literal
from profiler.analyses.places import SEPARATOR, Place, Places, places, source_lines
from profiler.reports.units import format_mib

TITLE = "Which module and which line keeps it?"
NODES = 1500
PART = "part"  # name in the URL
CHART = "icicle"  # session key: what was clicked


def page() -> None:
    """Draws the page."""
    view = explore(TITLE, "totals")
    if view is None:
        return
    seen = view.ask(places, limit=NODES)
    if not seen.nodes[0].total_bytes:
        st.info("Nothing but parameters was kept on the device or sent away in this step.")
        return
    st.write(
        "Width is what autograd keeps for backward in a module and everything inside it, each "
        "storage once, parameters left out; modules stand above their operations. Click a part to "
        "look inside; what it lies in stays above, to go back."
    )
    place = _chosen(seen)
    show_chart(
        icicle_chart(seen, ground(), place.path), key=CHART, select=PICK,
        alt="Modules and operations, as wide as what autograd keeps for them",
    )  # fmt: skip
    offer_data("where", partial(icicle_records, seen))
    _detail(view, place)


def _chosen(seen: Places) -> Place:
    """The place that was clicked now, else that of the URL, else the root."""
    by_id = {node.path or ROOT: node for node in seen.nodes}
    by_name = {node.path.replace(SEPARATOR, "/"): node for node in seen.nodes}
    event = st.session_state.get(CHART)
    clicked = [point.get("id") for point in event.selection.get(PICK, [])] if event else []
    if clicked and (found := by_id.get(clicked[0])) is not None:
        st.query_params[PART] = found.path.replace(SEPARATOR, "/")
    return by_name.get(st.query_params.get(PART, ""), seen.nodes[0])


def _detail(view: View, place: Place) -> None:
    whole = literal(place.module) or ("(root)" if place.op else "The whole model")
    st.subheader(f"{short_op(place.op)}, {whole}" if place.op else whole)
    figures = [
        ("Itself, MiB", format_mib(place.self_bytes), "Kept by operations of this very module"),
        ("With all inside, MiB", format_mib(place.total_bytes), "Its width in the chart"),
        ("Saves", str(place.saves), "Saved tensors here and inside, parameters too"),
    ]
    metric_grid(figures)
    if not view.contents.tables["saves"]:
        st.caption("Lines of code need the level full.")
        return
    found = view.ask(source_lines, place.module, place.op)
    rows = [
        {
            "line": source_words(line.source) if line.source else "(no stack recorded)",
            "new MiB": mib_value(line.unique_bytes),
            "saved MiB": mib_value(line.logical_bytes),
            "saves": line.saves,
            "operation": short_op(line.op),
            "module": line.module or "(root)",
            "file": line.source.rsplit(":", 2)[0],
        }
        for line in found
    ]
    st.dataframe(
        rows, hide_index=True, alt="Lines of code and what they keep",
        column_config=mib_columns(rows, ("new MiB", "saved MiB")),
    )  # fmt: skip
    st.caption(
        "New: storages that nothing saved before in this step. Saved: the tensors as they are, "
        f"shared storages and parameters included.{_most(len(rows))}"
    )


def _most(count: int) -> str:
    return " The 100 largest lines." if count >= 100 else ""


page()
