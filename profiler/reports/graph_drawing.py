"""Paints a laid-out graph: node boxes, saved-tensor boxes, edges, legend. Sizes are in inches.

Contract: every text is measured before its box is made, so no label is cut and nothing overlaps.
Boundary: knows words and colours, not autograd.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from profiler.reports.canvas import blank, headline
from profiler.reports.labels import text_width, wrap
from profiler.reports.layered import Extent, Layout, layered_layout
from profiler.reports.theme import HAIRLINE, INK, MUTED, PAPER, group_colour

_NAME, _SHAPE, _SAVED, _LEGEND = 8.5, 6.5, 7.5, 8.5  # points
_BOX, _LAYER, _PAD = 0.40, 0.66, 0.10  # node height, distance of layers, padding
_CHIP, _CHIP_GAP = 0.22, 0.07
_MARGIN, _TOP, _LINE = 0.3, 0.78, 0.19
_LEAST_WIDTH = 8.0
_SLOPE = 0.5  # keeps a passing edge within its 0.1 inch on the 0.4 inch beside a box


@dataclass(frozen=True, slots=True)
class SavedBox:
    """One saved tensor: its label, and the index of its duplicate group if it has one."""

    text: str
    group: int | None


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is painted."""

    title: str
    subtitle: str
    nodes: Mapping[Hashable, tuple[str, str]]  # name, second line
    edges: Sequence[tuple[Hashable, Hashable]]
    saved: Mapping[Hashable, Sequence[SavedBox]]
    legend: Sequence[tuple[str, str]]  # letter, sentence


def paint(picture: Picture) -> Figure:
    """The figure, as large as its content needs."""
    widths = {key: _node_width(*picture.nodes[key]) for key in picture.nodes}
    extents = {key: _extent(widths[key], picture.saved.get(key, ())) for key in picture.nodes}
    layout = layered_layout(extents, picture.edges)
    width = max(_LEAST_WIDTH, layout.right - layout.left + 2 * _MARGIN)
    legend = [(letter, wrap(text, _LEGEND, width - 1.1)) for letter, text in picture.legend]
    legend_height = _LINE * (2 + sum(len(lines) for _, lines in legend)) + 0.1 * len(legend)
    body = layout.layers * _LAYER
    height = _TOP + body + legend_height + 0.2
    figure = blank(width, height)
    headline(figure, picture.title, picture.subtitle)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    shift = (width - layout.right - layout.left) / 2
    pen = _Pen(axes, shift, height - _TOP - _LAYER / 2)
    for route in layout.routes.values():
        pen.edge(route)
    for key in picture.nodes:
        pen.node(layout, key, picture.nodes[key], widths[key])
        pen.saved(layout, key, widths[key], picture.saved.get(key, ()))
    _paint_legend(axes, legend, legend_height)
    return figure


def _node_width(name: str, detail: str) -> float:
    return max(text_width(name, _NAME, bold=True), text_width(detail, _SHAPE)) + 2 * _PAD


def _chip_width(box: SavedBox) -> float:
    return text_width(box.text, _SAVED, bold=box.group is not None) + 2 * 0.07


def _extent(width: float, boxes: Sequence[SavedBox]) -> Extent:
    chips = sum(_chip_width(box) + _CHIP_GAP for box in boxes)
    return Extent(width / 2, width / 2 + chips)


