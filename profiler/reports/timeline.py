"""Memory over time: tracked bytes by category above, resident set size below, one band per step.

Contract: rows of the tables `memory` and `steps` in (plain mappings or records), PNG and SVG out.
A band has its configuration's colour; a dashed line parts forward from backward.
Boundary: no resampling, no smoothing: every sample that was recorded is a vertex.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from profiler.reports.canvas import blank, headline, tidy, write
from profiler.reports.labels import spread
from profiler.reports.rows import Rows, plain
from profiler.reports.theme import CATEGORY_COLOURS, INK, row_colour
from profiler.reports.units import mib

_STACKED = (
    ("host", "host (this learner)"),
    ("peer", "host (simulated peers)"),
    ("saved", "saved, on the device"),
)
_WIDTH, _HEIGHT = 10.0, 5.6
_LEFT, _RIGHT = 0.085, 0.98


@dataclass(frozen=True, slots=True)
class _Band:
    """One step on the time axis, in seconds from the first sample."""

    name: str
    start: float
    middle: float | None  # end of forward
    end: float


def draw_memory(memory: Rows, steps: Rows, path_stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Draws the timeline and returns the paths of the PNG and the SVG.

    Raises:
        ValueError: there are no memory samples.
    """
    samples = sorted(plain(memory), key=lambda sample: int(sample["time_ns"]))
    if not samples:
        raise ValueError("memory: 0 samples; at least one is needed. Record with level full.")
    origin = int(samples[0]["time_ns"])
    bands = _read_bands(plain(steps), origin, int(samples[-1]["time_ns"]))
    figure = blank(_WIDTH, _HEIGHT)
    headline(figure, "Memory over time", "tracked by storage above, resident set size below")
    upper = figure.add_axes((_LEFT, 0.43, _RIGHT - _LEFT, 0.36))
    lower = figure.add_axes((_LEFT, 0.10, _RIGHT - _LEFT, 0.28), sharex=upper)
    times = [(int(sample["time_ns"]) - origin) / 1e9 for sample in samples]
    _tracked(upper, times, samples)
    _resident(lower, times, samples)
    for axes in (upper, lower):
        _shade(axes, bands)
        tidy(axes, grid="y")
        axes.set_xlim(0.0, max(times[-1], max((band.end for band in bands), default=0.0)) or 1.0)
        axes.set_ylim(bottom=0)
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("seconds", size=9, color=INK)
    _names(upper, bands)
    _legend(figure, bands, [key for key in _STACKED if _occurs(key[0], samples)])
    return write(figure, path_stem)


def _read_bands(steps: Sequence[dict[str, Any]], origin: int, last: int) -> list[_Band]:
    bands = []
    for step in sorted(steps, key=lambda step: int(step["start_ns"])):
        middle, end = step.get("forward_end_ns"), step.get("end_ns")
        bands.append(
            _Band(
                name=str(step.get("name") or f"step {step.get('step', '')}"),
                start=(int(step["start_ns"]) - origin) / 1e9,
                middle=None if middle is None else (int(middle) - origin) / 1e9,
                end=((last if end is None else int(end)) - origin) / 1e9,
            )
        )
    return bands


def _tracked(axes: Axes, times: list[float], samples: list[dict[str, Any]]) -> None:
    layers = [[mib(sample.get(f"{key}_bytes") or 0) for sample in samples] for key, _ in _STACKED]
    colours = [CATEGORY_COLOURS[key] for key, _ in _STACKED]
    axes.stackplot(times, *layers, colors=colours, step="post", linewidth=0, zorder=2)
    axes.set_ylabel("tracked, MiB", size=9, color=INK)


def _resident(axes: Axes, times: list[float], samples: list[dict[str, Any]]) -> None:
    resident = [mib(sample.get("rss_bytes") or 0) for sample in samples]
    axes.step(times, resident, where="post", color=CATEGORY_COLOURS["rss"], linewidth=1.2, zorder=3)
    axes.set_ylabel("RSS, MiB", size=9, color=INK)


def _shade(axes: Axes, bands: list[_Band]) -> None:
    for band in bands:
        axes.axvspan(band.start, band.end, color=row_colour(band.name), alpha=0.13, linewidth=0)
        if band.middle is not None:
            axes.axvline(band.middle, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=4)


def _names(axes: Axes, bands: list[_Band]) -> None:
    """Band names above the axes, moved apart where bands are narrow, each tied to its band."""
    if not bands:
        return
    seconds = axes.get_xlim()[1] / ((_RIGHT - _LEFT) * _WIDTH)  # per inch
    centres = [(band.start + band.end) / 2 for band in bands]
    widths = [(0.16 + 0.085 * len(band.name)) * seconds for band in bands]
    for band, centre, place in zip(
        bands, centres, spread(centres, widths, 0.0, axes.get_xlim()[1]), strict=True
    ):
        axes.annotate(
            band.name, (centre, 1.0), xytext=(place, 1.09), xycoords=("data", "axes fraction"),
            textcoords=("data", "axes fraction"), ha="center", size=9, weight="bold", color=INK,
            arrowprops={"arrowstyle": "-", "color": row_colour(band.name), "linewidth": 2.0},
        )  # fmt: skip


def _occurs(key: str, samples: list[dict[str, Any]]) -> bool:
    """Whether the category is ever large enough to be seen: a 500th of the picture's height."""
    most = max(sum(sample.get(f"{each}_bytes") or 0 for each, _ in _STACKED) for sample in samples)
    return any((sample.get(f"{key}_bytes") or 0) > most / 500 for sample in samples)


def _legend(figure: Figure, bands: list[_Band], shown: list[tuple[str, str]]) -> None:
    keys = [
        Line2D([], [], color=CATEGORY_COLOURS[key], linewidth=6, label=label)
        for key, label in shown
    ]
    keys.append(Line2D([], [], color=CATEGORY_COLOURS["rss"], linewidth=1.2, label="RSS"))
    if any(band.middle is not None for band in bands):
        keys.append(
            Line2D([], [], color=INK, linewidth=0.8, linestyle=(0, (3, 2)), label="backward begins")
        )
    legend = figure.legend(
        handles=keys, loc="upper right", bbox_to_anchor=(_RIGHT, 0.995), ncols=3, frameon=False,
        fontsize=8, handlelength=1.6, columnspacing=1.4,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_color(INK)
