"""The view as one self-contained HTML file: the button in the sidebar.

Contract: a page may say what its view looks like as HTML (`export_as`); of any other page the
profiler's report of the chosen run and step is given. Made when it is asked for.
Boundary: the button; the HTML is dashboard.views' and profiler.reports.html's.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

_MADE = "view_to_export"  # session key: what the page said in this run of the script


def begin_page() -> None:
    """Forgets what the page before said."""
    st.session_state.pop(_MADE, None)


def export_as(stem: str, make: Callable[[], str]) -> None:
    """Says how the view of this page becomes HTML, and the name of the file."""
    st.session_state[_MADE] = (stem, make)


def offer_page() -> None:
    """The button, where there is something to save."""
    made = st.session_state.get(_MADE)
    if made is None:
        return
    stem, make = made
    st.sidebar.download_button(
        "Save this view (HTML)", make, f"{stem}.html", "text/html", key="save_view",
        on_click="ignore", icon=":material/save:",
        help="One file without scripts, to keep or to send; it needs no network.",
    )  # fmt: skip
