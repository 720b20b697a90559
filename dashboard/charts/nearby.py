"""One autograd node and what is around it, as a small graph, forward from top to bottom.

Contract: the node asked for stands out; the colour of the outline says whether a node saves.
Boundary: boxes and arrows; which nodes are near is profiler.analyses.neighbourhood's.
"""

from __future__ import annotations

from dashboard.charts.dot import Arrow, Box, Drawing
from dashboard.tables import counted, shape_words, short_op
from dashboard.theme import category_colour
from profiler.analyses.neighbourhood import Near, Neighbourhood
from profiler.reports.theme import GREY
from profiler.reports.units import format_bytes


def nearby_drawing(found: Neighbourhood) -> Drawing:
    """The nodes, and an arrow for every output that is used."""
    return Drawing(
        boxes=tuple(_box(node, node.seq == found.seq) for node in found.nodes),
        arrows=tuple(
            Arrow(source=str(source), target=str(target)) for source, target in found.edges
        ),
        down=True,
    )


def _box(node: Near, strong: bool) -> Box:
    what = short_op(node.name) if node.seq >= 0 else "leaf: a parameter's gradient"
    lines = [f"{what}, {shape_words(node.shape)}" if node.shape else what]
    if node.module:
        lines.append(node.module)
    if node.saves:
        lines.append(f"saves {counted(node.saves, 'tensor')}, {format_bytes(node.saved_bytes)}")
    return Box(
        name=str(node.seq),
        lines=tuple(lines),
        colour=category_colour("saved") if node.saves else GREY,
        strong=strong,
    )
