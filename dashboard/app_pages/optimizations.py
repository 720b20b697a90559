"""What does each optimization save, and what does it cost?

Contract: shows one recorded ablation: the chosen run, or the newest that is one. What was measured,
what is predicted from it and what the paper says stand side by side, each called what it is. The
state of the page is in the URL; a run that is missing, partial or damaged is explained in words.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.answers import open_run
from dashboard.charts.host_bytes import host_bytes_chart, host_bytes_records
from dashboard.charts.times import time_chart, time_records
from dashboard.charts.traffic import traffic_chart, traffic_records
from dashboard.data import RunsFolder, RunSummary
from dashboard.frame import chosen_run, folder, ground, home
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.export import export_as
from dashboard.panels.figures import combinations_table, figures_table, metric_row
from dashboard.panels.record import record_panel
from dashboard.panels.switches import choose_row, offer_missing
from dashboard.views import optimizations_html
from dashboard.words import literal
from profiler.analyses.levers import Combinations, combinations
from profiler.reports.ablation_view import AblationView, Row

TITLE = "What does each optimization save, and what does it cost?"
CAPTIONS = {
    "graph": "Autograd graph of one iteration: saved tensors of one colour need one copy.",
    "memory": "Memory while the configurations ran one after the other.",
}


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    name = chosen_run()
    if name is None:
        _nothing_yet()
        return
    summary = _with_rows(folder(), name)
    _notes(summary)
    if summary.ablation is None:
        st.warning(f"This run cannot be shown: {literal(summary.problem)}")
    else:
        _show(summary, summary.ablation)
    with st.expander("Record another run", expanded=summary.ablation is None):
        record_panel(home())


def _nothing_yet() -> None:
    st.write(
        "One clustered layer is run once per combination of the eDKM paper's switches: "
        "marshaling (M), uniquification (U) and sharding (S). Recorded are the bytes that "
        "autograd keeps on the host for backward, what crosses to the host and back, and the time."
    )
    st.info(f"No run yet in {literal(home())}.")
    record_panel(home())


def _with_rows(runs: RunsFolder, name: str) -> RunSummary:
    """The chosen run; where it is no ablation, the newest that is one, and a note."""
    summary = runs.load(name)
    latest = runs.latest() if summary.ablation is None else None
    other = runs.load(latest) if latest is not None else summary
    if other.ablation is None or other.name == name:
        return summary
    left, right = st.columns([5, 1], vertical_alignment="center")
    left.info(
        f"{literal(name)} is no ablation of one layer, or has no row of one. Here you see the "
        f"newest that is: **{literal(other.name)}**."
    )
    right.button("Choose it", key="open_latest", on_click=_open, args=(other.name,))
    return other


def _open(name: str) -> None:
    st.session_state["run"] = name


def _notes(summary: RunSummary) -> None:
    if summary.note:
        st.warning(f"About this run: {literal(summary.note)}")
    elif not summary.closed and summary.problem is None:
        st.warning("This run was not closed: it is still going on, or it was killed.")


def _show(summary: RunSummary, seen: AblationView) -> None:
    predicted = _predicted(summary.name)
    st.caption(literal(seen.title))
    if seen.simulated:
        st.info("  \n".join(seen.simulated))
    name = choose_row(seen)
    row = seen.row(name)
    if row is None:
        offer_missing(home(), summary, seen, name, predicted)
    else:
        metric_row(seen, row)
    _charts(seen, row, predicted)
    _pictures(summary)
    with st.expander("All recorded figures"):
        figures_table(seen)
    export_as(f"{summary.name}-optimizations", partial(optimizations_html, TITLE, seen, predicted))


def _predicted(name: str) -> Combinations | None:
    """What the run's row "none" predicts for all combinations; None where it cannot."""
    try:
        return open_run(folder().path(name)).ask(combinations)
    except (ValueError, OSError):
        return None


def _charts(seen: AblationView, row: Row | None, predicted: Combinations | None) -> None:
    selected = None if row is None or row.name == "none" else row.name
    guessed = predicted.rows if predicted else []
    st.subheader("Host memory held for backward, by one learner")
    said = [
        "Equal distances on this axis are equal factors, given in brackets. Full bars: measured."
    ]
    if guessed:
        said.append("Dashed, what-if: predicted from the row none alone, without running it.")
    if not seen.differences:
        said.append("Outlines: the paper's Table 2.")
    st.write(" ".join(said))
    show_chart(
        host_bytes_chart(seen, selected, ground(), guessed), key="host_bytes",
        alt="Bars of host bytes per configuration on a log axis",
    )  # fmt: skip
    offer_data("host-bytes", partial(host_bytes_records, seen, guessed))
    if seen.differences:
        st.caption("No figures of the paper: " + literal("; ".join(seen.differences)) + ".")
    if predicted:
        with st.expander("Measured, predicted and the paper's, side by side"):
            combinations_table(seen, predicted)
    left, right = st.columns(2)
    with left:
        _traffic(seen, selected)
    with right:
        _times(seen, selected)


def _traffic(seen: AblationView, selected: str | None) -> None:
    simulated = bool(seen.raw.get("simulated_host"))
    st.subheader("To the host and back" + (" (simulated)" if simulated else ""))
    st.write(
        "Bytes are counted where a bus would be crossed; none was, so no bandwidth is shown."
        if simulated
        else "D2H: device to host, in forward. H2D: back again, in backward."
    )
    show_chart(
        traffic_chart(seen, selected, ground()), key="traffic",
        alt="Bars of bytes to the host and back per configuration on a log axis",
    )  # fmt: skip
    offer_data("traffic", partial(traffic_records, seen, None))


def _times(seen: AblationView, selected: str | None) -> None:
    st.subheader("Time of one step")
    st.write(
        "Full colour: forward, lighter: backward, on this machine. "
        + ("" if seen.differences else "Outlines: the paper's, approximate, on 8 x A100.")
    )
    show_chart(
        time_chart(seen, selected, ground()), key="times",
        alt="Bars of forward and backward seconds per configuration",
    )  # fmt: skip
    offer_data("times", partial(time_records, seen, None))


def _pictures(summary: RunSummary) -> None:
    shown = {key: path for key, path in summary.pictures.items() if key in CAPTIONS}
    if not shown:
        return
    st.subheader("Pictures of this run")
    for column, (key, path) in zip(st.columns(len(shown)), shown.items(), strict=True):
        with column:
            st.image(str(path), caption=CAPTIONS[key], width="stretch", alt=CAPTIONS[key])


page()
