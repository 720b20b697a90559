"""A blank figure and the two files it becomes: what every picture of a run has in common.

Contract: matplotlib's object interface on the Agg canvas; no pyplot, no global state, no display.
The same data gives the same bytes of PNG and SVG.
Boundary: knows nothing of what is drawn.
"""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from profiler.reports.theme import HAIRLINE, INK, MUTED, PAPER

DPI = 150


def blank(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches."""
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, *, grid: str) -> None:
    """Quiet axes: no box, hairline grid along `grid` ("x" or "y") behind the data."""
    for side in ("top", "right", "left" if grid == "x" else "bottom"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(HAIRLINE)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x" if grid == "x" else "y", color=HAIRLINE, linewidth=0.6)


def headline(figure: Figure, title: str, subtitle: str) -> None:
    """Title and one muted line under it, at the top left of the figure."""
    height = figure.get_size_inches()[1]
    figure.text(0.02, 1 - 0.14 / height, title, size=13, weight="bold", color=INK, va="top")
    figure.text(0.02, 1 - 0.40 / height, subtitle, size=9, color=MUTED, va="top")


def write(figure: Figure, stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Writes `stem`.png and `stem`.svg (the folder must exist) and returns the two paths."""
    png, svg = (Path(f"{os.fspath(stem)}.{kind}") for kind in ("png", "svg"))
    figure.savefig(png, dpi=DPI)
    # A fixed salt and no date, or no two SVG files would ever be equal.
    with matplotlib.rc_context({"svg.hashsalt": "profiler"}):
        figure.savefig(svg, metadata={"Date": None})
    return png, svg
