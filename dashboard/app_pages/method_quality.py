"""What does compression cost?

Contract: measured results of the runs folder (comparisons, training runs), or those that come with
the dashboard; a row that failed is listed with its reason. The choice is in the URL.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import streamlit as st

from dashboard.bundled import RESULTS
from dashboard.charts.quality import AXES, CHOSEN, axes, quality_chart, quality_records
from dashboard.frame import ground, home
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.export import export_as
from dashboard.panels.metrics import metric_grid
from dashboard.quality import Quality, Results, find_results
from dashboard.tables import mib_columns, mib_value
from dashboard.views import quality_html
from dashboard.words import literal
from profiler.reports.units import NOTHING, format_bytes, format_seconds

TITLE = "What does compression cost?"


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    found = _chosen()
    if found is None:
        return
    st.write(
        "Lower is better, left is smaller. Every point is one tuned or rounded model, measured "
        "on text it has not seen; the dashed line is the dense model. Click a point."
    )
    _chart(found)
    _table(found)
    export_as("quality", partial(quality_html, TITLE, found))


def _chosen() -> Results | None:
    """The results to show; their problems said."""
    own = find_results(home())
    bundled = not any(each.rows for each in own)
    everything = [*own, *find_results(RESULTS)] if bundled else own
    for each in everything:
        if each.problem:
            st.warning(f"{literal(each.name)}: {literal(each.problem)}")
    by_name = {each.name: each for each in everything if each.rows}
    if not by_name:
        st.info("No result yet: `python -m edkm.train` writes metrics.json.")
        return None
    if bundled:
        st.caption(
            f"Bundled results: no comparison.json or metrics.json in {literal(home())} or a "
            "folder of it."
        )
    if st.session_state.get("results") not in by_name:
        st.session_state.pop("results", None)
    name = st.selectbox("Results", list(by_name), key="results", bind="query-params")
    return by_name[name]


def _chart(found: Results) -> None:
    across = axes(found.rows)
    if not across:
        st.info("No compressed model with a perplexity is in these results.")
        return
    if st.session_state.get("across") not in across:
        st.session_state.pop("across", None)
    chosen = st.segmented_control(
        "Across", across, default=across[0], key="across", bind="query-params", required=True,
        format_func=lambda name: AXES.get(name, name),
    )  # fmt: skip
    axis = chosen or across[0]
    event = show_chart(
        quality_chart(found.rows, axis, ground()), key=f"quality-{axis}", select=CHOSEN,
        alt="Perplexity of each method against its size",
    )  # fmt: skip
    offer_data("quality", partial(quality_records, found.rows, axis))
    _detail(found, event)


def _detail(found: Results, event: Any) -> None:
    """The clicked point, else the best compressed one."""
    points = event.selection.get(CHOSEN, []) if event else []
    index = points[0].get("row") if points else None
    measured = [row for row in found.rows if row.ppl is not None and row.bits is not None]
    if index is not None and 0 <= int(index) < len(found.rows):
        row = found.rows[int(index)]
    elif measured:
        row = min(measured, key=lambda each: each.ppl or 0.0)
    else:
        return
    _metrics(row)


def _metrics(row: Quality) -> None:
    bits = NOTHING if row.bits is None else f"{row.bits:g}"
    st.subheader(
        f"{literal(row.method)}, {bits} bits, seed {NOTHING if row.seed is None else row.seed}"
    )
    figures = [
        ("Perplexity", NOTHING if row.ppl is None else f"{row.ppl:.3f}", "On held-out text"),
        ("Dense", NOTHING if row.ppl_dense is None else f"{row.ppl_dense:.3f}",
         "The dense model, tuned as long"),
        ("On disk", format_bytes(row.size_bytes), "Everything that is stored"),
        ("Time, s", format_seconds(row.seconds), "To tune or to round, on that machine"),
        ("Peak", format_bytes(row.peak_bytes), "Of the process that did it"),
    ]  # fmt: skip
    metric_grid(figures)
    if row.tasks:
        st.caption(
            "Accuracy: "
            + ", ".join(f"{literal(name)} {share:.1%}" for name, share in row.tasks.items())
        )


def _table(found: Results) -> None:
    st.subheader("Every row")
    rows = [
        {
            "method": row.method,
            "bits": row.bits,
            "bits per weight": row.bits_per_weight,
            "group": row.group_size,
            "perplexity": row.ppl,
            "dense": row.ppl_dense,
            "MiB on disk": mib_value(row.size_bytes),
            "seconds": row.seconds,
            "peak MiB": mib_value(row.peak_bytes),
            "seed": row.seed,
            "status": row.error or row.status,
        }
        for row in found.rows
    ]
    known = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    rows = [{name: row[name] for name in known} for row in rows]
    st.dataframe(
        rows, hide_index=True, alt="Every measured row",
        column_config={
            **mib_columns(rows, ("MiB on disk", "peak MiB")),
            **{
                name: st.column_config.NumberColumn(name, format=form)
                for name, form in (
                    ("perplexity", "%.3f"), ("dense", "%.3f"), ("seconds", "%.0f"),
                    ("bits per weight", "%.2f"),
                )
            },
        },
    )  # fmt: skip
    if found.settings:
        said = ", ".join(f"{literal(k)} {literal(v)}" for k, v in found.settings.items())
        st.caption(f"Settings: {said}.")


page()
