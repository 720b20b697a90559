"""An Altair chart on the page, without checking it against Vega-Lite's schema on every run.

Contract: the chart as `st.altair_chart` shows it. The check takes longer than the questions that
the chart answers; the tests make it on every chart, the page does not repeat it.
Boundary: shows; what is drawn is the chart's.
"""

from __future__ import annotations

from typing import Any

import altair
import streamlit as st
from altair.utils import schemapi

from dashboard.charts.frame import Layered

schemapi.disable_debug_mode()  # no check of every part while it is built
altair.theme.enable("none")  # its size of 300 pixels would be the chart's


def show_chart(
    chart: Layered | altair.Chart, *, key: str, alt: str, select: str | None = None
) -> Any:
    """Draws the chart; `select` names a selection whose event is returned."""
    spec = chart.to_dict(validate=False)
    if select is None:
        return st.vega_lite_chart(spec, key=key, alt=alt)
    return st.vega_lite_chart(spec, key=key, alt=alt, on_select="rerun", selection_mode=select)
