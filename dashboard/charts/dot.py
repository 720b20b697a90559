"""Small graphs as Graphviz text: boxes and arrows that read on the viewer's ground.

Contract: whatever is in a name is shown as it is; no mark-up and no attribute in it takes effect.
Boundary: plain data in, text out; laying out is the browser's (of a picture to keep: .svg's).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dashboard.theme import Ground, ink, surface

LONGEST = 44  # characters of a line; longer names are cut in the middle


@dataclass(frozen=True, kw_only=True)
class Box:
    """One node: lines of text, an outline."""

    name: str
    lines: tuple[str, ...]
    colour: str
    strong: bool = False  # the one that was asked for


@dataclass(frozen=True, kw_only=True)
class Arrow:
    """One edge, by the names of its boxes."""

    source: str
    target: str
    label: str = ""
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A small graph, from top to bottom or from left to right."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    down: bool


def drawing_records(drawing: Drawing) -> list[dict[str, Any]]:
    """One record per box with the boxes it comes from, for a table."""
    return [
        {
            "box": box.name,
            "says": ", ".join(box.lines),
            "from": "; ".join(a.source for a in drawing.arrows if a.target == box.name),
            "as": "; ".join(a.label for a in drawing.arrows if a.target == box.name and a.label),
        }
        for box in drawing.boxes
    ]


def digraph(drawing: Drawing, ground: Ground) -> str:
    """The graph in the language of Graphviz."""
    text = ink(ground)
    lines = [
        "digraph {",
        f"rankdir={'TB' if drawing.down else 'LR'};",
        'bgcolor="transparent"; nodesep=0.25; ranksep=0.45;',
        f'node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=12, '
        f'fontcolor="{text}", fillcolor="{surface(ground)}", margin="0.12,0.06"];',
        f'edge [color="{text}", fontcolor="{text}", fontname="sans-serif", fontsize=11, '
        "arrowsize=0.7];",
        *(_box(box) for box in drawing.boxes),
        *(_arrow(arrow) for arrow in drawing.arrows),
        "}",
    ]
    return "\n".join(lines)


def shortened(text: str) -> str:
    """At most LONGEST characters, the middle left out."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[: half - 1]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"


def quoted(text: str) -> str:
    """A string of the dot language that stands for exactly this text, on one line."""
    plain = " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"'


def _box(box: Box) -> str:
    label = "\\n".join(quoted(shortened(line))[1:-1] for line in box.lines)
    width = 3 if box.strong else 1.4
    return f'{quoted(box.name)} [label="{label}", color="{box.colour}", penwidth={width}];'


def _arrow(arrow: Arrow) -> str:
    style = "dashed" if arrow.dashed else "solid"
    ends = f"{quoted(arrow.source)} -> {quoted(arrow.target)}"
    return f"{ends} [label={quoted(arrow.label)}, style={style}];"
