"""What does compression cost?

Contract: measured results of the runs folder (comparisons, training runs), or those that come with
the dashboard; a row that failed is listed with its reason. The choice is in the URL.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

import math
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
from dashboard.quality import DENSE, Results, find_results
from dashboard.quality_points import Point, levels, points
from dashboard.tables import counted, mib_columns, mib_value
from dashboard.views import quality_html
from dashboard.words import literal
from profiler.reports.units import format_mib, format_seconds

TITLE = "What does compression cost?"
# Settings in which commands that fill one table may differ: not true of all of its rows.
OF_A_COMMAND = ("methods", "bits", "seeds", "out")


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    found = _chosen()
    if found is None:
        return
    dense = levels(found.rows)
    said = " and ".join(f"{name} {value:.3f}" for name, value in dense.items())
    st.write(
        "Lower is better, left is smaller. Every point is one method at its bits, measured on text "
        "it has not seen, the mean where it was run with several seeds. "
        + (f"Level lines: the dense model, {said}. " if said else "")
        + "Click a point."
    )
    _chart(points(found.rows), dense)
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


def _chart(found: list[Point], dense: dict[str, float]) -> None:
    across = axes(found)
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
        quality_chart(found, dense, axis, ground()), key=f"quality-{axis}", select=CHOSEN,
        alt="Perplexity of each method against its size",
    )  # fmt: skip
    offer_data("quality", partial(quality_records, found, axis))
    _detail(found, dense, event)


def _detail(found: list[Point], dense: dict[str, float], event: Any) -> None:
    """The clicked point, else the best compressed one."""
    picked = event.selection.get(CHOSEN, []) if event else []
    index = picked[0].get("point") if picked else None
    if index is not None and 0 <= int(index) < len(found):
        _metrics(found[int(index)], dense)
    else:
        compressed = [each for each in found if each.method != DENSE]
        _metrics(min(compressed, key=lambda each: each.mean("ppl") or 0.0), dense)


def _metrics(point: Point, dense: dict[str, float]) -> None:
    st.subheader(literal(point.name))
    ppl, (lowest, highest) = point.mean("ppl"), point.ends
    seeds = counted(len(point.rows), "seed")
    spread = f", from {lowest:.3f} to {highest:.3f}" if highest > lowest else ""
    figures = [("Perplexity", f"{ppl:.3f}", f"On held-out text; {seeds}{spread}")]
    figures += [
        (f"Dense, {'before' if name.startswith('before') else name}", f"{value:.3f}",
         f"Of the dense model, {name}")
        for name, value in dense.items()
    ]  # fmt: skip
    size, seconds, peak = (point.mean(name) for name in ("size_bytes", "seconds", "peak_bytes"))
    figures += [
        ("On disk, MiB", format_mib(None if size is None else round(size)), "All that is stored"),
        ("Time, s", format_seconds(seconds), "To tune or to round, on that machine"),
        ("Peak, MiB", format_mib(None if peak is None else round(peak)),
         "Of the process that did it, libraries included"),
    ]  # fmt: skip
    metric_grid(figures)
    if tasks := next((row.tasks for row in point.rows if row.tasks), None):
        st.caption(
            "Tasks: " + ", ".join(f"{literal(name)} {share:.1%}" for name, share in tasks.items())
        )


def _table(found: Results) -> None:
    st.subheader("Every row")
    ordered = sorted(found.rows, key=lambda row: (-(row.bits or 99), row.ppl or math.inf))
    rows = [
        {
            "method": row.title,
            "bits": row.bits_text,
            "seed": row.seed,
            "perplexity": row.ppl,
            "bits per weight": row.bits_per_weight,
            "MiB on disk": mib_value(row.size_bytes),
            "group": row.group_size,
            "seconds": row.seconds,
            "peak MiB": mib_value(row.peak_bytes),
            "status": row.error or row.status,
        }
        for row in ordered
    ]
    known = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    rows = [{name: row[name] for name in known} for row in rows]
    st.dataframe(
        rows, hide_index=True, alt="Every measured row", placeholder="",
        column_config={
            **mib_columns(rows, ("MiB on disk", "peak MiB")),
            **{
                name: st.column_config.NumberColumn(name, format=form)
                for name, form in (
                    ("perplexity", "%.3f"), ("seconds", "%.0f"), ("bits per weight", "%.2f"),
                )
            },
        },
    )  # fmt: skip
    said = {k: v for k, v in found.settings.items() if k not in OF_A_COMMAND and v is not None}
    if said:
        words = ", ".join(f"{literal(k)} {literal(v)}" for k, v in said.items())
        st.caption(f"Settings that all rows share: {words}.")


page()
