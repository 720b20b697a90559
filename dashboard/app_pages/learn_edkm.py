"""What does eDKM keep for backward?

Contract: the reader predicts how many times its own size a clustered weight keeps, then sees what
every optimization held on the host just now; ends in the reader's own run.
Boundary: no computing here; the experiment is dashboard.lessons.clustering.
"""

from __future__ import annotations

import streamlit as st

from dashboard.charts.held import held_chart, held_records
from dashboard.frame import ground
from dashboard.lessons.clustering import (
    CLUSTERS,
    LEARNERS,
    Comparison,
    compare,
    held_for_backward,
)
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.lesson import ask, code_that_ran, own_ablation, verdict
from dashboard.panels.more import more_on
from dashboard.tables import mib_columns, mib_value
from dashboard.theme import in_order
from profiler.reports.units import format_bytes, format_error, format_factor

TITLE = "What does eDKM keep for backward?"
TIMES = [2, 8, 17, 50]
STEPS = {
    "none": "Soft clustering compares every weight with every centroid. Each operation of it "
    "keeps such a map, one number per weight and centroid: six maps, and the weight twice.",
    "M": "**Marshaling** sees that some maps are the same memory, and that one follows from "
    "another: two maps and one weight are left.",
    "M+S": f"**Sharding** lets each of {LEARNERS} learners keep its part of what all of them "
    "computed alike. (Simulated here: the others' parts are held too, and not counted.)",
    "M+U": "**Uniquification**: 16 bits have at most 65,536 patterns, so weights repeat, and equal "
    "weights have equal rows. Keep each row once, and 2 bytes a weight to say which.",
    "M+U+S": "All three together.",
    "fused": "Past the paper: the pattern of a weight *is* the number of its row. Cluster the "
    "table, never make a map. What is kept is a count of each pattern, 512 KiB whatever the "
    "size of the weight, and the weight itself, which is in memory anyway.",
}


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    st.write(
        f"A weight is clustered to 3 bits, {CLUSTERS} centroids, while it is trained. To go "
        "backwards through the clustering, autograd keeps what the clustering was made of. "
        "eDKM sends that to the host, the memory of the CPU, and makes it small first."
    )
    side = st.select_slider(
        "Rows and columns of the weight (bfloat16)", [64, 128, 256, 512, 1024], value=256,
        key="side", bind="query-params",
    )  # fmt: skip
    size = format_bytes(2 * side * side)
    guess = ask(
        f"The weight has {size}. How many times that is kept for backward, with nothing done "
        "about it?",
        TIMES, "edkm", lambda times: f"{times} times",
    )  # fmt: skip
    if guess is not None:
        _answer(measured(side), guess)
    code_that_ran(held_for_backward)
    _own_run()


@st.cache_data(max_entries=16, show_spinner="Clustering six times")
def measured(side: int) -> Comparison:
    """Every row, now."""
    return compare(side)


def _answer(found: Comparison, guess: int) -> None:
    truth = round(found.held("none") / found.weight_bytes)
    verdict(
        guess == truth,
        f"**{truth} times**: {format_bytes(found.held('none'))}. The paper's layer, 4096 x 4096, "
        "keeps 1600 MiB for a weight of 32, which is the same.",
    )
    st.write(
        "Each bar is what one real forward held on the host until backward, under the policy named "
        "on the left. The axis is logarithmic: every grid line is four times the one before."
    )
    show_chart(
        held_chart(found, ground()), key="held", alt="Bytes kept for backward per optimization"
    )
    offer_data("held", lambda: held_records(found))
    st.write(
        f"Of {found.side * found.side:,} weights only {found.distinct:,} are distinct: tables "
        "hardly grow with the weight, maps do. Move the slider, and see which bars grow."
    )
    for name, words in STEPS.items():
        st.markdown(f"- `{name}` {words}")
    _gradients(found)
    st.caption(
        "The paper's three optimizations: arXiv 2309.00964, sec. 2. Its Table 2 for a layer of "
        "4096 x 4096: 1600, 544, 68, 97 and 12 MB."
    )


def _gradients(found: Comparison) -> None:
    exact = [row.name for row in found.rows if row.exact]
    dense, fused = found.rows[0], found.rows[-1]
    st.write(
        f"Gradients: {', '.join(exact)} agree bit by bit. Against float64, their relative error is "
        f"{format_error(dense.gradient_error)}, for the maps are rounded to 16 bits; that of "
        f"fused is {format_error(fused.gradient_error)}."
    )


def _own_run() -> None:
    own = own_ablation(
        "is no ablation. Record one of a layer of yours: `python -m profiler.trace --layer attn0`."
    )
    if own is None:
        return
    _, seen = own
    by_name = {row.name: row for row in seen.rows}
    rows = [
        {
            "optimizations": name,
            "host MiB": mib_value(by_name[name].host_bytes),
            "less by": format_factor(by_name[name].reduction),
        }
        for name in in_order(by_name)
    ]
    st.dataframe(
        rows, hide_index=True, alt="Host bytes per configuration of the chosen run",
        column_config=mib_columns(rows, ("host MiB",)),
    )  # fmt: skip
    more_on("app_pages/optimizations.py", "What does each optimization save?")


page()
