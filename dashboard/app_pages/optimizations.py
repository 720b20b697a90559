"""What does each optimization save, and what does it cost?

Contract: shows one recorded ablation, chosen by name; the state of the page is in the URL. A run
that is missing, partial or damaged is explained in words.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard.charts.host_bytes import host_bytes_chart
from dashboard.charts.times import time_chart
from dashboard.charts.traffic import traffic_chart
from dashboard.data import RunsFolder, RunSummary
from dashboard.frame import chosen_run
from dashboard.panels.figures import figures_table, metric_row
from dashboard.panels.record import record_panel
from dashboard.panels.switches import choose_row, offer_missing
from dashboard.theme import Ground
from dashboard.words import literal
from profiler.reports.ablation_view import AblationView, Row

TITLE = "What does each optimization save, and what does it cost?"
CAPTIONS = {
    "graph": "Autograd graph of one iteration: saved tensors of one colour need one copy.",
    "memory": "Memory while the configurations ran one after the other.",
}


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    folder = RunsFolder(Path(st.session_state["runs_root"]))
    name = chosen_run()
    if name is None:
        _nothing_yet(folder)
        return
    summary = folder.load(name)
    _notes(summary)
    if summary.ablation is None:
        st.warning(f"This run cannot be shown: {literal(summary.problem)}")
        _offer_others(folder)
    else:
        _show(folder, summary, summary.ablation)
    with st.expander("Record another run", expanded=summary.ablation is None):
        record_panel(folder.root)


def _nothing_yet(folder: RunsFolder) -> None:
    st.write(
        "One clustered layer is run once per combination of the eDKM paper's switches: "
        "marshaling (M), uniquification (U) and sharding (S). Recorded are the bytes that "
        "autograd keeps on the host for backward, what crosses to the host and back, and the time."
    )
    st.info(f"No run yet in {literal(folder.root)}.")
    record_panel(folder.root)


def _notes(summary: RunSummary) -> None:
    if summary.note:
        st.warning(f"About this run: {literal(summary.note)}")
    elif not summary.closed and summary.problem is None:
        st.warning("This run was not closed: it is still going on, or it was killed.")


def _offer_others(folder: RunsFolder) -> None:
    """A way to the newest run that this page can show."""
    latest = folder.latest()
    if latest is not None and folder.load(latest).ablation is not None:
        st.button(f"Open {literal(latest)}", key="open_latest", on_click=_open, args=(latest,))


def _open(name: str) -> None:
    st.session_state["run"] = name


def _show(folder: RunsFolder, summary: RunSummary, seen: AblationView) -> None:
    st.caption(literal(seen.title))
    if seen.simulated:
        st.info("  \n".join(seen.simulated))
    name = choose_row(seen)
    row = seen.row(name)
    if row is None:
        offer_missing(folder.root, summary, seen, name)
    else:
        metric_row(seen, row)
    _charts(seen, row)
    _pictures(summary)
    with st.expander("All recorded figures"):
        figures_table(seen)


def _charts(seen: AblationView, row: Row | None) -> None:
    selected = None if row is None else row.name
    ground: Ground = "dark" if st.context.theme.type == "dark" else "light"
    st.subheader("Host memory held for backward, by one learner")
    outlines = "" if seen.differences else " Outlines: the paper's Table 2."
    st.write("Equal distances on this axis are equal factors, given in brackets." + outlines)
    st.altair_chart(
        host_bytes_chart(seen, selected, ground), key="host_bytes",
        alt="Bars of host bytes per configuration on a log axis",
    )  # fmt: skip
    if seen.differences:
        st.caption("No figures of the paper: " + literal("; ".join(seen.differences)) + ".")
    left, right = st.columns(2)
    with left:
        _traffic(seen, selected, ground)
    with right:
        _times(seen, selected, ground)


def _traffic(seen: AblationView, selected: str | None, ground: Ground) -> None:
    simulated = bool(seen.raw.get("simulated_host"))
    st.subheader("To the host and back" + (" (simulated)" if simulated else ""))
    st.write(
        "Bytes are counted where a bus would be crossed; none was, so no bandwidth is shown."
        if simulated
        else "D2H: device to host, in forward. H2D: back again, in backward."
    )
    st.altair_chart(
        traffic_chart(seen, selected, ground), key="traffic",
        alt="Bars of bytes to the host and back per configuration on a log axis",
    )  # fmt: skip


def _times(seen: AblationView, selected: str | None, ground: Ground) -> None:
    st.subheader("Time of one step")
    st.write(
        "Full colour: forward, lighter: backward, on this machine. "
        + ("" if seen.differences else "Outlines: the paper's, approximate, on 8 x A100.")
    )
    st.altair_chart(
        time_chart(seen, selected, ground), key="times",
        alt="Bars of forward and backward seconds per configuration",
    )  # fmt: skip


def _pictures(summary: RunSummary) -> None:
    shown = {key: path for key, path in summary.pictures.items() if key in CAPTIONS}
    if not shown:
        return
    st.subheader("Pictures of this run")
    for column, (key, path) in zip(st.columns(len(shown)), shown.items(), strict=True):
        with column:
            st.image(str(path), caption=CAPTIONS[key], width="stretch", alt=CAPTIONS[key])


page()
