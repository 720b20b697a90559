"""Modules and operations as an icicle: width is what autograd keeps there and inside.

Contract: places in, one rectangle each; the chosen place has the whole width, what it lies in
stands above it. Clicks report `id`: the place's path, "root" for the root. The colour goes with the
share of the whole, in the hue of saved memory. MiB scaled here.
Boundary: Altair only; the tree is trimmed by profiler.analyses.places.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import altair as alt

from dashboard.charts.frame import Layered
from dashboard.tables import counted, short_op
from dashboard.theme import Ground, category_colour, ink, paper, surface
from profiler.analyses.places import Place, Places
from profiler.reports.units import format_bytes, mib

PICK = "place"  # the selection
ROOT = "root"
ROW = 44  # pixels per level
_LEAST = 1 / 4000  # of the width: narrower ones cannot be seen
_WIDE = 46  # pixels from which a rectangle has words


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


def rectangles(seen: Places, chosen: str = "") -> list[dict[str, Any]]:
    """One record per rectangle: from where to where (0 to 1 is the chosen place) and its level."""
    spans = _spans(seen)
    if spans[chosen][0] == spans[chosen][1]:  # keeps nothing, so it cannot have the width
        chosen = seen.nodes[0].path
    first, last, _ = spans[chosen]
    above = _above(seen, chosen)
    whole = max(seen.nodes[0].total_bytes, 1)
    records = []
    for node in seen.nodes:
        start, end, level = spans[node.path]
        if node.path in above:
            start, end = first, last
        left, right = (max(0.0, min(1.0, (x - first) / (last - first))) for x in (start, end))
        if right - left < _LEAST:
            continue
        records.append(
            {
                "id": node.path or ROOT,
                "x": left,
                "x2": right,
                "level": level,
                "share": node.total_bytes / whole,
                "name": short_op(node.label) if node.kind == "op" else node.label,
                "size": format_bytes(node.total_bytes),
                "about": _about(node),
                "own": format_bytes(node.self_bytes),
                "saves": counted(node.saves, "saved tensor"),
            }
        )
    return records


def icicle_chart(seen: Places, ground: Ground, chosen: str = "") -> Layered:
    """The chart; the selection `PICK` reports the `id` of the clicked rectangle."""
    records = rectangles(seen, chosen)
    levels = 1 + max(record["level"] for record in records)
    base = alt.Chart(alt.InlineData(values=records)).encode(
        x=alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, 1], nice=False)),
        y=alt.Y(
            "level:O", axis=None,
            scale=alt.Scale(domain=list(range(levels)), paddingInner=0, paddingOuter=0),
        ),
    )  # fmt: skip
    pick = alt.selection_point(name=PICK, fields=["id"], on="click", empty=False)
    bars = (
        base.mark_rect(cursor="pointer", stroke=paper(ground), strokeWidth=1.5)
        .encode(
            x2=alt.X2("x2:Q"),
            color=alt.Color(
                "share:Q",
                scale=alt.Scale(
                    domain=[0, 1],
                    range=[surface(ground), category_colour("saved")],
                    interpolate="rgb",
                ),
                legend=None,
            ),
            tooltip=[
                alt.Tooltip("about:N", title="where"),
                alt.Tooltip("size:N", title="with everything inside"),
                alt.Tooltip("own:N", title="itself"),
                alt.Tooltip("saves:N", title="in"),
            ],
        )
        .add_params(pick)
    )
    words = [_words(base, "name", -8, ground), _words(base, "size", 9, ground)]
    return alt.layer(bars, *words, height=ROW * levels)


def _words(base: alt.Chart, field: str, dy: int, ground: Ground) -> alt.Chart:
    """A line of text in every rectangle that is wide enough, cut to its width."""
    wide = "width * (datum.x2 - datum.x)"
    marked = base.mark_text(
        align="left", baseline="middle", dx=6, dy=dy, color=ink(ground), cursor="pointer",
        fontSize=13 if field == "name" else 12,
        limit=alt.ExprRef(f"max(1, {wide} - 10)"),
        opacity=alt.ExprRef(f"{wide} < {_WIDE} ? 0 : 1"),
    )  # fmt: skip
    words: alt.Chart = marked.encode(text=alt.Text(f"{field}:N"))
    return words


def _spans(seen: Places) -> dict[str, tuple[float, float, int]]:
    """Where every place begins and ends in the whole, and how deep it lies."""
    inside: dict[str | None, list[Place]] = defaultdict(list)
    for node in seen.nodes:
        inside[node.parent].append(node)
    root = seen.nodes[0]
    spans = {root.path: (0.0, 1.0, 0)}
    whole = max(root.total_bytes, 1)
    for node in seen.nodes:  # parents before children
        start, _, level = spans[node.path]
        parts = sorted(inside[node.path], key=lambda each: (each.kind == "rest", -each.total_bytes))
        for part in parts:
            end = start + part.total_bytes / whole
            spans[part.path] = (start, end, level + 1)
            start = end
    return spans


def _above(seen: Places, chosen: str) -> set[str]:
    """The places that the chosen one lies in."""
    parents = {node.path: node.parent for node in seen.nodes}
    found, path = set(), parents[chosen]
    while path is not None:
        found.add(path)
        path = parents[path]
    return found


def _about(node: Place) -> str:
    if node.kind == "rest":
        return f"{node.items} smaller items"
    where = node.module or "the whole model"
    return f"{short_op(node.op)} in {node.module or '(root)'}" if node.op else where
