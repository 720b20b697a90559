"""What is held or sent twice?

Contract: one line per storage that was saved more than once; the chosen line shows its tensors,
where each lies in the storage, how each was found, and what follows from what.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

import streamlit as st

from dashboard.charts.aliases import alias_drawing
from dashboard.charts.spans import span_chart, span_records
from dashboard.frame import explore, ground
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.drawing import show_drawing
from dashboard.panels.metrics import metric_grid
from dashboard.tables import mib_columns, mib_value, shape_words, short_op, source_words
from dashboard.words import literal
from profiler.analyses.duplicates import Duplicates, Group, duplicates
from profiler.reports.units import NOTHING, format_bytes, format_mib

TITLE = "What is held or sent twice?"
ROWS = 500  # lines of the table; the rest is counted below it


def page() -> None:
    """Draws the page."""
    view = explore(TITLE, "saves")
    if view is None:
        return
    with_parameters = st.toggle(
        "Parameters too", value=True, key="parameters", bind="query-params",
        help="Parameters are in memory anyway, but an offloader may copy them.",
    )  # fmt: skip
    found = view.ask(duplicates, parameters=with_parameters)
    _metrics(found)
    if not found.groups:
        st.success("No storage was saved more than once in this step.")
        return
    group = _table(found)
    if group is not None:
        _detail(group)


def _metrics(found: Duplicates) -> None:
    figures = [
        ("Storages", str(len(found.groups)), "Saved twice or more in this step"),
        ("Repeated, MiB", format_mib(found.repeated_bytes),
         "Bytes that an earlier saved tensor of the same storage touches already"),
        ("Wasted, MiB", format_mib(found.wasted_bytes),
         "Host memory that was in fact filled again"),
        ("Saved tensors", str(found.saves), "Of the whole step, duplicates or not"),
    ]  # fmt: skip
    metric_grid(figures)


def _table(found: Duplicates) -> Group | None:
    """The table; returns the chosen group, the first where none is chosen."""
    st.write("One line per storage, the most costly first. Choose a line to see its tensors.")
    shown = found.groups[:ROWS]
    rows = [_row(group) for group in shown]
    chosen = st.dataframe(
        rows, hide_index=True, key="groups", on_select="rerun",
        selection_mode="single-row-required",
        selection_default={"selection": {"rows": [0], "columns": [], "cells": []}},
        height=min(420, 38 + 35 * len(rows)), alt="Storages that were saved more than once",
        column_config=mib_columns(rows, ("storage MiB", "repeated MiB", "wasted MiB")),
    )  # fmt: skip
    if rest := found.groups[ROWS:]:
        size = format_bytes(sum(group.repeated_bytes for group in rest))
        st.caption(f"{len(rest)} smaller items, {size} repeated.")
    lines = [number for number in chosen.selection.rows if number < len(shown)]
    return shown[lines[0]] if lines else shown[0]


def _row(group: Group) -> dict[str, object]:
    first, last = group.members[0], group.members[-1]
    return {
        "storage": group.storage_id,
        "storage MiB": mib_value(group.storage_bytes),
        "tensors": len(group.members),
        "repeated MiB": mib_value(group.repeated_bytes),
        "wasted MiB": mib_value(group.wasted_bytes),
        "category": "parameter" if group.is_param else group.category,
        "saved first by": f"{first.module or '(root)'} {short_op(first.op)}",
        "and last by": f"{last.module or '(root)'} {short_op(last.op)}",
        "rank": group.rank,
    }


def _detail(group: Group) -> None:
    st.subheader(f"The tensors of storage {group.storage_id}")
    about = "" if group.exact else " Overlap is an upper bound: too many gaps to follow."
    keeper = f" Its last keeper was {literal(group.last_keeper)}." if group.last_keeper else ""
    st.write(f"Bars show which bytes of the storage each saved tensor spans.{keeper}{about}")
    show_chart(
        span_chart(group, ground()), key="spans", alt="Spans of the tensors in their storage"
    )
    offer_data("spans", lambda: span_records(group))
    st.write(
        "What each tensor is to the storage: one box for those that are alike. Dashed: not in this "
        "storage, but computed from it again. Hops are operations between the two."
    )
    show_drawing(alias_drawing(group, ground()), name="tensors", alt="The storage and its tensors")
    rows = [
        {
            "operation": short_op(member.op),
            "module": member.module or "(root)",
            "line": source_words(member.source),
            "relation": member.relation,
            "shape": shape_words(member.shape),
            "stride": shape_words(member.stride),
            "dtype": member.dtype,
            "MiB": mib_value(member.logical_bytes),
            "repeated MiB": mib_value(member.repeated_bytes),
            "action": member.action,
            "hops": NOTHING if member.hops is None else str(member.hops),
            "found by": member.finder or NOTHING,
        }
        for member in group.members
    ]
    st.dataframe(
        rows, hide_index=True, alt="The saved tensors of this storage",
        column_config=mib_columns(rows, ("MiB", "repeated MiB")),
    )  # fmt: skip


page()
