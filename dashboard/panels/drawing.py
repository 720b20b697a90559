"""A small graph on the page, with its data and its picture to keep.

Contract: drawn by the browser; the picture is made on the server when it is asked for.
Boundary: shows; what is drawn is the chart's.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.charts.dot import Drawing, digraph, drawing_records
from dashboard.charts.svg import svg
from dashboard.frame import ground
from dashboard.panels.download import offer_data, offer_picture


def show_drawing(drawing: Drawing, *, name: str, alt: str) -> None:
    """Draws the graph; `name` is the stem of the files."""
    st.graphviz_chart(digraph(drawing, ground()), alt=alt)
    with st.container(horizontal=True):
        offer_data(name, partial(drawing_records, drawing), "What the graph draws.")
        offer_picture(name, partial(svg, drawing, ground()))
