"""What does autograd save?

Contract: the reader predicts, then sees what autograd kept when the operation ran just now; ends
in the reader's own run.
Boundary: no computing here; the experiment is dashboard.lessons.saves.
"""

from __future__ import annotations

import streamlit as st

from dashboard.charts.lessons import OWNER_WORDS, kept_chart, kept_records
from dashboard.frame import ground
from dashboard.lessons.saves import OPERATIONS, WIDTH, Kept, Operation, measure_all, saved_by
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.lesson import ask, code_that_ran, own_run, verdict
from dashboard.panels.more import more_on
from dashboard.tables import mib_columns, mib_value, short_op
from profiler.analyses.places import operations

TITLE = "What does autograd save?"
CHOICES = {
    "nothing": (),
    "its input": ("input",),
    "its result": ("output",),
    "its input and the weight": ("input", "weight"),
    "something made on the way": ("other",),
}


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    st.write(
        "To go backwards, every operation must know its own derivative. What that takes is kept "
        "from forward until backward: it is most of the memory of training."
    )
    by_code = {each.code: each for each in OPERATIONS}
    left, right = st.columns(2)
    code = left.selectbox(
        "An operation", list(by_code), index=2, key="operation", bind="query-params"
    )
    rows = right.select_slider(
        f"Rows of x (each of {WIDTH} float32)", [256, 512, 1024, 2048, 4096], value=1024,
        key="rows", bind="query-params",
    )  # fmt: skip
    found = measured(rows)
    guess = ask(f"What will autograd keep for `y = {code}`?", list(CHOICES), code)
    if guess is not None:
        _answer(by_code[code], next(kept for kept in found if kept.code == code), guess)
        _chart(found, code)
    code_that_ran(saved_by)
    _own_run()


@st.cache_data(max_entries=16, show_spinner="Running autograd")
def measured(rows: int) -> list[Kept]:
    """What every operation keeps, run now."""
    return measure_all(rows)


def _answer(operation: Operation, kept: Kept, guess: str) -> None:
    truth = " and ".join(OWNER_WORDS[name] for name in kept.owners) or "nothing"
    why = f"`{operation.code}` keeps **{truth}**: {operation.why}."
    verdict(CHOICES[guess] == kept.owners, why)


def _chart(found: list[Kept], code: str) -> None:
    st.write(
        "Each bar is what autograd kept when the operation ran just now, each storage once. Move "
        "the slider: all of it grows with the rows, only the weight does not."
    )
    show_chart(
        kept_chart(found, code, ground()), key="kept",
        alt="Bytes that autograd keeps per operation, by whose storage they are",
    )  # fmt: skip
    offer_data("kept", lambda: kept_records(found, code))


def _own_run() -> None:
    view = own_run("saves")
    if view is None:
        return
    st.write(f"The operations of {view.place}, by what they keep:")
    rows = [
        {
            "operation": short_op(each.op) or "(unknown)",
            "kept MiB": mib_value(each.unique_bytes),
            "kept already MiB": mib_value(each.aliased_bytes),
            "parameters MiB": mib_value(each.param_bytes),
            "saved tensors": each.saves,
        }
        for each in view.ask(operations)[:12]
    ]
    st.dataframe(
        rows, hide_index=True, alt="Operations of the chosen run",
        column_config={
            "operation": st.column_config.TextColumn(width="medium"),
            **mib_columns(rows, ("kept MiB", "kept already MiB", "parameters MiB")),
        },
    )  # fmt: skip
    more_on("app_pages/where.py", "Which module and which line keeps it?")


page()
