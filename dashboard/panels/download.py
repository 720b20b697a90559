"""The data of a chart, as a CSV file to keep, and the picture of a graph.

Contract: made when it is asked for, from the records that the chart drew; text that a spreadsheet
would take for a formula is marked as text. Pictures of charts are saved by their own menus.
Boundary: one button each; which records is the page's.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

Records = Sequence[dict[str, Any]]


CHART = "What the chart draws. Its picture: the menu at the chart's upper right."


def offer_data(name: str, records: Callable[[], Records], words: str = CHART) -> None:
    """A small button below a chart; `name` is the stem of the file."""
    st.download_button(
        "Data (CSV)", lambda: to_csv(records()), f"{name}.csv", "text/csv", key=f"data-{name}",
        on_click="ignore", type="tertiary", icon=":material/download:",
        help=words,
    )  # fmt: skip


def offer_picture(name: str, make: Callable[[], str]) -> None:
    """A small button below a graph that has no menu of its own."""
    st.download_button(
        "Picture (SVG)", make, f"{name}.svg", "image/svg+xml", key=f"picture-{name}",
        on_click="ignore", type="tertiary", icon=":material/image:",
    )  # fmt: skip


def to_csv(records: Records) -> str:
    """Records as CSV, one column per key in the order of first appearance."""
    names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: _cell(value) for name, value in record.items()})
    return out.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
