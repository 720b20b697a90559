"""How can a gradient pass through clustering?

Contract: the reader predicts which weights feel the gradient of one clustered weight, then sees
what autograd says at the temperature chosen; ends in the reader's own run.
Boundary: no computing here; the experiment is dashboard.lessons.kmeans.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard.charts.pulls import GROUP_WORDS, curve_chart, pull_chart, pull_records
from dashboard.frame import ground
from dashboard.lessons.kmeans import FELT, Clustered, clustered, gradient_through
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.lesson import ask, code_that_ran, own_ablation, verdict
from dashboard.panels.more import more_on
from dashboard.words import literal
from profiler.reports.units import format_error

TITLE = "How can a gradient pass through clustering?"
MULTIPLES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
CHOICES = {
    "only that weight": "itself",
    "the weights of its cluster": "own cluster",
    "weights of other clusters too": "other clusters",
}


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    st.write(
        "Clustering replaces every weight by one of a few **centroids**. Taking the nearest one is "
        "a staircase: flat, then a jump, so its derivative says nothing. DKM takes a mixture of "
        "all centroids instead, the near ones counting most, and moves each centroid to the mean "
        "of the weights that count for it. The **temperature** tau says how soft the mixture is."
    )
    left, right = st.columns(2)
    bits = left.select_slider(
        "Bits per weight (2 to that power centroids)", [2, 3, 4], value=3, key="bits",
        bind="query-params",
    )  # fmt: skip
    multiple = right.select_slider(
        "tau, in multiples of the default", MULTIPLES, value=1.0, key="tau", bind="query-params"
    )
    found = measured(bits, multiple)
    st.write(
        "400 weights, and what becomes of each: softly at this tau, and by its nearest centroid "
        "(dashed lines). The circle is the one weight that our loss looks at."
    )
    show_chart(
        curve_chart(found, ground()), key="curve", alt="Soft and hard clustering of the weights"
    )
    guess = ask(
        "The loss looks at that one clustered weight only. Which weights get a gradient?",
        list(CHOICES), "kmeans",
    )  # fmt: skip
    if guess is not None:
        _answer(found, guess)
    code_that_ran(gradient_through)
    _own_run()


@st.cache_data(max_entries=32, show_spinner="Clustering")
def measured(bits: int, multiple: float) -> Clustered:
    """One clustering and one backward, now."""
    return clustered(bits, multiple)


def _answer(found: Clustered, guess: str) -> None:
    said = ", ".join(f"{GROUP_WORDS[name]} {100 * part:.0f} %" for name, part in _shares(found))
    verdict(
        CHOICES[guess] == found.reach,
        f"At tau = {found.tau:.2g} the gradient goes to: **{said}** (a group with less than "
        f"{100 * FELT:.0f} % does not count). There are two ways: a weight changes its own "
        "mixture, and it moves every centroid that it helps to place, and so all other weights.",
    )
    st.write(
        "Each dot is a weight; its height is the gradient that it gets. Cool tau down to 0.03 "
        "and the first way closes, for the curve is flat: what is left goes through the centroid, "
        "evenly to its whole cluster."
    )
    show_chart(pull_chart(found, ground()), key="pulls", alt="The gradient that every weight gets")
    offer_data("gradients", lambda: pull_records(found))


def _shares(found: Clustered) -> list[tuple[str, float]]:
    return [(name, part) for name, part in found.shares.items() if part >= 0.005]


def _own_run() -> None:
    own = own_ablation(
        "clusters no weight that was measured. Record the ablation of one layer "
        "(`python -m profiler.trace --layer attn0`), whose tau and gradients are compared."
    )
    if own is None:
        return
    name, seen = own
    st.write(
        f"{literal(name)} clustered with {_taus(seen.raw.get('tau'))}. Relative error "
        "of the gradient against the same clustering in float64:"
    )
    st.dataframe(
        [
            {"optimizations": row.name, "error": format_error(row.grad_rel_error)}
            for row in seen.rows
        ],
        hide_index=True, alt="Error of the gradient per configuration",
    )  # fmt: skip
    more_on("app_pages/optimizations.py", "What does each optimization save?")


def _taus(taus: Any) -> str:
    """The recorded temperatures, by matrix."""
    if not isinstance(taus, dict) or not all(isinstance(tau, float) for tau in taus.values()):
        return "a tau that was not recorded"
    return "tau = " + ", ".join(f"{tau:.2g} ({literal(name)})" for name, tau in taus.items())


page()
