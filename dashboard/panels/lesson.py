"""What every lesson does: ask first, answer then, show the code that ran, end in the reader's run.

Contract: no answer before a guess; the code shown is the source of the functions that ran.
Boundary: Streamlit only; what is asked and what is true is the page's and the lesson's.
"""

from __future__ import annotations

import contextlib
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import streamlit as st

from dashboard.frame import Needs, View, folder, look
from dashboard.words import literal
from profiler.reports.ablation_view import AblationView
from profiler.reports.ablation_view import view as ablation_view

Choice = TypeVar("Choice")


def ask(
    question: str, choices: Sequence[Choice], key: str, words: Callable[[Choice], str] = str
) -> Choice | None:
    """The reader's guess, or None, with a word on what to do, before there is one."""
    guess = st.radio(
        question, choices, index=None, horizontal=True, key=f"guess-{key}", format_func=words
    )
    if guess is None:
        st.info("Choose an answer first: the chart comes after it.")
    return guess


def verdict(right: bool, said: str) -> None:
    """Whether the guess was right, and the true answer in words."""
    (st.success if right else st.warning)(f"{'Yes' if right else 'Not so'}. {said}")


def source(function: Callable[..., Any]) -> str:
    """The text of a function that ran, as it is shown."""
    return textwrap.dedent(inspect.getsource(function))


def code_that_ran(*functions: Callable[..., Any]) -> None:
    """Shows the functions."""
    st.subheader("The code that ran")
    for function in functions:
        st.code(source(function), language="python")


def own_run(needs: Needs) -> View | None:
    """Heading of the last part; the reader's run, or None after saying why there is none."""
    st.subheader("In your run")
    view = look(needs)
    if isinstance(view, str):
        st.caption(view)
        return None
    return view


def own_ablation(otherwise: str) -> tuple[str, AblationView] | None:
    """Heading of the last part; the ablation of the reader's run, else the newest there is.

    Returns the run's name with it; None after saying `otherwise` where no run has one.
    """
    view = own_run("saves")
    if view is None:
        return None
    raw = view.opened.run.ablation
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        if raw is not None:
            return view.opened.name, ablation_view(raw)
    runs = folder()
    newest = runs.latest()
    found = None if newest is None else runs.load(newest).ablation
    if newest is None or found is None:
        st.write(f"{view.place} {otherwise}")
        return None
    st.write(
        f"{literal(view.opened.name)} is no ablation of a layer. Here is the newest that is: "
        f"**{literal(newest)}**."
    )
    return newest, found
