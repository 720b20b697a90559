"""The toggles M, U and S (and fused, where recorded), and what to do about a missing combination.

Contract: the state is in the URL. A combination that the run did not record is explained, with
the command that records it; for a preset also with a button.
Boundary: which row is chosen, not what it shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard.data import RunSummary
from dashboard.panels.record import PRESETS, may_record, recorder, start
from dashboard.recording import Request
from dashboard.words import command_line, literal
from profiler.analyses.levers import Combinations
from profiler.reports.ablation_view import AblationView
from profiler.reports.units import format_mib

SWITCHES = {
    "M": "Marshaling: keep one host copy of what several saved tensors can be rebuilt from.",
    "U": "Uniquification: keep one row per distinct 16-bit weight, and an index list.",
    "S": "Sharding: each learner keeps its share and gathers the rest in backward.",
}
FUSED = "Fused: the whole clustering on the table of 16-bit values; nothing large is saved."
_LAYER = re.compile(r"(attn|mlp)\d{1,4}")


def choose_row(seen: AblationView) -> str:
    """Draws the toggles; returns the name of the row that they spell, recorded or not."""
    has_fused = seen.row("fused") is not None
    columns = st.columns(len(SWITCHES) + has_fused, width=110 * (len(SWITCHES) + has_fused))
    fused = False
    if has_fused:
        with columns[-1]:
            fused = st.toggle("fused", key="fused", bind="query-params", help=FUSED)
    chosen = []
    for column, (name, words) in zip(columns, SWITCHES.items(), strict=False):
        with column:
            on = st.toggle(name, key=name, bind="query-params", help=words, disabled=fused)
        if on:
            chosen.append(name)
    return "fused" if fused else "+".join(chosen) or "none"


def offer_missing(
    root: Path, summary: RunSummary, seen: AblationView, name: str, predicted: Combinations | None
) -> None:
    """Says that `name` was not recorded, what is predicted for it, and how to record it."""
    st.info(
        f"This run did not record {literal(name)}. It has: "
        + ", ".join(literal(row.name) for row in seen.rows)
        + "."
    )
    for one in predicted.rows if predicted else []:
        if one.name == name:
            most = "at most " if one.upper_bound else ""
            st.metric(
                "Host, MiB, predicted (what-if)",
                most + format_mib(one.predicted_host_bytes),
                help="From the recorded row none, without running this combination.",
                border=True, width=320,
            )  # fmt: skip
    configs = tuple(row.name for row in seen.rows)
    request = request_like(summary.info, seen.raw, (*configs, name))
    if request is None:
        st.caption("Record it with the command of this run and --configs " + literal(name) + ".")
        return
    st.code(command_line(request.arguments(root / "my-run")), language="sh")
    if not may_record() or recorder(root).current is not None:
        return
    if st.button("Record it", key="record_missing"):
        start(root, request)


def request_like(
    info: Mapping[str, Any], raw: Mapping[str, Any], configs: tuple[str, ...]
) -> Request | None:
    """The same measurement with other configurations; None unless it is a preset's.

    Only presets: a run folder is data, and must not choose which checkpoint gets loaded.
    """
    model, layer = info.get("model"), raw.get("layer")
    if model not in PRESETS or not isinstance(layer, str) or not _LAYER.fullmatch(layer):
        return None
    extra = [
        part
        for key in ("bits", "iterations", "learners")
        if isinstance(raw.get(key), int)
        for part in (f"--{key}", str(raw[key]))
    ]
    return Request(model=model, layer=layer, configs=configs, extra=tuple(extra))
