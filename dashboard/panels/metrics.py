"""Figures to see first, a few to a row, so that none is cut on a narrow screen.

Contract: every figure has a label, a value and the words that explain it.
Boundary: shows; formats nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

Figure = tuple[str, str, str]  # label, value, what it means


def metric_grid(figures: Sequence[Figure], per_row: int = 4) -> None:
    """Draws the figures in rows of `per_row`."""
    for first in range(0, len(figures), per_row):
        for column, (label, value, words) in zip(
            st.columns(per_row), figures[first : first + per_row], strict=False
        ):
            column.metric(label, value, help=words, border=True, height="stretch")
