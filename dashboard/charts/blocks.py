"""The autograd graph in boxes, top to bottom, for ECharts.

Contract: boxes in, an ECharts option out (plain data, no JavaScript). A box stands below all that
it depends on; its area goes with what it keeps, its colour says whether it keeps anything new.
Clicks report the index of the box. Positions depend on the boxes alone.
Boundary: no Streamlit; which boxes there are is profiler.analyses.blocks'.
"""

from __future__ import annotations

import math
from typing import Any

import networkx as nx

from dashboard.theme import Ground, category_colour, ink
from profiler.analyses.blocks import Blocks, Box
from profiler.reports.theme import GREY, ORANGE
from profiler.reports.units import format_bytes, mib

LEVEL = 46  # pixels from one level to the next
WIDTH = 700  # pixels, about what there is between the margins
MARGINS = 80  # pixels above and below the boxes together
_GROUND = {"light": "rgba(255,255,255,0.85)", "dark": "rgba(23,22,20,0.85)"}  # behind labels
_SWEEPS = 6
_LABELLED = 80  # more boxes than these have their names in the tooltip only
KINDS = {"new": category_colour("saved"), "again": ORANGE, "nothing": GREY}
KIND_WORDS = {
    "new": "keeps new memory",
    "again": "saves what is kept already",
    "nothing": "saves nothing",
}


def kind(box: Box) -> str:
    """What a box is to memory."""
    return "new" if box.unique_bytes else "again" if box.saves else "nothing"


def positions(seen: Blocks) -> dict[int, tuple[float, int]]:
    """x from 0 to 1 and level of every box: below all its sources, near them.

    Where the run has no edge (they were lost), one below the other, in the order of forward.
    """
    if not seen.links:
        return {box.index: (_slot(0, 1), depth) for depth, box in enumerate(seen.boxes)}
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(box.index for box in seen.boxes)
    graph.add_edges_from((source, target) for source, target, _ in seen.links)
    levels = [sorted(level) for level in nx.topological_generations(graph)]
    place = {node: _slot(i, len(level)) for level in levels for i, node in enumerate(level)}
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for level in levels if down else reversed(levels):
            beside = graph.pred if down else graph.succ
            wanted = {
                node: sum(place[n] for n in beside[node]) / len(beside[node])
                if beside[node]
                else place[node]
                for node in level
            }
            for i, node in enumerate(sorted(level, key=lambda node: (wanted[node], node))):
                place[node] = _slot(i, len(level))
    return {node: (place[node], depth) for depth, level in enumerate(levels) for node in level}


def blocks_option(seen: Blocks, ground: Ground) -> dict[str, Any]:
    """The option of the chart."""
    place = positions(seen)
    most = max((box.unique_bytes for box in seen.boxes), default=0) or 1
    kinds = list(KINDS)
    return {
        "animation": False,
        "tooltip": {"formatter": "{b}"},
        "legend": {
            "data": [{"name": KIND_WORDS[each]} for each in kinds], "top": 0, "left": 0,
            "textStyle": {"color": ink(ground), "fontSize": 13},
        },
        "color": list(KINDS.values()),
        "series": [
            {
                "type": "graph",
                "id": "boxes",
                "layout": "none",
                "roam": True,
                "top": 50, "bottom": 30, "left": "8%", "right": "22%",
                "selectedMode": "single",
                "select": {"itemStyle": {"borderColor": ink(ground), "borderWidth": 3}},
                "categories": [
                    {"name": KIND_WORDS[each], "itemStyle": {"color": KINDS[each]}}
                    for each in kinds
                ],
                "edgeSymbol": ["none", "arrow"],
                "edgeSymbolSize": 6,
                "lineStyle": {"color": ink(ground), "opacity": 0.35, "curveness": 0.08},
                "label": {
                    "show": len(seen.boxes) <= _LABELLED, "position": "right",
                    "color": ink(ground), "fontSize": 12, "padding": [1, 3],
                    "backgroundColor": _GROUND[ground],
                },
                "data": [
                    {
                        "id": str(box.index),
                        "name": _name(box),
                        "x": WIDTH * place[box.index][0],
                        "y": LEVEL * place[box.index][1],
                        "symbol": "roundRect",
                        "symbolSize": _size(box, most),
                        "category": kinds.index(kind(box)),
                        "label": {"formatter": _label(box)},
                    }
                    for box in seen.boxes
                ]
                + _corners(chart_height(seen)),
                "links": [
                    {"source": str(source), "target": str(target)}
                    for source, target, _ in seen.links
                ],
            }
        ],
    }  # fmt: skip


def box_records(seen: Blocks) -> list[dict[str, Any]]:
    """One record per box, with the boxes that it uses, for a table."""
    return [
        {
            "box": box.index,
            "module": box.module,
            "operations": ", ".join(box.operations),
            "nodes": box.nodes,
            "saves": box.saves,
            "saved MiB": mib(box.saved_bytes),
            "new MiB": mib(box.unique_bytes),
            "uses": " ".join(
                str(source) for source, target, _ in seen.links if target == box.index
            ),
        }
        for box in seen.boxes
    ]


def chart_height(seen: Blocks) -> int:
    """Pixels: every level has its room, up to what one can still scroll."""
    levels = 1 + max((depth for _, depth in positions(seen).values()), default=0)
    return min(1800, max(130, LEVEL * (levels - 1) + MARGINS))


def _corners(height: int) -> list[dict[str, Any]]:
    """Two points that nobody sees: they span what is drawn.

    ECharts stretches the points to the chart, and boxes with them; so far apart they keep shape.
    """
    return [
        {"id": name, "name": name, "x": x, "y": y, "symbolSize": 0, "silent": True,
         "label": {"show": False}, "tooltip": {"show": False}}
        for name, x, y in (("corner 1", 0, 0), ("corner 2", WIDTH, height - MARGINS))
    ]  # fmt: skip


def _slot(index: int, count: int) -> float:
    return (index + 1) / (count + 1)


def _size(box: Box, most: int) -> int:
    return round(10 + 22 * math.sqrt(box.unique_bytes / most)) if box.saves else 8


def _label(box: Box) -> str:
    size = f"  {format_bytes(box.unique_bytes)}" if box.unique_bytes else ""
    return plain(_short(box) + size)


def _short(box: Box) -> str:
    what = ", ".join(box.operations[:2])
    return f"{box.module}: {what}" if box.module else what


def _name(box: Box) -> str:
    """Unique, and all that the tooltip says."""
    span = str(box.first_seq) if box.nodes == 1 else f"{box.first_seq} to {box.last_seq}"
    return plain(
        f"{box.module or '(root)'}: {', '.join(box.operations)}; nodes {span}; "
        f"{box.saves} saves, {format_bytes(box.saved_bytes)}, new {format_bytes(box.unique_bytes)}"
    )


def plain(text: str) -> str:
    """Text that ECharts takes as it is: its templates and mark-up have no meaning in it."""
    for mark, instead in ("{(", "})", "|/", "<(", ">)"):
        text = text.replace(mark, instead)
    return text
