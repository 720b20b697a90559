"""The one place that fixes colours: a configuration or category looks the same in every picture.

Contract: colour-blind safe (Okabe and Ito, with Tol's wine and a grey), one colour and one order
per ablation row, per memory category and per group of duplicates.
Boundary: names and hex strings; imports no drawing library, so that any front end can use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

BLACK = "#000000"
GREY = "#9E9E9E"  # far from GREEN for every reader, visible on light and dark
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
WINE = "#882255"

INK = "#1F2328"  # text and axes on a light ground
MUTED = "#6A737D"  # secondary text
HAIRLINE = "#D0D7DE"  # grids and frames
PAPER = "#FFFFFF"

ROW_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "none": GREY,
        "M": BLUE,
        "M+S": SKY,
        "M+U": ORANGE,
        "M+U+S": VERMILION,
        "fused": GREEN,
        "S": PURPLE,
        "U": YELLOW,
        "U+S": WINE,
    }
)
ROW_ORDER: tuple[str, ...] = tuple(ROW_COLOURS)

CATEGORY_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "param": BLUE,
        "grad": ORANGE,
        "optimizer": PURPLE,
        "saved": VERMILION,
        "temp": GREY,
        "host": GREEN,
        "peer": SKY,
        "rss": INK,
    }
)

GROUP_COLOURS: tuple[str, ...] = (ORANGE, SKY, GREEN, PURPLE, YELLOW, VERMILION, BLUE, WINE)


def row_colour(name: str) -> str:
    """Colour of the ablation row `name`; unknown rows are muted, never a known row's colour."""
    return ROW_COLOURS.get(name, MUTED)


def group_colour(index: int) -> str:
    """Colour of the `index`-th duplicate group; repeats after eight, letters tell them apart."""
    return GROUP_COLOURS[index % len(GROUP_COLOURS)]


def in_order(names: Iterable[str]) -> list[str]:
    """The row names in the one order; unknown ones last, as they came."""
    position = {name: index for index, name in enumerate(ROW_ORDER)}
    return sorted(names, key=lambda name: position.get(name, len(position)))
