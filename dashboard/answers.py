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
from profiler.atstep import AtStep
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

    def ask_at(
        self,
        question: Callable[Concatenate[Any, int, P], R],
        step: int,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """The answer of an analysis of one step that looks at no other."""
        name = f"{question.__module__}.{question.__qualname__}"
        given = ((step, *args), tuple(sorted(kwargs.items())))
        answer: R = _answer(str(self.run.path), self.version, name, given, self.at(step), question)
        return answer

    def at(self, step: int) -> AtStep:
        """One step, read once for all questions about it."""
        return _at(str(self.run.path), self.version, step, self.run)

    def ask_beside(
        self,
        other: Opened,
        question: Callable[[Any, Any, int, int], R],
        own_step: int,
        other_step: int,
    ) -> R:
        """The answer of an analysis to a step of this run and one of another."""
        name = f"{question.__module__}.{question.__qualname__}"
        paths = (str(self.run.path), str(other.run.path))
        versions = (self.version, other.version)
        steps = (own_step, other_step)
        both = (self.at(own_step), other.at(other_step))
        answer: R = _answer_of_two(paths, versions, name, steps, both, question)
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
    path: str,
    version: str,
    name: str,
    given: Any,
    _run: Run | AtStep,
    _question: Callable[..., Any],
) -> Any:
    args, kwargs = given
    return _question(_run, *args, **dict(kwargs))


@st.cache_resource(max_entries=64, show_spinner="Comparing the runs")
def _answer_of_two(
    paths: tuple[str, str], versions: tuple[str, str], name: str, steps: tuple[int, int],
    _runs: tuple[AtStep, AtStep], _question: Callable[..., Any],
) -> Any:  # fmt: skip
    return _question(*_runs, *steps)


@st.cache_resource(max_entries=24, show_spinner=False)
def _at(path: str, version: str, step: int, _run: Run) -> AtStep:
    return AtStep(_run, step)
