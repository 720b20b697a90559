"""What do DKM's centroids do?

Contract: one small weight is clustered now, by `edkm.dkm`, with the settings of the sliders; they
are in the URL.
Boundary: no computing here; the clustering is dashboard.lessons.centroids.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.charts.clustering import (
    attention_chart,
    attention_records,
    histogram_chart,
    path_records,
    paths_chart,
    weight_records,
)
from dashboard.frame import ground
from dashboard.lessons.centroids import COLUMNS, ROWS, SHAPES, Clustered, cluster
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.metrics import metric_grid
from dashboard.panels.more import more_on

TITLE = "What do DKM's centroids do?"
MULTIPLES = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0]


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    st.write(
        f"A weight of {ROWS} x {COLUMNS} numbers is replaced by a mix of a few centroids. Each "
        "weight belongs to every centroid a little (attention); each centroid moves to the mean of "
        "what belongs to it. A high temperature mixes, a low one decides."
    )
    shape, bits, multiple, updates = _settings()
    seen = clustered(shape, bits, multiple, updates)
    _metrics(seen, bits)
    st.subheader("The weights, and where the centroids end")
    st.write("Blue: the weights. Orange: softly clustered. Rules: the centroids.")
    show_chart(
        histogram_chart(seen, ground()), key="weights",
        alt="Histogram of weights before and after soft clustering, with centroids",
    )  # fmt: skip
    offer_data("weights", partial(weight_records, seen))
    st.subheader("How they got there")
    st.write("Downwards: one update after the other, from where k-means++ put them.")
    show_chart(paths_chart(seen, ground()), key="paths", alt="Centroids after every update")
    offer_data("centroids", partial(path_records, seen))
    st.subheader("Who belongs to whom")
    st.write(
        "A column is a weight, a row a centroid; full blue is a strong bond. Maps like this one, "
        "of every weight of the model, are what plain DKM keeps for backward, and what eDKM avoids."
    )
    show_chart(
        attention_chart(seen, ground()), key="attention", alt="Attention of weights to centroids"
    )
    offer_data("attention", partial(attention_records, seen))
    more_on("app_pages/optimizations.py", "What does keeping such maps cost?")


def _settings() -> tuple[str, int, float, int]:
    columns = st.columns(4)
    shape = columns[0].selectbox(
        "Weights", list(SHAPES), key="shape", bind="query-params",
        format_func=lambda name: SHAPES.get(name, name),
    )  # fmt: skip
    bits = columns[1].slider("Bits", 1, 5, 3, key="bits", bind="query-params")
    multiple = columns[2].select_slider(
        "Temperature, x default", MULTIPLES, value=1.0, key="tau",
        bind="query-params", format_func=lambda value: f"{value:g}",
    )  # fmt: skip
    updates = columns[3].slider("Updates", 1, 12, 5, key="updates", bind="query-params")
    return shape, bits, multiple, updates


@st.cache_data(max_entries=64, show_spinner="Clustering")
def clustered(shape: str, bits: int, multiple: float, updates: int) -> Clustered:
    """The clustering, run now."""
    return cluster(shape, bits, multiple, updates)


def _metrics(seen: Clustered, bits: int) -> None:
    before, soft, hard = seen.distinct
    figures = [
        ("Distinct values", f"{before}", "Of the weights, rounded to 16 bits"),
        ("Softly clustered", f"{soft}", "Distinct 16-bit values while training"),
        ("Hard", f"{hard}", f"What is stored: {bits} bits a weight and a table"),
        ("Error, soft", f"{seen.soft_error:.1%}", "Relative L2 distance from the weights"),
        ("Error, hard", f"{seen.hard_error:.1%}", "The same with every weight on its centroid"),
        ("Soft to hard", f"{seen.gap:.1%}", "What rounding at the end still changes"),
    ]
    metric_grid(figures)


page()
