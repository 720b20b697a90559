"""Bits per weight of the whole file against held-out perplexity, one line a method.

Contract: a PNG of the rows that have a perplexity; points are means over seeds with bars from the
lowest to the highest, perplexity is logarithmic. Methods that start from the tuned dense model are
dashed with open marks; a method with embeddings of its own bits has a square mark, eDKM with one
width for all a diamond, with a chosen recipe a star. The dense model, before and after tuning, is a
level line.
Boundary: plain rows in, a file out.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from edkm.compare.report import groups, numbers
from edkm.method_names import ALLOCATED, COLOURS, TITLES, split, title

MARKS = {"edkm": "D", "edkm-chosen": "*"}
OURS = ("edkm", *ALLOCATED)


def picture(result: dict[str, Any], path: Path) -> None:
    """Draw the rows of comparison.json to ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(9.5, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = [row for row in result["rows"] if row["status"] == "done" and row["ppl"] is not None]
    _levels(axes, rows)
    lines: dict[str, list[list[dict[str, Any]]]] = {}
    for members in groups(rows):
        if members[0]["method"] != "dense":
            lines.setdefault(members[0]["method"], []).append(members)
    for name in sorted(lines, key=_order):
        _line(axes, name, lines[name])
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bits per weight, of the whole file (embeddings, scales, header)")
    axes.set_ylabel("held-out perplexity (logarithmic)")
    model = Path(result["settings"]["model"])
    name = model.parent.name if model.name == "model" else model.name  # edkm.train's OUT/model
    axes.set_title(f"{name or model.name}: lower and further left is better")
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=130)


def _order(name: str) -> tuple[bool, int, int]:
    tuned, method, bits = split(name)
    return tuned, list(TITLES).index(method), int(bits or 0)


def _levels(axes: Any, rows: list[dict[str, Any]]) -> None:
    before = numbers(rows, "ppl_dense")
    after = numbers([row for row in rows if row["method"] == "dense"], "ppl")
    for values, style, label in (
        (before, ":", "dense, before tuning"),
        (after, "--", title("dense")),
    ):
        if values:
            axes.axhline(statistics.mean(values), color="0.3", linestyle=style, label=label)


def _line(axes: Any, name: str, points: list[list[dict[str, Any]]]) -> None:
    tuned, method, bits = split(name)
    placed = []
    for members in points:
        found = numbers(members, "ppl")
        mean = statistics.mean(found)
        at = statistics.mean(numbers(members, "bits_per_weight"))
        placed.append((at, mean, mean - min(found), max(found) - mean))
    x, y, below, above = zip(*sorted(placed), strict=True)
    ours = method in OURS
    axes.errorbar(
        x,
        y,
        yerr=(below, above),
        color=COLOURS[method],
        linestyle="--" if tuned else "-",
        linewidth=2.5 if ours else 1.3,
        marker="s" if bits else MARKS.get(method, "o"),
        markersize=7 if ours else 5,
        markerfacecolor="white" if tuned else COLOURS[method],
        capsize=3,
        zorder=3 if ours else 2,
        label=title(name),
    )
