"""What the bar charts of an ablation share: axis, colours, fading, labels.

Contract: bytes come in, MiB are drawn (scaled here: Vega's own byte format is decimal).
Boundary: Altair only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from dashboard.theme import Ground, in_order, ink, row_colour

Layered = alt.LayerChart | alt.FacetChart  # what `alt.layer` is declared to return

BAND = 18  # pixels per bar
ROOM = "(containerSize()[0] || 800)"  # Vega: pixels the page has for a chart
NARROW = f"{ROOM} < 600"  # Vega: as on a telephone
AXIS = 60  # pixels of the axis and its title, which the height includes


def row_axis(names: Sequence[str]) -> alt.Y:
    """The configurations, top to bottom in the one order."""
    axis = alt.Axis(
        title=None,
        labelFontWeight="bold",
        labelFontSize=13,
        ticks=False,
        domain=False,
        labelOverlap=False,
    )
    return alt.Y("row:N", sort=in_order(names), axis=axis, scale=alt.Scale(paddingInner=0.25))


def row_scale(names: Sequence[str]) -> alt.Scale:
    """Each configuration in its own colour."""
    ordered = in_order(names)
    return alt.Scale(domain=ordered, range=[row_colour(name) for name in ordered])


def row_colours(names: Sequence[str]) -> alt.Color:
    """The colour channel; labels name the configurations, so no legend."""
    return alt.Color("row:N", scale=row_scale(names), legend=None)


def fade(selected: str | None, faded: float) -> Any:
    """Full strength for the chosen configuration; for all where none is chosen."""
    if selected is None:
        return alt.value(1.0)
    return alt.condition(alt.datum.row == selected, alt.value(1.0), alt.value(faded))


def log_axis(title: str, values: Sequence[float], room: float) -> tuple[alt.X, float]:
    """A log axis over the positive `values` (MiB), and its left end.

    `room` for the labels at the ends of the bars, as a part of the longest bar.
    """
    positive = [value for value in values if value > 0] or [1.0]
    floor = min(positive) / 2.5
    top = max(positive) * (max(positive) / floor) ** room
    scale = alt.Scale(type="log", base=2, domain=[floor, top], nice=False, clamp=True)
    axis = alt.Axis(title=title, format="~g", tickCount=6, grid=True)
    return alt.X("mib:Q", scale=scale, axis=axis), floor


def at_x(pixels: float) -> alt.XValue:
    """A place in pixels from the left: `alt.value` searches the whole schema for what it means."""
    return alt.XValue(pixels)  # type: ignore[no-untyped-call]


def at_y(pixels: float) -> alt.YValue:
    """A place in pixels from the top."""
    return alt.YValue(pixels)  # type: ignore[no-untyped-call]


def labels(ground: Ground) -> dict[str, Any]:
    """Mark properties of the figure at the end of a bar."""
    return {"align": "left", "baseline": "middle", "dx": 5, "fontSize": 12, "color": ink(ground)}


def height(rows: int, bars: int) -> int:
    """Pixels for `rows` configurations of `bars` bars each."""
    return rows * (BAND * bars + 10) + AXIS


def top_legend(names: Sequence[str], **more: Any) -> alt.Legend:
    """A legend above the chart, in as many columns as the page has room for."""
    item = 30 + 6.5 * max(map(len, names), default=0)  # pixels: a symbol, a gap, 13 px letters
    columns = alt.ExprRef(f"max(1, floor({ROOM} / {item:.0f}))")
    settings = {"title": None, "orient": "top", "labelFontSize": 13, "labelLimit": 300}
    return alt.Legend(columns=columns, **{**settings, **more})


def label_limit(pixels: int) -> alt.ExprRef:
    """So many pixels for the names at an axis, on a narrow page two fifths of it."""
    return alt.ExprRef(f"min({pixels}, 0.4 * {ROOM})")
