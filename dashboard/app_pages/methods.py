"""How is it measured, and what is not seen?

Contract: how figures come about, their limits, the words used, and what the chosen run says of the
machine and the versions it was recorded with.
Boundary: words and run.json; no figures of a run.
"""

from __future__ import annotations

import streamlit as st

from dashboard.frame import look
from dashboard.methods import WORDS
from dashboard.words import literal
from profiler.reports.units import format_bytes

TITLE = "How is it measured, and what is not seen?"
SHOWN = {"command": "command", "level": "level", "ranks": "ranks", "created": "recorded"}


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    st.markdown(WORDS)
    st.subheader("The chosen run")
    view = look("totals")
    if isinstance(view, str):
        st.caption(view)
        return
    info = view.opened.run.info
    rows = [{"what": words, "value": str(info.get(key, ""))} for key, words in SHOWN.items()]
    for part in ("versions", "hardware"):
        found = info.get(part)
        if isinstance(found, dict):
            rows += [{"what": key, "value": _value(key, value)} for key, value in found.items()]
    st.write(f"What {literal(view.opened.name)} says of itself:")
    st.dataframe(rows, hide_index=True, alt="Versions and hardware of the chosen run")


def _value(key: str, value: object) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return format_bytes(value)
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


page()
