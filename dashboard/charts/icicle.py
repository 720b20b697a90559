"""Modules and operations as an icicle: width is what autograd keeps there and inside.

Contract: places in, a Plotly figure out; every node is one rectangle, its id the place's path. The
colour of a node goes with its share of the whole, in the hue of saved memory.
Boundary: Plotly only; the tree is trimmed by profiler.analyses.places.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from dashboard.tables import short_op
from dashboard.theme import Ground, category_colour, ink, surface
from profiler.analyses.places import Place, Places
from profiler.reports.units import format_bytes, mib

ROW = 44  # pixels per level


def icicle_labels(nodes: list[Place]) -> list[str]:
    """What stands in each rectangle."""
    return [short_op(node.label) if node.kind == "op" else node.label for node in nodes]


def icicle_records(seen: Places) -> list[dict[str, Any]]:
    """One record per rectangle, for a table."""
    return [
        {
            "module": node.module,
            "operation": short_op(node.op) if node.op else "",
            "kind": node.kind,
            "with all inside MiB": mib(node.total_bytes),
            "itself MiB": mib(node.self_bytes),
            "saves": node.saves,
        }
        for node in seen.nodes
    ]


def icicle_chart(seen: Places, ground: Ground) -> Any:
    """The figure. Clicks report `id`s: paths."""
    nodes = [node for node in seen.nodes if node.total_bytes or node.parent is None]
    whole = max(nodes[0].total_bytes, 1)
    figure = go.Figure(
        go.Icicle(
            ids=[node.path or "root" for node in nodes],
            parents=["" if n.parent is None else n.parent or "root" for n in nodes],
            labels=icicle_labels(nodes),
            values=[node.total_bytes for node in nodes],
            customdata=[
                [format_bytes(n.total_bytes), format_bytes(n.self_bytes), n.saves, _about(n)]
                for n in nodes
            ],
            branchvalues="total",
            maxdepth=-1,
            tiling={"orientation": "v", "pad": 1},
            marker={
                "colors": [node.total_bytes / whole for node in nodes],
                "colorscale": [[0, surface(ground)], [1, category_colour("saved")]],
                "cmin": 0,
                "cmax": 1,
                "line": {"width": 1, "color": "white" if ground == "light" else "#0E1117"},
            },
            texttemplate="%{label}<br>%{customdata[0]}",
            hovertemplate=(
                "<b>%{customdata[3]}</b><br>with everything inside %{customdata[0]}"
                "<br>itself %{customdata[1]}<br>%{customdata[2]} saves<extra></extra>"
            ),
            textfont={"size": 13},
            insidetextfont={"color": ink(ground)},
            pathbar={"visible": True, "thickness": 26},
            sort=False,
        )
    )
    depth = _depth(nodes)
    figure.update_layout(
        uniformtext={"minsize": 11, "mode": "hide"},
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        height=max(300, ROW * depth + 60),
    )
    return figure


def _about(node: Place) -> str:
    if node.kind == "rest":
        return f"{node.items} smaller items"
    where = node.module or "the whole model"
    return f"{short_op(node.op)} in {node.module or '(outside of modules)'}" if node.op else where


def _depth(nodes: list[Place]) -> int:
    depth = {"": 1}
    for node in nodes:
        if node.parent is not None:
            depth[node.path] = depth[node.parent] + 1
    return max(depth.values())
