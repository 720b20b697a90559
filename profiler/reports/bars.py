"""Host bytes per configuration as bars on a log axis, the paper's figures beside them.

Contract: `ablation.json` in, `<stem>.png` and `<stem>.svg` out. The paper's bars appear only for
the paper's own setting, where megabytes may be compared; otherwise the picture says why not.
Boundary: draws what was recorded; reductions are the run's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from profiler.reports.ablation_view import AblationView, Row, view
from profiler.reports.canvas import blank, headline, tidy, write
from profiler.reports.theme import INK, MUTED, PAPER, row_colour
from profiler.reports.units import format_factor, format_mib, mib

_BAR = 0.36  # of the distance between two rows


def draw_host_bytes(
    ablation: Mapping[str, Any], path_stem: str | os.PathLike[str]
) -> tuple[Path, Path]:
    """Draws the bars and returns the paths of the PNG and the SVG.

    Raises:
        ValueError: the ablation has no readable rows.
    """
    seen = view(ablation)
    height = 1.75 + 0.62 * len(seen.rows) + 0.17 * len(_notes(seen))
    figure = blank(9.0, height)
    headline(figure, "Host memory held for backward, by one learner", seen.title)
    bottom = 0.75 + 0.17 * len(_notes(seen))
    axes = figure.add_axes((0.09, bottom / height, 0.87, 1 - (bottom + 0.98) / height))
    _bars(axes, seen)
    _axis(axes, seen)
    _legend(axes, seen)
    for index, note in enumerate(reversed(_notes(seen))):
        figure.text(0.02, (0.1 + 0.17 * index) / height, note, size=7.5, color=MUTED)
    return write(figure, path_stem)


def _comparable(seen: AblationView) -> bool:
    return not seen.differences


def _bars(axes: Axes, seen: AblationView) -> None:
    floor = _floor(seen)
    for place, row in enumerate(seen.rows):
        value = mib(row.host_bytes)
        theirs = row.paper if _comparable(seen) else None
        offset = 0.0 if theirs is None else _BAR / 2 + 0.02
        colour = row_colour(row.name)
        axes.barh(place - offset, max(value, floor) - floor, _BAR, left=floor, color=colour)
        _label(axes, max(value, floor), place - offset, _measured(row), weight="bold")
        if theirs is not None:
            axes.barh(
                place + offset, theirs.host_mib - floor, _BAR, left=floor, facecolor=PAPER,
                edgecolor=colour, hatch="////", linewidth=1.0,
            )  # fmt: skip
            text = f"{theirs.host_mib} MB   {format_factor(theirs.reduction)}"
            _label(axes, theirs.host_mib, place + offset, text, weight="normal")


def _measured(row: Row) -> str:
    if row.host_bytes == 0:
        return "0 MiB   nothing on the host"
    factor = "" if row.reduction is None else f"   {format_factor(row.reduction)}"
    return f"{format_mib(row.host_bytes)} MiB{factor}"


def _label(axes: Axes, value: float, place: float, text: str, *, weight: str) -> None:
    axes.annotate(
        text, (value, place), xytext=(5, 0), textcoords="offset points", va="center", size=9,
        color=INK, weight=weight, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip


def _floor(seen: AblationView) -> float:
    """Left end of the log axis: a bit under the smallest bar, which must still be seen."""
    values = [mib(row.host_bytes) for row in seen.rows if row.host_bytes]
    if _comparable(seen):
        values += [row.paper.host_mib for row in seen.rows if row.paper is not None]
    return min(values, default=1.0) / 2.5


def _axis(axes: Axes, seen: AblationView) -> None:
    tidy(axes, grid="x")
    floor = _floor(seen)
    most = max([mib(row.host_bytes) for row in seen.rows] + [floor * 2])
    axes.set_xscale("log", base=2)
    # Room for the label right of the longest bar, in octaves.
    axes.set_xlim(floor, most * (most / floor) ** 0.25)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"{value:.3g}")
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("MiB on the host at the end of forward (log scale)", size=9, color=INK)
    axes.set_yticks(range(len(seen.rows)), [row.name for row in seen.rows])
    for tick in axes.get_yticklabels():
        tick.set(fontsize=10, fontweight="bold")
    axes.set_ylim(len(seen.rows) - 0.45, -0.55)


def _legend(axes: Axes, seen: AblationView) -> None:
    if not _comparable(seen):
        return
    keys = [
        Patch(facecolor=MUTED, label="measured here"),
        Patch(facecolor=PAPER, edgecolor=MUTED, hatch="////", label="paper, Table 2"),
    ]
    axes.legend(
        handles=keys, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False,
        fontsize=9, borderaxespad=0.1,
    )  # fmt: skip


def _notes(seen: AblationView) -> list[str]:
    notes = list(seen.simulated)
    if not _comparable(seen):
        notes.append("No bars of the paper: " + "; ".join(seen.differences) + ".")
    return notes
