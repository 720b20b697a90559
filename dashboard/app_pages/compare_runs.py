"""Why is one run higher than another?

Contract: B is the run and step of the sidebar, A is chosen here; causes ranked, then the two over
time, then every difference. The choice is in the URL.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import streamlit as st

from dashboard.charts.causes import cause_chart, cause_name, cause_records, change_name
from dashboard.charts.paired import paired_bins, paired_chart, paired_records
from dashboard.frame import View, ground, look, look_at, notes
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.export import export_as
from dashboard.panels.metrics import WIDTH
from dashboard.panels.pick import pick_other
from dashboard.tables import counted, mib_columns, mib_value, short_op
from dashboard.words import literal
from profiler.analyses.diff import Diff, diff
from profiler.analyses.timeline import Timeline, timeline
from profiler.reports.diff_text import signed
from profiler.reports.html import html_report
from profiler.reports.units import format_bytes, format_mib

TITLE = "Why is one run higher than another?"


def page() -> None:
    """Draws the page."""
    heading = st.empty()
    heading.title(TITLE)
    after = look("saves")
    if isinstance(after, str):
        st.info(after)
        return
    notes(after.opened, 1)
    before = _before(after)
    if before is None:
        return
    found = after.opened.ask_beside(before.opened, _diff, after.step, before.step)
    heading.title(_question(found))
    st.write(f"**A** is {before.place}. **B** is {after.place}, chosen in the sidebar.")
    _metrics(found)
    _causes(found)
    _paired(before, after)
    _table(found)
    export_as(
        f"{before.opened.name}-and-{after.opened.name}",
        partial(html_report, before.opened.run, after.opened.run, step=before.step),
    )


def _before(after: View) -> View | None:
    """A, chosen here; None, explained, where there is nothing to compare with."""
    name = pick_other("A: compare with", key="a", own=after.opened.name)
    if name is None:
        return None
    other = look_at(name, "saves", None)
    if isinstance(other, str):
        st.info(f"{literal(name)}: {other}")
        return None
    numbers = [each.step for each in other.contents.steps]
    if name == after.opened.name:
        numbers = [number for number in numbers if number != after.step]
    if not numbers:
        st.info("This run has a single step, and there is no other run: record a second one.")
        return None
    if st.session_state.get("a_step") not in numbers:
        st.session_state.pop("a_step", None)
    step = numbers[-1]
    if len(numbers) > 1:
        words = {each.step: f"{each.step} {each.name}".strip() for each in other.contents.steps}
        step = st.selectbox(
            "Step of A", numbers, index=len(numbers) - 1, key="a_step", bind="query-params",
            format_func=lambda number: words.get(number, str(number)), width=260,
        )  # fmt: skip
    chosen = look_at(name, "saves", step)
    assert not isinstance(chosen, str)
    return chosen


def _diff(after: Any, before: Any, step: int, step_before: int) -> Diff:
    """`diff` in the order of `ask_beside`: this run is B."""
    return diff(before, after, step_before, step)


def _question(found: Diff) -> str:
    a, b = found.a.peak_bytes, found.b.peak_bytes
    if a is None or b is None or a == b:
        return "What does B hold that A does not?"
    word = "higher" if b > a else "lower"
    return f"Why is B {format_bytes(abs(b - a))} {word} than A?"


def _metrics(found: Diff) -> None:
    figures = [
        ("Peak of B, MiB", "peak_bytes", "Of tracked storages on the device, in the step"),
        ("Saved, MiB", "device_bytes", "Storages that saves keep on the device, each once"),
        ("Host, MiB", "host_bytes", "Host copies made for backward"),
        ("To the host, MiB", "d2h_bytes", "Copied to the host in the step"),
    ]
    with st.container(horizontal=True):
        for label, name, words in figures:
            a, b = getattr(found.a, name), getattr(found.b, name)
            change = None if a is None or b is None or a == b else f"{signed(b - a)} to A"
            st.metric(
                label, format_mib(b), change, delta_color="inverse", help=words, border=True,
                width=WIDTH, height="stretch",
            )  # fmt: skip


def _causes(found: Diff) -> None:
    st.subheader("Causes, the largest first")
    if not found.changes:
        st.success("Every module saves the same in both.")
        return
    st.write(
        "Each bar is one operation in all the modules where it changed alike. Right of zero: B "
        "holds more. What was recomputed in one run and kept in the other appears twice: as gone "
        "from recompute, and as kept in forward."
    )
    show_chart(
        cause_chart(found, ground()), key="causes",
        alt="Signed bars of what B holds more or less than A, by cause",
    )  # fmt: skip
    offer_data("causes", partial(cause_records, found))
    same = found.equal_modules
    st.caption(f"{counted(same, 'module')} {'saves' if same == 1 else 'save'} the same in both.")


def _paired(before: View, after: View) -> None:
    sides = {}
    for letter, view in (("A", before), ("B", after)):
        rank = min(view.contents.ranks or [0])
        seen: Timeline = view.opened.ask(timeline, rank=rank, step=view.step, bins=paired_bins())
        if seen.moments:
            sides[f"{letter}: {view.opened.name}, step {view.step} {view.step_name}".strip()] = seen
    st.subheader("Over time")
    if len(sides) < 2:
        st.info("No memory samples of both steps were recorded.")
        return
    st.write("Both on the same axes, each from its own start; the dashed line is its peak sample.")
    for letter, (name, seen) in zip("ab", sides.items(), strict=True):
        st.markdown(f"**{literal(name)}**")
        show_chart(
            paired_chart(seen, sides, ground()), key=f"paired-{letter}",
            alt=f"Memory of {name} over time",
        )  # fmt: skip
    offer_data("paired", partial(paired_records, sides))


def _table(found: Diff) -> None:
    st.subheader("Every difference")
    rows = [
        {
            "where": change_name(change, 4, ": "),
            "why": cause_name(change),
            "phase": change.phase,
            "operation": short_op(change.op) if change.op else "",
            "modules": change.count,
            "device MiB": mib_value(change.device_bytes),
            "host MiB": mib_value(change.host_bytes),
        }
        for change in found.changes
    ]
    st.dataframe(
        rows, hide_index=True, height=min(420, 38 + 35 * max(1, len(rows))),
        alt="Every difference between the steps, B minus A",
        column_config={
            "operation": st.column_config.TextColumn(width="medium"),
            **mib_columns(rows, ("device MiB", "host MiB")),
        },
    )  # fmt: skip
    st.caption("Figures are B - A; parameters do not count, each storage counts once.")


page()
