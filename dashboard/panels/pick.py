"""A second run, chosen on a page that compares.

Contract: any run of the folder; the newest other one by default; the choice is in the URL.
Boundary: which run, not what is in it.
"""

from __future__ import annotations

import streamlit as st

from dashboard.frame import folder


def pick_other(label: str, *, key: str, own: str, none: str | None = None) -> str | None:
    """The name of another run (or of this one, last in the list); None where there is none.

    none: what the choice of no run is called, and then the default; without it one is chosen.
    """
    names = [name for name in folder().names() if name != own] + [own]
    choices = names if none is None else [none, *names]
    if st.session_state.get(key) not in choices:
        st.session_state.pop(key, None)
    chosen = st.selectbox(label, choices, index=0, key=key, bind="query-params", width=420)
    return None if chosen == none else chosen