@dataclass(frozen=True, slots=True)
class _Pen:
    """Turns layout coordinates into inches on the page and draws there."""

    axes: Axes
    shift: float
    top: float  # middle of layer 0

    def at(self, point: tuple[float, int]) -> tuple[float, float]:
        return point[0] + self.shift, self.top - point[1] * _LAYER

    def edge(self, route: Sequence[tuple[float, int]]) -> None:
        points = [self.at(point) for point in route]
        points[0] = (points[0][0], points[0][1] - _BOX / 2)
        points[-1] = (points[-1][0], points[-1][1] + _BOX / 2 + 0.02)
        vertices, codes = _smooth(points)
        self.axes.add_patch(
            FancyArrowPatch(
                path=Path(vertices, codes),
                arrowstyle="-|>",
                mutation_scale=7,
                color=MUTED,
                linewidth=0.9,
                capstyle="butt",
                zorder=1,
            )
        )

    def node(self, layout: Layout, key: Hashable, label: tuple[str, str], width: float) -> None:
        x, y = self.at(layout.place[key])
        _box(self.axes, x - width / 2, y - _BOX / 2, width, _BOX, PAPER, INK, 0.9)
        name, detail = label
        lift = 0.075 if detail else 0.0
        self.axes.text(x, y + lift, name, size=_NAME, weight="bold", color=INK, **_CENTRED)
        if detail:
            self.axes.text(x, y - 0.09, detail, size=_SHAPE, color=MUTED, **_CENTRED)

    def saved(self, layout: Layout, key: Hashable, width: float, boxes: Sequence[SavedBox]) -> None:
        x, y = self.at(layout.place[key])
        left = x + width / 2 + _CHIP_GAP
        if boxes:
            self.axes.plot([x + width / 2, left], [y, y], color=INK, linewidth=0.9, zorder=2)
        for box in boxes:
            wide = _chip_width(box)
            _chip(self.axes, left, y - _CHIP / 2, wide, box)
            left += wide + _CHIP_GAP


def _smooth(points: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float]], list[Any]]:
    """A curve through the points, vertical at both ends, never steep sideways beside a box."""
    stops = [(points[0], 0.0)]  # with the way sideways per inch downwards
    for before, (x, y), after in zip(points, points[1:], points[2:], strict=False):
        sides = (x - before[0]) / (before[1] - y), (after[0] - x) / (y - after[1])
        slope = 0.0 if sides[0] * sides[1] <= 0 else min(sides, key=abs)  # a turn is vertical
        slope = max(-_SLOPE, min(_SLOPE, slope))
        half = _BOX / 2
        stops += [((x - slope * half, y + half), slope), ((x + slope * half, y - half), slope)]
    stops.append((points[-1], 0.0))
    vertices, codes = [points[0]], [Path.MOVETO]
    for ((x, y), slope), ((to_x, to_y), to_slope) in pairwise(stops):
        reach = (y - to_y) / 2
        vertices.append((x + slope * reach, y - reach))
        vertices.append((to_x - to_slope * reach, to_y + reach))
        vertices.append((to_x, to_y))
        codes += [Path.CURVE4] * 3
    return vertices, codes


_CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 4}


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, fill: str, line: str, weight: float
) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.05",
            facecolor=fill,
            edgecolor=line,
            linewidth=weight,
            zorder=3,
        )
    )


def _chip(axes: Axes, x: float, y: float, width: float, box: SavedBox) -> None:
    alone = box.group is None
    fill = PAPER if box.group is None else group_colour(box.group)
    _box(axes, x, y, width, _CHIP, fill, HAIRLINE if alone else INK, 0.8)
    axes.text(
        x + width / 2, y + _CHIP / 2, box.text, size=_SAVED, color=_ink_on(fill),
        weight="normal" if alone else "bold", **_CENTRED,
    )  # fmt: skip


def _ink_on(fill: str) -> str:
    """Black or white, whichever reads better on `fill` (relative luminance)."""
    red, green, blue = (int(fill[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "#FFFFFF"


def _paint_legend(axes: Axes, legend: Sequence[tuple[str, list[str]]], height: float) -> None:
    y = height - 0.05
    words = "Boxes at the right of a node: the tensors it saves. "
    words += "One letter and colour: one copy would do." if legend else "No duplicates."
    axes.text(_MARGIN, y, words, size=_LEGEND, weight="bold", color=INK, va="center")
    y -= _LINE + 0.06
    for index, (letter, lines) in enumerate(legend):
        box = SavedBox(letter, index)
        _chip(axes, _MARGIN, y - _CHIP / 2, max(_chip_width(box), 0.3), box)
        for line in lines:
            axes.text(_MARGIN + 0.45, y, line, size=_LEGEND, color=INK, va="center")
            y -= _LINE
        y -= 0.1
