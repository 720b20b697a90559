"""The figures of one configuration as a row of metrics, and of all of them as a table.

Contract: MiB are 2**20 bytes, scaled here; a figure that was not recorded is a dash. What is
simulated is called so in its label.
Boundary: shows; computes nothing but the unit.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard.panels.metrics import WIDTH
from profiler.analyses.levers import Combinations
from profiler.reports.ablation_view import AblationView, Row
from profiler.reports.theme import in_order
from profiler.reports.units import (
    NOTHING,
    format_error,
    format_factor,
    format_mib,
    format_seconds,
)


def metrics(seen: AblationView, row: Row) -> list[tuple[str, str, str | None]]:
    """Label, value and second line of each metric of `row`."""
    bus = "simulated" if seen.raw.get("simulated_host") else None
    paper = factor = None
    if row.paper is not None and not seen.differences:
        paper = f"paper {row.paper.host_mib} MB"
    if row.paper is not None:
        factor = f"paper {format_factor(row.paper.reduction)}"
    return [
        ("Host, MiB", format_mib(row.host_bytes), paper),
        ("Less by", format_factor(row.reduction), factor),
        ("D2H, MiB", format_mib(row.d2h_bytes), bus),
        ("H2D, MiB", format_mib(row.h2d_bytes), bus),
        ("Forward, s", format_seconds(row.forward_s), None),
        ("Backward, s", format_seconds(row.backward_s), None),
        ("Peak, MiB", format_mib(row.peak_bytes), None),
    ]


def metric_row(seen: AblationView, row: Row) -> None:
    """Draws the metrics of the chosen configuration."""
    with st.container(horizontal=True):
        for label, value, second in metrics(seen, row):
            st.metric(
                label, value, second, delta_color="off", delta_arrow="off", border=True,
                width=WIDTH, height="stretch",
            )  # fmt: skip


def table(seen: AblationView) -> list[dict[str, Any]]:
    """One record per configuration, ready to show."""
    return [
        {
            "configuration": row.name,
            "host MiB": format_mib(row.host_bytes),
            "paper MB": NOTHING if row.paper is None else str(row.paper.host_mib),
            "factor": format_factor(row.reduction),
            "paper factor": NOTHING if row.paper is None else format_factor(row.paper.reduction),
            "peers MiB": format_mib(row.peer_bytes),
            "D2H MiB": format_mib(row.d2h_bytes),
            "H2D MiB": format_mib(row.h2d_bytes),
            "peak MiB": format_mib(row.peak_bytes),
            "forward s": format_seconds(row.forward_s),
            "backward s": format_seconds(row.backward_s),
            "paper ~s": NOTHING if row.paper is None else f"{row.paper.approximate_runtime_s:g}",
            "max hops": NOTHING if row.max_hops is None else str(row.max_hops),
            "gradient error": format_error(row.grad_rel_error),
        }
        for row in seen.rows
    ]


def figures_table(seen: AblationView) -> None:
    """Draws the table of every configuration."""
    st.dataframe(table(seen), hide_index=True, alt="Every recorded figure per configuration")
    st.caption(
        "Paper: Table 2 of arXiv 2309.00964; its MB are 2**20 bytes, its seconds approximate, on "
        "8 x A100. Peers: what the other, simulated learners would hold. Gradient error: relative "
        "L2 against the float64 dense gradient."
    )


def combinations(seen: AblationView, predicted: Combinations) -> list[dict[str, Any]]:
    """One record per combination: what was measured, what is predicted, what the paper says."""
    guessed = {one.name: one for one in predicted.rows}
    records = []
    for name in in_order(dict.fromkeys([*guessed, *(row.name for row in seen.rows)])):
        row, one = seen.row(name), guessed.get(name)
        said = NOTHING if one is None else format_mib(one.predicted_host_bytes)
        records.append(
            {
                "combination": name,
                "is": "measured" if row is not None else "predicted only",
                "host MiB, measured": format_mib(None if row is None else row.host_bytes),
                "host MiB, predicted": f"at most {said}" if one and one.upper_bound else said,
                "paper MB": NOTHING
                if row is None or row.paper is None
                else str(row.paper.host_mib),
                "D2H MiB, measured": format_mib(None if row is None else row.d2h_bytes),
                "D2H MiB, predicted": format_mib(None if one is None else one.predicted_d2h_bytes),
                "H2D MiB, measured": format_mib(None if row is None else row.h2d_bytes),
                "H2D MiB, predicted": format_mib(None if one is None else one.predicted_h2d_bytes),
            }
        )
    return records


def combinations_table(seen: AblationView, predicted: Combinations) -> None:
    """Draws the table of the eight combinations and fused."""
    st.dataframe(
        combinations(seen, predicted), hide_index=True,
        alt="Measured, predicted and the paper's host bytes per combination",
    )  # fmt: skip
    assumed = "; ".join(predicted.assumes)
    st.caption(
        "Predicted from the recorded row none; fused saves other tensors and is only measured."
        + (f" Assumed: {assumed}." if assumed else "")
    )
