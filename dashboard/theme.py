"""Colours and inks of the dashboard: the pictures' own, so that nothing changes colour on screen.

Contract: rows and categories as `profiler.reports.theme` fixes them; ink that reads on the
viewer's ground, light or dark.
Boundary: no Streamlit here; the page says which ground it is on.
"""

from __future__ import annotations

from typing import Literal

from edkm.method_names import COLOURS, split
from profiler.reports.theme import (
    CATEGORY_COLOURS,
    MUTED,
    ROW_COLOURS,
    ROW_ORDER,
    WINE,
    in_order,
    row_colour,
)

__all__ = [
    "CATEGORY_COLOURS", "CATEGORY_NAMES", "FADED", "FADED_TEXT", "METHOD_COLOURS", "ROW_COLOURS",
    "ROW_ORDER", "SECOND", "Ground", "category_colour", "in_order", "ink", "method_colour",
    "paper", "row_colour", "surface",
]  # fmt: skip

Ground = Literal["light", "dark"]

FADED = 0.45  # opacity of the bars that are not chosen
FADED_TEXT = 0.8  # and of their labels: still to be read
SECOND = 0.45  # opacity of the second figure of a pair (H2D after D2H, backward after forward)
_INK = {"light": "#1F2328", "dark": "#FAFAFA"}
_PAPER = {"light": "#FFFFFF", "dark": "#171614"}
_SURFACE = {"light": "#F1F3F5", "dark": "#2A2D34"}

# Every category in the one order, with the words for it.
CATEGORY_NAMES = {
    "param": "parameters",
    "optimizer": "optimizer state",
    "grad": "gradients",
    "saved": "saved for backward",
    "temp": "seen, kept by others",
    "unexplained": "unexplained",
    "host": "host copies",
    "peer": "host copies of simulated peers",
}

# Every way to compress a model in the one order, as in the tables' own pictures.
METHOD_COLOURS = {"dense": MUTED, **COLOURS}


def ink(ground: Ground) -> str:
    """Colour of text and thin lines on `ground`."""
    return _INK[ground]


def paper(ground: Ground) -> str:
    """Colour of the page itself: of the lines between shapes that touch."""
    return _PAPER[ground]


def surface(ground: Ground) -> str:
    """Colour of a shape that holds nothing worth a colour."""
    return _SURFACE[ground]


def category_colour(name: str) -> str:
    """Colour of a memory category; what nothing explains is wine."""
    return CATEGORY_COLOURS.get(name, WINE)


def method_colour(name: str) -> str:
    """Colour of a row's compression method; unknown ones are wine, never a known one's colour."""
    return METHOD_COLOURS.get(split(name)[1], WINE)
