"""What every page shares: the chosen run and step, and the words for runs that cannot be shown.

Contract: the choice is made once, in the sidebar, and is in the URL; each page gets a run that can
be asked, or draws nothing after this module has said why and what to do.
Boundary: no figures. Which run is open, not what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import streamlit as st

from dashboard.answers import Opened, open_run
from dashboard.bundled import RECORDED
from dashboard.data import RunsFolder
from dashboard.panels.export import export_as
from dashboard.panels.record import OPENED, record_panel
from dashboard.theme import Ground
from dashboard.words import literal
from profiler.analyses.steps import Contents, RecordedStep, contents
from profiler.reports.html import html_report

P = ParamSpec("P")
R = TypeVar("R")

ROOT = "runs_root"  # session key: the folder of runs
BUNDLED = "show_bundled"  # session key: whether bundled runs stand in where there are none
Needs = Literal["saves", "totals", "memory", "transfers", "nodes"]

_MISSING = {
    "saves": "No single save was recorded: this page needs the level full "
    "(`python -m profiler.trace --level full -- script.py`).",
    "totals": "Nothing was saved for backward while it was recorded. Did backward run?",
    "memory": "No memory sample was recorded.",
    "transfers": "Nothing was copied between a device and the host: this program keeps its saved "
    "tensors where they are. Offload them (`edkm.saved.offload`, `save_on_cpu`), or record the "
    "ablation of one layer.",
    "nodes": "No autograd graph was recorded: this page needs the level full "
    "(`python -m profiler.trace --level full -- script.py`).",
}


@dataclass(frozen=True)
class View:
    """What a page shows: a run, one of its steps, one of its ranks."""

    opened: Opened
    contents: Contents
    step: int
    step_name: str

    def ask(
        self, question: Callable[Concatenate[Any, int, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """The answer of an analysis that looks at this step alone."""
        return self.opened.ask_at(question, self.step, *args, **kwargs)

    @property
    def place(self) -> str:
        """The run and step in words, as text."""
        named = f" ({literal(self.step_name)})" if self.step_name else ""
        return f"{literal(self.opened.name)}, step {self.step}{named}"


def home() -> Path:
    """The folder that the dashboard was pointed at: where recordings go."""
    return Path(st.session_state[ROOT])


def folder() -> RunsFolder:
    """The folder to read: the viewer's own; that of the bundled runs while it has none."""
    own = RunsFolder(home())
    return own if own.names() or not st.session_state.get(BUNDLED) else RunsFolder(RECORDED)


def ground() -> Ground:
    """What the viewer looks at."""
    return "dark" if st.context.theme.type == "dark" else "light"


def pick_run() -> None:
    """The run picker of the sidebar; the choice is in the session under `run`."""
    shown = folder()
    names = shown.names()
    opened = st.session_state.pop(OPENED, None)
    if opened in names:
        st.session_state["run"] = opened
    if "run" in st.session_state and st.session_state["run"] not in names:
        del st.session_state["run"]
    if names:
        st.sidebar.selectbox("Run", names, index=0, key="run", bind="query-params")
    if shown.root == RECORDED:
        st.sidebar.caption(
            f"Bundled runs: no run yet in {literal(home())}. Record one of your own on the page "
            "Optimizations, or with `python -m profiler.trace -- script.py`."
        )


def pick_step() -> None:
    """The step picker of the sidebar, where the chosen run has several; in the session: `step`."""
    name = chosen_run()
    try:
        if name is None:
            return
        steps = open_run(folder().path(name)).ask(contents).steps
    except (ValueError, OSError):
        return
    numbers = [each.step for each in steps]
    if "step" in st.session_state and st.session_state["step"] not in numbers:
        del st.session_state["step"]
    if len(numbers) > 1:
        words = {each.step: _step_words(each) for each in steps}
        st.sidebar.selectbox(
            "Step", numbers, index=steps.index(usual(steps)), key="step", bind="query-params",
            format_func=lambda number: words.get(number, str(number)),
        )  # fmt: skip


def usual(steps: Sequence[RecordedStep]) -> RecordedStep:
    """The step to begin with: the last, but the first of an ablation, whose steps have names.

    Training has settled by its last step; an ablation begins with what nothing was done about.
    """
    return steps[0] if steps[0].name else steps[-1]


def chosen_run() -> str | None:
    """The name of the chosen run, or None where there is none."""
    name = st.session_state.get("run")
    return name if isinstance(name, str) else None


def explore(title: str, needs: Needs) -> View | None:
    """Title and notes of an explore page; None, explained, where there is nothing to show."""
    st.title(title)
    view = look(needs)
    if isinstance(view, str):
        st.info(view)
        with st.expander("Record a run", expanded=chosen_run() is None):
            record_panel(home())
        return None
    notes(view.opened, len(view.contents.ranks))
    stem = f"{view.opened.name}-step{view.step}"
    export_as(stem, partial(html_report, view.opened.run, step=view.step))
    return view


def look(needs: Needs) -> View | str:
    """The chosen run and step, or the reason why there is nothing to show."""
    name = chosen_run()
    if name is None:
        return f"No run yet in {literal(home())}."
    return look_at(name, needs, st.session_state.get("step"))


def look_at(name: str, needs: Needs, step: int | None) -> View | str:
    """A run and one of its steps (the usual one where it has no such step), or why it has none."""
    try:
        opened = open_run(folder().path(name))
        held = opened.ask(contents)
    except (ValueError, OSError) as error:
        return f"This run cannot be shown: {literal(error)}"
    if not _holds(held, needs):
        waiting = "" if opened.closed else " The run is not closed: it may still be going on."
        note = f" About this run: {literal(opened.note)}." if opened.note else ""
        return _MISSING[needs] + waiting + note
    first = usual(held.steps) if held.steps else RecordedStep(step=0)
    found = next((each for each in held.steps if each.step == step), first)
    return View(opened, held, found.step, found.name)


def pick_rank(view: View) -> int:
    """The rank to look at, where a page shows one at a time."""
    ranks = view.contents.ranks or [0]
    if len(ranks) == 1:
        return ranks[0]
    if st.session_state.get("rank", ranks[0]) not in ranks:
        del st.session_state["rank"]
    return st.selectbox("Rank", ranks, key="rank", bind="query-params", width=140)


def notes(opened: Opened, ranks: int) -> None:
    """What a reader must know first: unfinished, damaged, several ranks."""
    if opened.note:
        left, right = st.columns([6, 1], vertical_alignment="center")
        left.warning(f"About this run: {literal(opened.note)}")
        if not opened.closed:
            right.button("Look again", key="look_again", help="Reads what has been written since.")
    if ranks > 1:
        st.caption(f"{ranks} ranks recorded; figures are added up unless a rank is chosen.")


def _holds(held: Contents, needs: Needs) -> bool:
    if needs == "totals":
        return bool(held.tables["saves"] or held.tables["totals"])
    return bool(held.tables[needs])


def _step_words(step: RecordedStep) -> str:
    return f"{step.step}: {step.name}" if step.name else str(step.step)
