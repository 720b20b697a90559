"""Placing texts without overlap: how wide a text is, and how to move neighbours apart.

Contract: pure functions; lengths in the unit the caller uses.
Boundary: one dimension only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of `text` in inches at `size` points, in the font that matplotlib will draw."""
    if not text.strip():
        return 0.0
    font = FontProperties(weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width) / 72.0


def spread(
    centres: Sequence[float], widths: Sequence[float], low: float, high: float
) -> list[float]:
    """Centres near the wanted ones (in ascending order) whose extents do not overlap.

    Everything stays within [low, high] where the widths fit there at all.
    """
    placed: list[float] = []
    edge = low
    for centre, width in zip(centres, widths, strict=True):
        placed.append(max(centre, edge + width / 2))
        edge = placed[-1] + width / 2
    edge = high
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], edge - widths[index] / 2)
        edge = placed[index] - widths[index] / 2
    return placed


def wrap(text: str, size: float, width: float) -> list[str]:
    """`text` broken at spaces into lines of at most `width` inches (a longer word stays whole)."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
