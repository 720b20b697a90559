"""Perplexity against size: one point per method and bits, the dense model as lines.

Contract: points without the figure on the axis are not drawn. Bars go from the lowest to the
highest seed, thin lines join the bits of one method; what starts from the tuned dense model is
dashed and open, as in the tables' own pictures. Selecting a point reports its `point`, the index
in the points that were given.
Boundary: Altair only; measured figures in, MiB scaled here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, at_x, top_legend
from dashboard.quality import DENSE
from dashboard.quality_points import Point
from dashboard.theme import METHOD_COLOURS, Ground, ink, method_colour, paper
from profiler.reports.units import format_bytes, mib

CHOSEN = "chosen"
AXES = {
    "bits_per_weight": "bits per weight, everything counted",
    "bits": "bits of an index",
    "size_bytes": "MiB on disk",
}
_STAR = "M0,-1L.27,-.37L.95,-.31L.43,.14L.59,.81L0,.45L-.59,.81L-.43,.14L-.95,-.31L-.27,-.37Z"
_SHAPES = {
    "dense": "square", "rtn": "circle", "smoothquant": "triangle-down", "gptq": "diamond",
    "awq": "triangle-up", "llm-qat": "cross", "kmeans": "triangle-right", "dkm": "triangle-left",
    "edkm": "M0,-1L.3,-.3L1,0L.3,.3L0,1L-.3,.3L-1,0L-.3,-.3Z", "edkm-allocated": _STAR,
    "edkm-chosen": "wedge",
}  # fmt: skip
_ROOM = 0.2  # of the axis, left of the first point: for the names of the dense lines


def axes(found: Sequence[Point]) -> list[str]:
    """The figures that at least one compressed point has."""
    return [
        name
        for name in AXES
        if any(each.mean(name) is not None and each.method != DENSE for each in found)
    ]


def quality_records(found: Sequence[Point], across: str) -> list[dict[str, Any]]:
    """One record per point."""
    records = []
    for index, each in enumerate(found):
        value = each.mean(across)
        if value is None or (each.method == DENSE and across != "size_bytes"):
            continue
        size = each.mean("size_bytes")
        records.append(
            {
                "point": index,
                "method": each.title,
                "name": each.name,
                "x": mib(value) if across == "size_bytes" else value,
                "perplexity": each.mean("ppl"),
                "lowest": each.ends[0],
                "highest": each.ends[1],
                "bits": each.rows[0].bits,
                "size": format_bytes(None if size is None else round(size)),
                "seeds": len(each.rows),
                "of": "tuned" if each.parts[0] else "given",
            }
        )
    return records


def quality_chart(
    found: Sequence[Point], levels: Mapping[str, float], across: str, ground: Ground
) -> Layered:
    """The points; the selection `chosen` reports `point`."""
    records = quality_records(found, across)
    values = [r[end] for r in records for end in ("lowest", "highest")]
    values += [*levels.values()] or [1.0]
    y = alt.Y(
        "perplexity:Q",
        scale=alt.Scale(type="log", domain=[min(values) / 1.15, max(values) * 1.15], nice=False),
        axis=alt.Axis(title="held-out perplexity, log scale", format="~g", tickCount=6),
    )
    base = alt.Chart(alt.InlineData(values=records)).encode(x=_x(records, across))
    strokes, fills, shapes = _marks(found, records, ground)
    legend = top_legend(strokes["domain"], symbolSize=120, symbolStrokeWidth=1.8)
    stroke = alt.Stroke("method:N", scale=strokes, legend=legend)
    lines = base.mark_line(strokeWidth=1.2, opacity=0.6).encode(
        y=y,
        stroke=stroke,
        strokeDash=alt.StrokeDash(
            "of:N", legend=None, scale=alt.Scale(domain=["given", "tuned"], range=[[1, 0], [5, 3]])
        ),
    )
    bars = base.mark_rule(strokeWidth=1.5).encode(y="lowest:Q", y2="highest:Q", stroke=stroke)
    return alt.layer(
        *_levels(levels, ground), lines, bars, _points(base, y, stroke, fills, shapes), height=430
    )


def _points(
    base: alt.Chart, y: alt.Y, stroke: alt.Stroke, fills: alt.Scale, shapes: alt.Scale
) -> Any:
    pick = alt.selection_point(name=CHOSEN, fields=["point"], on="click", empty=True)
    legend = stroke["legend"]
    return (
        base.mark_point(size=150, strokeWidth=1.8)
        .encode(
            y=y,
            stroke=stroke,
            fill=alt.Fill("method:N", scale=fills, legend=legend),
            shape=alt.Shape("method:N", scale=shapes, legend=legend),
            opacity=alt.condition(pick, alt.value(0.95), alt.value(0.35)),
            tooltip=[
                alt.Tooltip("name:N", title="method and bits"),
                alt.Tooltip("perplexity:Q", format=".4~g"),
                alt.Tooltip("lowest:Q", format=".4~g"),
                alt.Tooltip("highest:Q", format=".4~g"),
                alt.Tooltip("seeds:Q"),
                alt.Tooltip("size:N", title="on disk"),
            ],
        )
        .add_params(pick)
    )


def _x(records: Sequence[Mapping[str, Any]], across: str) -> alt.X:
    """The axis, with room at its left."""
    values = [r["x"] for r in records] or [1.0]
    width = max(values) - min(values) or 1.0
    scale = alt.Scale(
        domain=[min(values) - _ROOM * width, max(values) + width / 20], nice=False, zero=False
    )
    axis = alt.Axis(title=AXES[across], tickCount=8, tickMinStep=0.1, format="~g")
    return alt.X("x:Q", scale=scale, axis=axis)


def _marks(
    found: Sequence[Point], records: Sequence[Mapping[str, Any]], ground: Ground
) -> tuple[alt.Scale, alt.Scale, alt.Scale]:
    """Stroke, fill and shape of every drawn method, in the one order."""
    known = list(METHOD_COLOURS)

    def order(one: Point) -> tuple[bool, int, str]:
        tuned, method, bits = one.parts
        return tuned, known.index(method) if method in known else len(known), bits

    by_method = {found[r["point"]].method: found[r["point"]] for r in records}
    drawn = sorted(by_method.values(), key=order)
    said = [one.title for one in drawn]
    strokes = [method_colour(one.method) for one in drawn]
    hollow = [one.parts[0] or bool(one.parts[2]) for one in drawn]
    fills = [paper(ground) if h else s for h, s in zip(hollow, strokes, strict=True)]
    shapes = ["square" if one.parts[2] else _SHAPES.get(one.parts[1], "triangle") for one in drawn]
    scales = [alt.Scale(domain=said, range=each) for each in (strokes, fills, shapes)]
    return scales[0], scales[1], scales[2]


def _levels(levels: Mapping[str, float], ground: Ground) -> list[alt.Chart]:
    """The dense model's perplexity before and after tuning as lines with their names."""
    ordered = sorted(levels.items(), key=lambda each: each[1])
    layers = []
    for index, (name, value) in enumerate(ordered):
        at = [{"perplexity": value, "label": f"dense, {name}: {value:.3g}"}]
        base = alt.Chart(alt.InlineData(values=at))
        dash = [2, 3] if name == "before tuning" else [6, 4]
        layers.append(
            base.mark_rule(color=ink(ground), strokeDash=dash, opacity=0.7).encode(y="perplexity:Q")
        )
        below = index == 0 and len(ordered) > 1  # the upper line's name stands above it
        layers.append(
            base.mark_text(
                align="left", baseline="top" if below else "bottom", dx=6, dy=5 if below else -4,
                fontSize=12, color=ink(ground),
            ).encode(x=at_x(0), y="perplexity:Q", text="label:N")
        )  # fmt: skip
    return layers
