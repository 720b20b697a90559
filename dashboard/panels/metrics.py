"""Figures to see first, as many to a row as there is room for, so that none is cut.

Contract: every figure has a label, a value and the words that explain it.
Boundary: shows; formats nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

Figure = tuple[str, str, str]  # label, value, what it means
WIDTH = 168  # pixels: room for "1600.0" and for "Repeated, MiB"; two in a row of a telephone


def metric_grid(figures: Sequence[Figure], width: int = WIDTH) -> None:
    """Draws the figures from left to right, and below."""
    with st.container(horizontal=True):
        for label, value, words in figures:
            st.metric(label, value, help=words, border=True, width=width)
