"""Tensor, view, storage: Table 1 of the eDKM paper, live.

Contract: the reader predicts the host bytes of two copies, then sees them measured, and what
marshaling makes of them; ends in the reader's own run.
Boundary: no computing here; the experiment is dashboard.lessons.storages.
"""

from __future__ import annotations

import streamlit as st

from dashboard.charts.lessons import line_chart, line_records
from dashboard.frame import ground
from dashboard.lessons.storages import SECONDS, Line, bytes_of, table_1
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.lesson import ask, code_that_ran, own_run, verdict
from dashboard.panels.more import more_on
from profiler.analyses.duplicates import duplicates
from profiler.reports.units import MIB, format_bytes

TITLE = "When are two tensors one piece of memory?"


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    st.write(
        "A tensor is a way of looking at a storage. A view is another way of looking at the same "
        "one, and costs nothing. Copying both to the host forgets that they were one."
    )
    left, right = st.columns(2)
    second = left.selectbox("Line 1 makes x1 as", list(SECONDS), key="second", bind="query-params")
    side = right.select_slider(
        "n, side of x0", [256, 512, 1024, 2048], value=1024, key="side", bind="query-params"
    )
    lines = measured(side, second)
    st.code("\n".join(f"{line.code:32}# {number}" for number, line in enumerate(lines)))
    _ask(lines, side, second)
    code_that_ran(bytes_of)
    _own_run()


@st.cache_data(max_entries=32, show_spinner="Running")
def measured(side: int, second: str) -> list[Line]:
    """The four lines, run now."""
    return table_1(side, second)


def _ask(lines: list[Line], side: int, second: str) -> None:
    size = 4 * side * side
    choices = [0, size // 2, size, size * 3 // 2, 2 * size]
    question = f"x0 has {format_bytes(size)}. What do y0 and y1 hold on the host after line 3?"
    guess = ask(question, choices, f"{side}-{second}", format_bytes)
    if guess is None:
        return
    last = lines[-1]
    said = (
        f"**{format_bytes(last.host)}** on the host for {format_bytes(last.device)} on the device. "
    )
    if last.marshaled < last.host:
        said += (
            f"Marshaling sees that x1 lies in the storage of x0, and keeps "
            f"**{format_bytes(last.marshaled)}**."
        )
    else:
        said += "x1 has a storage of its own here, so there is nothing to share."
    verdict(guess == last.host, said)
    st.write(
        "Three bars per line: device, host when every tensor is copied, host with the marshaling "
        "of `edkm.saved`."
    )
    show_chart(line_chart(lines, ground()), key="lines", alt="Bytes held after each line, by place")
    offer_data("lines", lambda: line_records(lines))
    _paper(side, second)


def _paper(side: int, second: str) -> None:
    if side * side * 4 == 4 * MIB and second == next(iter(SECONDS)):
        st.caption(
            "This is Table 1 of arXiv 2309.00964: 4, 4, 4, 4 MB on the GPU and 0, 0, 4, 8 MB on "
            "the CPU. Here a second piece of CPU memory stands for the host."
        )


def _own_run() -> None:
    view = own_run("saves")
    if view is None:
        return
    found = view.ask(duplicates)
    st.write(
        f"In {view.place}, {found.saves} tensors were saved; {len(found.groups)} storages appear "
        f"more than once among them, {format_bytes(found.repeated_bytes)} repeated."
    )
    more_on("app_pages/duplicates.py", "What is held or sent twice?")


page()
