"""A link to another page that goes on with the question.

Contract: looks like a link: an arrow and the question that the other page answers.
Boundary: one line.
"""

from __future__ import annotations

import streamlit as st


def more_on(page: str, question: str) -> None:
    """`page`: its file below the dashboard, as in `app_pages/where.py`."""
    st.page_link(page, label=question, icon=":material/arrow_forward:")
