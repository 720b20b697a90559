"""Peaks under other settings: measured bars full, predicted ones outlined, and the memory there is.

Contract: a predicted figure is never drawn like a measured one, and carries the word. The bar of
the chosen levers stands out. MiB scaled here.
Boundary: Altair only; predictions are profiler.analyses.whatif's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from dashboard.charts.frame import AXIS, NARROW, Layered, at_y, label_limit
from dashboard.theme import Ground, category_colour, ink
from profiler.analyses.whatif import Measured, Prediction
from profiler.reports.units import format_mib, mib

FIGURES = {"peak": "Peak on the device", "host": "Host copies"}
ROOM = 1.4  # of the longest bar: the axis, with the column of figures
_LINE = 34  # pixels per bar


def forecast_records(
    base: Measured, predictions: Sequence[Prediction], figure: str = "peak"
) -> list[dict[str, Any]]:
    """One record per bar: what was recorded, then each prediction with what a run measured."""
    records = [_measured(base, "as recorded", figure)]
    for number, one in enumerate(predictions):
        size = getattr(one, f"predicted_{figure}_bytes")
        bound = "at most " if one.upper_bound and figure == "host" else ""
        records.append(
            {
                "line": f"{number + 1}. {one.scenario}",
                "kind": "predicted",
                "mib": mib(size),
                "label": f"predicted: {bound}{format_mib(size)} MiB",
            }
        )
        if one.beside is not None:
            where = one.beside.name or Path(one.beside.run).name
            records.append(_measured(one.beside, f"{number + 1}. measured: {where}", figure))
    return [record for record in records if record["mib"] is not None]


def forecast_chart(
    base: Measured,
    predictions: Sequence[Prediction],
    ground: Ground,
    *,
    budget_mib: float | None = None,
    figure: str = "peak",
) -> Layered:
    """Bars of one figure per setting; a rule where the device's memory ends."""
    records = forecast_records(base, predictions, figure)
    lines = list(dict.fromkeys(record["line"] for record in records))
    colour = category_colour("saved" if figure == "peak" else "host")
    most = max([record["mib"] for record in records] + [budget_mib or 0.0]) or 1.0
    x = alt.X(
        "mib:Q", axis=alt.Axis(title=f"MiB, {FIGURES[figure].lower()}", tickCount=6, grid=False),
        scale=alt.Scale(domain=[0, most * ROOM], nice=False),
    )  # fmt: skip
    y = alt.Y(
        "line:N", sort=lines, scale=alt.Scale(domain=lines, paddingInner=0.25),
        axis=alt.Axis(title=None, labelLimit=label_limit(340), labelFontSize=13, ticks=False,
                      domain=False, labelOverlap=False),
    )  # fmt: skip
    bars = alt.Chart(alt.InlineData(values=records)).encode(
        x=x, y=y,
        tooltip=[alt.Tooltip("line:N", title="setting"), alt.Tooltip("label:N", title="figure")],
    )  # fmt: skip
    measured = bars.transform_filter(alt.datum.kind == "measured").mark_bar(color=colour)
    predicted = bars.transform_filter(alt.datum.kind == "predicted").mark_bar(
        color=colour, fillOpacity=0.25, stroke=colour, strokeWidth=1.5, strokeDash=[5, 3]
    )
    # in a column at the right end, clear of the rule; where it is narrow the bars alone tell a
    # prediction from a measurement
    figures = (
        bars.transform_calculate(said=f"{NARROW} ? split(datum.label, ': ')[1] : datum.label")
        .mark_text(align="right", baseline="middle", dx=-2, fontSize=12, color=ink(ground))
        .encode(x=alt.XDatum(most * ROOM), text=alt.Text("said:N"))
    )
    layers = [measured, predicted, figures, *_budget(budget_mib, ground)]
    return alt.layer(*layers, height=_LINE * len(lines) + AXIS)


def _measured(row: Measured, line: str, figure: str) -> dict[str, Any]:
    size = getattr(row, f"measured_{figure}_bytes")
    return {
        "line": line,
        "kind": "measured",
        "mib": None if size is None else mib(size),
        "label": f"measured: {format_mib(size)} MiB",
    }


def _budget(budget_mib: float | None, ground: Ground) -> list[alt.Chart]:
    if not budget_mib:
        return []
    at = [{"mib": budget_mib, "label": f"{budget_mib:g} MiB there"}]
    base = alt.Chart(alt.InlineData(values=at)).encode(x=alt.X("mib:Q"))
    text = base.mark_text(
        align="center", baseline="bottom", dy=-3, fontSize=12, color=ink(ground)
    ).encode(y=at_y(0), text=alt.Text("label:N"))
    return [base.mark_rule(color=ink(ground), strokeWidth=2), text]
