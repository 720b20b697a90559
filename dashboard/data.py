"""Runs as the dashboard sees them: listed, opened, explained; never outside the chosen folder.

Contract: whatever lies on disk, `load` returns a summary; a run that cannot be read carries a
`problem` in words. Names are resolved inside the root, symbolic links included.
Boundary: all reading goes through `profiler`'s query functions; nothing is computed here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import profiler
from profiler.reports.ablation_view import AblationView, view

PICTURES = ("graph", "memory", "host_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run, as far as it can be read."""

    name: str
    ablation: AblationView | None = None
    info: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    closed: bool = False
    note: str | None = None  # what a reader must know first
    problem: str | None = None  # why there is nothing to show
    pictures: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class RunsFolder:
    """The folder that the dashboard was pointed at; nothing outside it is read."""

    root: Path

    def names(self) -> list[str]:
        """Names of the runs, newest first."""
        found = []
        for path in profiler.list_runs(self.root):
            try:
                found.append(self.path(path.name).name)
            except ValueError:
                continue  # a link out of the folder is not a run of this folder
        return found

    def path(self, name: str) -> Path:
        """The folder of the run `name`.

        Raises:
            ValueError: the name is not that of a folder directly inside the root.
        """
        root = self.root.resolve()
        plain = bool(name) and name not in (".", "..") and Path(name).name == name
        if not plain or "\0" in name or (root / name).resolve().parent != root:
            raise ValueError(
                f"run {name!r}: not a folder directly inside {root}; choose one from the list"
            )
        return root / name

    def latest(self) -> str | None:
        """The newest run with an ablation; the newest of all where none has one."""
        names = self.names()
        with_rows = (name for name in names if self.load(name).ablation is not None)
        return next(with_rows, names[0] if names else None)

    def load(self, name: str) -> RunSummary:
        """Everything the first page needs of one run."""
        try:
            path = self.path(name)
            with profiler.open_run(path) as run:
                summary = RunSummary(
                    name=name, info=run.info, closed=run.closed, note=run.note,
                    pictures=self._pictures(path),
                )  # fmt: skip
                raw = run.ablation
        except (ValueError, OSError) as error:
            return RunSummary(name=name, problem=str(error))
        return _with_ablation(summary, raw)

    def _pictures(self, path: Path) -> Mapping[str, Path]:
        root = self.root.resolve()
        files = {name: path / "pictures" / f"{name}.png" for name in PICTURES}
        return MappingProxyType(
            {
                name: file
                for name, file in files.items()
                if file.is_file() and file.resolve().is_relative_to(root)
            }
        )


def _with_ablation(summary: RunSummary, raw: Mapping[str, Any] | None) -> RunSummary:
    if raw is None:
        damaged = "ablation.json" in (summary.note or "")
        what = "its ablation.json cannot be read" if damaged else "it has no ablation.json"
        return replace(summary, problem=f"{what}. {_why(summary)}")
    try:
        return replace(summary, ablation=view(raw))
    except (ValueError, TypeError, AttributeError) as error:
        return replace(summary, problem=str(error))


def _why(summary: RunSummary) -> str:
    if not summary.closed:
        return "The command was stopped before its first row, or is still measuring it."
    return "Only `python -m profiler.trace --layer ...` writes one."


def runs_folder(argument: str | os.PathLike[str]) -> RunsFolder:
    """The folder given on the command line; it need not exist yet."""
    return RunsFolder(Path(argument).expanduser().absolute())
