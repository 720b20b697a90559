"""What was the peak, and who owns it?

Contract: one step: its figures, one bar of the fullest moment, three sentences, the modules.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.charts.shares import share_chart, share_records
from dashboard.frame import View, explore, ground
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.metrics import metric_grid
from dashboard.sentences import fullest, sentences, shares
from dashboard.tables import mib_columns, mib_value, short_op
from profiler.analyses.duplicates import Duplicates, duplicates
from profiler.analyses.ledger import Balance, Ledger, ledger
from profiler.analyses.places import operations
from profiler.reports.units import format_mib

TITLE = "What was the peak, and who owns it?"


def page() -> None:
    """Draws the page."""
    view = explore(TITLE, "totals")
    if view is None:
        return
    seen = view.ask(ledger)
    detailed = bool(view.contents.tables["saves"])
    found = view.ask(duplicates) if detailed else None
    balance = fullest(seen)
    _metrics(seen, found, balance)
    st.subheader("The fullest moment")
    if balance is None or not sum(shares(balance).values()):
        st.info("No memory sample was taken in this step, so its peak cannot be divided.")
    else:
        _bar(view, balance)
    for line in sentences(seen, found):
        st.markdown(f"- {line}")
    _modules(seen)
    if detailed:
        _operations(view)


def _metrics(seen: Ledger, found: Duplicates | None, balance: Balance | None) -> None:
    repeated = None if found is None else found.repeated_bytes
    figures = [
        ("Peak, MiB", None if balance is None else balance.allocated_bytes, "Largest sample"),
        (
            "Saved, MiB",
            seen.total.unique_bytes,
            "Storages that autograd saved, each once, wherever they were kept",
        ),
        ("Repeated, MiB", repeated, "Bytes that an earlier saved tensor holds already"),
        (
            "Weights, MiB",
            seen.total.param_storage_bytes,
            "Parameters among the saved tensors: in memory anyway",
        ),
        ("Host, MiB", seen.total.host_bytes, "Host copies made for backward"),
    ]
    shown = [(label, format_mib(count), words) for label, count, words in figures]
    metric_grid(shown, width=150)  # all five in a row at 1280


def _bar(view: View, balance: Balance) -> None:
    st.write(
        f"What {balance.device} held at the fullest sample of {view.place}; widths are shares."
    )
    show_chart(
        share_chart(shares(balance), ground()), key="shares",
        alt="One bar of the fullest moment, divided by category",
    )  # fmt: skip
    offer_data("shares", partial(share_records, shares(balance)))


def _modules(seen: Ledger) -> None:
    st.subheader("By module")
    rows = [
        {
            "module": entry.module or "(root)",
            "saved MiB": mib_value(entry.unique_bytes),
            "repeated MiB": mib_value(entry.aliased_bytes),
            "saves": entry.saves,
            "class": entry.kind,
        }
        for entry in seen.modules
    ]
    st.dataframe(
        rows, hide_index=True, height=min(300, 38 + 35 * len(rows)),
        alt="Saved bytes per module",
        column_config=mib_columns(rows, ("saved MiB", "repeated MiB")),
    )  # fmt: skip


def _operations(view: View) -> None:
    st.subheader("By operation")
    rows = [
        {
            "operation": short_op(each.op) or "(unknown)",
            "saved MiB": mib_value(each.unique_bytes),
            "repeated MiB": mib_value(each.aliased_bytes),
            "saves": each.saves,
        }
        for each in view.ask(operations)
    ]
    st.dataframe(
        rows, hide_index=True, height=min(300, 38 + 35 * len(rows)),
        alt="Saved bytes per operation",
        column_config=mib_columns(rows, ("saved MiB", "repeated MiB")),
    )  # fmt: skip


page()
