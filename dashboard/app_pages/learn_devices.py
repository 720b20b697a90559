"""How often does one tensor cross to the host?

Contract: the reader predicts how many copies of x there will be, then sees every copy that was
made, and how far marshaling must look to avoid them; ends in the reader's own run.
Boundary: no computing here; the experiment is dashboard.lessons.devices.
"""

from __future__ import annotations

import streamlit as st

from dashboard.charts.copies import copy_chart, copy_records
from dashboard.frame import ground
from dashboard.lessons.devices import PROGRAMS, SIDE, Copies, copies, sent_to_host
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.lesson import ask, code_that_ran, own_run, verdict
from dashboard.panels.more import more_on
from dashboard.tables import counted, mib_columns, mib_value
from profiler.analyses.duplicates import duplicates
from profiler.reports.units import NOTHING, format_bytes

TITLE = "How often does one tensor cross to the host?"
TIMES = {0: "never", 1: "once", 2: "twice", 3: "three times"}
ACTIONS = {
    "copied": "copied",
    "alias": "refers to a copy that is there",
    "rebuilt": "will be computed again from a copy that is there",
}


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    st.write(
        "Where the memory of the device (a GPU) is short, what autograd saves for backward can "
        "wait on the host (the memory of the CPU). torch copies one saved tensor at a time and "
        "forgets which memory it came from. **Marshaling** (M in the eDKM paper) looks first: "
        "is it there already?"
    )
    left, right = st.columns(2)
    name = left.selectbox("A program", list(PROGRAMS), key="program", bind="query-params")
    hops = right.select_slider(
        "How many operations may marshaling look back?", [0, 1, 2, 3, 4], value=4,
        key="hops", bind="query-params",
    )  # fmt: skip
    st.code(PROGRAMS[name], language="python")
    st.caption(f"x, wq, wk and wv are {SIDE} x {SIDE} float32, 1 MiB each, and want gradients.")
    guess = ask(
        "Every saved tensor is copied. How often do the bytes of x cross to the host?",
        list(TIMES), name, lambda times: TIMES[times],
    )  # fmt: skip
    if guess is not None:
        _answer(name, hops, guess)
    code_that_ran(sent_to_host)
    _own_run()


@st.cache_data(max_entries=32, show_spinner="Running autograd")
def measured(name: str, hops: int | None) -> Copies:
    """One run of the program, now."""
    return copies(PROGRAMS[name], hops)


def _answer(name: str, hops: int, guess: int) -> None:
    plain, marshaled = measured(name, None), measured(name, hops)
    truth = len(plain.of("x"))
    said = (
        f"The bytes of x cross **{TIMES[truth]}**: every operation that needs x for its "
        f"derivative saves a tensor of its own, and each is copied. Together "
        f"{format_bytes(plain.host_bytes)} cross; with marshaling that looks back over "
        f"{counted(hops, 'operation')}, **{format_bytes(marshaled.host_bytes)}**."
    )
    verdict(guess == truth, said)
    st.write(
        "Two bars per piece of memory, named by its variable. At 0 on the slider marshaling "
        "recognizes the very same tensor only. A view is an operation or more away (second "
        "program); a clamp can even be computed again from what is there (third)."
    )
    ways = {"every save copied": plain, f"marshaled, {counted(hops, 'operation')} back": marshaled}
    show_chart(
        copy_chart(ways, ground()), key="copies", alt="Copies on the host per piece of memory"
    )
    offer_data("copies", lambda: copy_records(ways))
    if plain.exact and marshaled.exact:
        st.caption("The gradients of both runs are equal to those of plain autograd, bit by bit.")
    else:
        st.error("The gradients differ from those of plain autograd. Please report it.")
    _saves(marshaled)


def _saves(found: Copies) -> None:
    rows = [
        {
            "saved tensor of": save.storage,
            "with marshaling": ACTIONS.get(save.action, save.action),
            "operations away": NOTHING if save.hops is None else str(save.hops),
            "crossed MiB": mib_value(save.bytes),
        }
        for save in found.saves
    ]
    with st.expander("Every saved tensor, in order"):
        st.dataframe(
            rows, hide_index=True, alt="What became of every saved tensor",
            column_config=mib_columns(rows, ("crossed MiB",)),
        )  # fmt: skip


def _own_run() -> None:
    view = own_run("saves")
    if view is None:
        return
    found = view.ask(duplicates)
    again = sum(len(group.members) - 1 for group in found.groups)
    st.write(
        f"In {view.place}, {again} of {counted(found.saves, 'saved tensor')} lie in memory that "
        f"was saved before: {format_bytes(found.repeated_bytes)} that need not cross again."
    )
    if found.hops:
        said = ", ".join(
            f"{counted(count, 'tensor')} {counted(hops, 'operation')} away"
            for hops, count in found.hops.items()
        )
        st.write(f"Marshaling was on. It found what was there already: {said}.")
    more_on("app_pages/duplicates.py", "What is held or sent twice?")


page()
