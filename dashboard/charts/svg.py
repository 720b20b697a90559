"""A small graph as a picture to keep: SVG in levels, each box below (or beside) all it comes from.

Contract: one self-contained file without scripts; whatever is in a name is shown as it is. Boxes
never overlap, for each level is as wide as its boxes.
Boundary: text out. On the page Graphviz lays the same boxes out, more finely.
"""

from __future__ import annotations

from html import escape

import networkx as nx

from dashboard.charts.dot import Arrow, Box, Drawing, shortened
from dashboard.theme import Ground, ink, paper, surface

_LETTER, _LINE, _GAP, _STEP, _EDGE = 7, 17, 24, 70, 16  # pixels
Place = tuple[float, float, float, float]  # centre, width, height


def svg(drawing: Drawing, ground: Ground) -> str:
    """The picture."""
    places, width, height = _places(drawing)
    parts = [_arrow(arrow, places, drawing.down, ground) for arrow in drawing.arrows]
    parts += [_box(box, places[box.name], ground) for box in drawing.boxes]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'font-family="sans-serif" font-size="12" text-anchor="middle" fill="{ink(ground)}">'
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{ink(ground)}"/>'
        f'</marker></defs><rect width="100%" height="100%" fill="{paper(ground)}"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _places(drawing: Drawing) -> tuple[dict[str, Place], float, float]:
    """Where every box is, and how large the picture."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(box.name for box in drawing.boxes)
    graph.add_edges_from((arrow.source, arrow.target) for arrow in drawing.arrows)
    boxes = {box.name: box for box in drawing.boxes}
    levels = [[boxes[name] for name in level] for level in nx.topological_generations(graph)]
    room = max([_LETTER * len(arrow.label) for arrow in drawing.arrows], default=0)
    step = _STEP if drawing.down else max(_STEP, room + 2 * _GAP)
    across = [sum(_size(box)[not drawing.down] + _GAP for box in level) for level in levels]
    found: dict[str, Place] = {}
    along = float(_EDGE)
    for level, length in zip(levels, across, strict=True):
        deep = max(_size(box)[drawing.down] for box in level)
        at = _EDGE + (max(across) - length) / 2
        for box in level:
            size = _size(box)
            middle, centre = at + (size[not drawing.down] + _GAP) / 2, along + deep / 2
            found[box.name] = (middle, centre, *size) if drawing.down else (centre, middle, *size)
            at += size[not drawing.down] + _GAP
        along += deep + step
    wide, long = max(across) + 2 * _EDGE, along - step + _EDGE
    return found, *((wide, long) if drawing.down else (long, wide))


def _size(box: Box) -> tuple[float, float]:
    """Width and height."""
    lines = [shortened(line) for line in box.lines]
    return 2.0 * _GAP + _LETTER * max(map(len, lines)), 12.0 + _LINE * len(lines)


def _box(box: Box, place: Place, ground: Ground) -> str:
    x, y, width, height = place
    first = y - _LINE * (len(box.lines) - 1) / 2 + 4
    words = "".join(
        f'<text x="{x:g}" y="{first + _LINE * i:g}">{escape(shortened(line))}</text>'
        for i, line in enumerate(box.lines)
    )
    return (
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" '
        f'height="{height:g}" rx="9" fill="{surface(ground)}" stroke="{escape(box.colour)}" '
        f'stroke-width="{3 if box.strong else 1.4}"/>{words}'
    )


def _arrow(arrow: Arrow, places: dict[str, Place], down: bool, ground: Ground) -> str:
    (x1, y1, w1, h1), (x2, y2, w2, h2) = places[arrow.source], places[arrow.target]
    x1, y1, x2, y2 = (
        (x1, y1 + h1 / 2, x2, y2 - h2 / 2) if down else (x1 + w1 / 2, y1, x2 - w2 / 2, y2)
    )
    dashed = ' stroke-dasharray="5 4"' if arrow.dashed else ""
    at = f'x="{(x1 + 2 * x2) / 3:g}" y="{(y1 + 2 * y2) / 3 - 6:g}"'
    word = f"<text {at}>{escape(arrow.label)}</text>" if arrow.label else ""
    return (
        f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{ink(ground)}" fill="none" '
        f'marker-end="url(#head)"{dashed}/>{word}'
    )
