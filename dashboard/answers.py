"""Answers of the analyses, cached by run and by what the run holds.

Contract: the same question to the same parts is answered once, for every browser tab; a live run
is asked again as soon as a new part is there. Answers are shared: pages must not change them.
Boundary: no analysis here, and no drawing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import streamlit as st

import profiler
from profiler.analyses.steprows import StepRows
from profiler.query import Run

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Opened:
    """A run that can be asked, as it is at this moment."""

    name: str
    run: Run
    version: str
    note: str | None
    closed: bool

    def ask(
        self, question: Callable[Concatenate[Any, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """The answer of an analysis to this run."""
        name = f"{question.__module__}.{question.__qualname__}"
        given = (args, tuple(sorted(kwargs.items())))
        answer: R = _answer(str(self.run.path), self.version, name, given, self.run, question)
        return answer

    def ask_beside(
        self,
        other: Opened,
        question: Callable[Concatenate[Any, Any, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """The answer of an analysis to this run and another."""
        name = f"{question.__module__}.{question.__qualname__}"
        given = (args, tuple(sorted(kwargs.items())))
        paths = (str(self.run.path), str(other.run.path))
        both = (self.run, other.run)
        answer: R = _answer_of_two(
            paths, (self.version, other.version), name, given, both, question
        )
        return answer


def open_run(path: Path) -> Opened:
    """Opens a run; ValueError (RunError) when it cannot be read."""
    run = _run(str(path), _stamp(path))
    return Opened(path.name, run, run.version, run.note, run.closed)


def _stamp(path: Path) -> int:
    """Changes when another run takes the folder, or when this one is closed."""
    try:
        return (path / "run.json").stat().st_mtime_ns
    except OSError:
        return 0


@st.cache_resource(max_entries=16, show_spinner=False)
def _run(path: str, stamp: int) -> Run:
    return profiler.open_run(path)


# Rows of a step are told apart by step and rank: run and version are in the key already.
_ROWS: dict[str | type[Any], Callable[[Any], Any]] = {StepRows: lambda rows: (rows.step, rows.rank)}


@st.cache_resource(max_entries=256, show_spinner="Reading the run", hash_funcs=_ROWS)
def _answer(
    path: str, version: str, name: str, given: Any, _run: Run, _question: Callable[..., Any]
) -> Any:
    args, kwargs = given
    return _question(_run, *args, **dict(kwargs))


@st.cache_resource(max_entries=64, show_spinner="Comparing the runs")
def _answer_of_two(
    paths: tuple[str, str], versions: tuple[str, str], name: str, given: Any,
    _runs: tuple[Run, Run], _question: Callable[..., Any],
) -> Any:  # fmt: skip
    args, kwargs = given
    return _question(*_runs, *args, **dict(kwargs))
