"""Will it fit?

Contract: levers, and the peak that they would give beside what was measured. Nothing is run; a
predicted figure is always called so. The levers are in the URL.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from dashboard.charts.forecast import FIGURES, forecast_chart, forecast_records
from dashboard.frame import View, explore, ground, look_at
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.export import export_as
from dashboard.panels.pick import pick_other
from dashboard.tables import mib_columns, mib_value
from dashboard.views import whatif_html
from dashboard.words import literal
from profiler.analyses.levers import Levers, levers
from profiler.analyses.steprows import read_step
from profiler.analyses.whatif import Measured, Prediction, Scenario, WhatIf, measured, what_if
from profiler.reports.units import MIB, NOTHING, format_bytes
from profiler.reports.whatif_text import FIGURES as COLUMNS
from profiler.reports.whatif_text import HEADERS, deviation

TITLE = "Will it fit?"
NOWHERE = "nothing"
NO_RUN = "no run"


def page() -> None:
    """Draws the page."""
    view = explore(TITLE, "saves")
    if view is None:
        return
    st.write(
        "Predicted from this one recorded step, without running anything: which storages would "
        "stay, which would leave, and how high the peak would be. Pull the levers."
    )
    scenario, budget = _levers(view.ask(levers))
    beside = _beside(view)
    found = _predicted(view, scenario, beside)
    _verdict(found, budget)
    _charts(found, budget)
    _table(found)
    export_as(
        f"{view.opened.name}-step{view.step}-what-if",
        partial(whatif_html, TITLE, f"{view.opened.name}, step {view.step}", found),
    )


def _levers(seen: Levers) -> tuple[Scenario, float | None]:
    """What the viewer asks for, and how much memory there is, in MiB."""
    first, second, third = st.columns(3)
    stay = "what the run sent" if seen.offloaded else NOWHERE
    places = [stay, *seen.patterns]
    offload = first.selectbox(
        "Offload to the host", places, key="offload", bind="query-params",
        help="Saved tensors of these modules leave the device after forward. *: all.",
    )  # fmt: skip
    checkpoint = second.selectbox(
        "Compute again in backward", [NOWHERE, *seen.patterns], key="checkpoint",
        index=1 + (len(seen.patterns) > 1) if not seen.offloaded else 0, bind="query-params",
        help="Checkpointing: only what enters these modules is kept.",
    )  # fmt: skip
    budget = third.number_input(
        "Memory of the device, MiB", min_value=0.0, value=None, step=1.0, key="budget",
        bind="query-params", help="Draws a line, and says what fits. Empty: no line.",
    )  # fmt: skip
    moving = seen.offloaded or offload != stay
    on = st.columns(3)
    once = on[0].toggle(
        "M: copy once", value=True, key="once", bind="query-params", disabled=not moving,
        help="Each storage is copied once.",
    )  # fmt: skip
    tables = on[1].toggle(
        "U: tables", key="tables", bind="query-params", disabled=not moving,
        help="Maps are kept as tables of distinct 16-bit values.",
    )  # fmt: skip
    learners = on[2].select_slider(
        "S: learners", [1, 2, 4, 8, 16, 32], key="learners", bind="query-params",
        disabled=not moving,
    )  # fmt: skip
    if not moving:
        st.caption("M, U and S change what is offloaded: choose first what to offload.")
    scenario = Scenario(
        name="your levers",
        dedupe=moving and once,
        every=moving and not once and offload == stay,
        uniquify=moving and tables,
        shard=learners if moving else 1,
        offload=() if offload == stay else (offload,),
        checkpoint=() if checkpoint == NOWHERE else (checkpoint,),
    )
    return scenario, budget or None


def _beside(view: View) -> Measured | None:
    """What another run measured, to stand beside the prediction of the levers."""
    name = pick_other(
        "Beside it: a run that did this", key="beside", own=view.opened.name, none=NO_RUN
    )
    if name is None:
        return None
    other = look_at(name, "saves", view.step)
    if isinstance(other, str):
        st.info(f"{literal(name)}: {other}")
        return None
    return other.ask(measured)


def _predicted(view: View, scenario: Scenario, beside: Measured | None) -> WhatIf:
    """The levers first, then what is worth asking of any run; the step is read once for both."""
    rows = view.ask(read_step)
    base = view.ask(measured)
    ask, step = view.opened.ask, view.step
    mine = ask(what_if, (scenario,), step, beside=beside, rows=rows, base=base)
    usual = ask(what_if, None, step, rows=rows, base=base)
    return replace(mine, predictions=[*mine.predictions, *usual.predictions])


def _verdict(found: WhatIf, budget: float | None) -> None:
    mine = found.predictions[0]
    before, after = found.base.measured_peak_bytes, mine.predicted_peak_bytes
    columns = st.columns(3)
    columns[0].metric(
        "Measured peak",
        format_bytes(before),
        help="As it was recorded",
        border=True,
        height="stretch",
    )
    change = f"{100 * (after - before) / before:+.0f} %" if before and after != before else None
    columns[1].metric(
        "Predicted peak", format_bytes(after), change, help="With your levers", border=True,
        delta_color="inverse", height="stretch",
    )  # fmt: skip
    off = deviation(mine, "peak")
    if mine.beside is not None:
        columns[2].metric(
            "Measured beside it",
            format_bytes(mine.beside.measured_peak_bytes),
            None if off is None else f"predicted {off:+.1%}",
            delta_color="off", delta_arrow="off", border=True, height="stretch",
        )  # fmt: skip
    if budget:
        fits = after <= budget * MIB
        said = f"Predicted {format_bytes(after)} of {budget:g} MiB."
        (st.success if fits else st.error)(f"{'It fits' if fits else 'It does not fit'}. {said}")


def _charts(found: WhatIf, budget: float | None) -> None:
    for figure, words in FIGURES.items():
        st.subheader(words)
        if figure == "peak":
            st.write("Full bars were measured, dashed ones are predicted.")
        show_chart(
            forecast_chart(
                found.base, found.predictions, ground(), figure=figure,
                budget_mib=budget if figure == "peak" else None,
            ),
            key=f"forecast-{figure}", alt=f"{words} per setting, measured and predicted",
        )  # fmt: skip
        offer_data(
            f"what-if-{figure}",
            partial(forecast_records, found.base, found.predictions, figure),
        )
    notes = dict.fromkeys(note for one in found.predictions for note in one.assumes)
    if notes:
        st.caption("Assumed: " + "; ".join(literal(note) for note in notes) + ".")


def _table(found: WhatIf) -> None:
    with st.expander("All figures"):
        rows = [_row("as recorded", "measured", found.base)]
        for one in found.predictions:
            rows.append(_row(one.scenario, "predicted", one))
            if one.beside is not None:
                rows.append(_row(one.scenario, "measured", one.beside))
        names = [f"{header} MiB" for header in HEADERS]
        st.dataframe(
            rows, hide_index=True, alt="Every figure per setting",
            column_config=mib_columns(rows, names),
        )  # fmt: skip


def _row(line: str, kind: str, of: Measured | Prediction) -> dict[str, Any]:
    row: dict[str, Any] = {"setting": line or NOTHING, "figure": kind}
    for name, header in zip(COLUMNS, HEADERS, strict=True):
        row[f"{header} MiB"] = mib_value(getattr(of, f"{kind}_{name}_bytes"))
    return row


page()
