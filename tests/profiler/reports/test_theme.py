"""Colours: one per name, and apart for colour-blind readers too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from profiler.reports import theme

# Machado, Oliveira and Fernandes 2009, full severity, on linear RGB.
DEFICIENCIES = {
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


def seen(colour: str, matrix: list[list[float]]) -> np.ndarray:
    encoded = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    shown = np.clip(np.array(matrix) @ linear, 0, 1)
    return np.where(shown <= 0.0031308, shown * 12.92, 1.055 * shown ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize(
    "colours",
    [
        [theme.ROW_COLOURS[name] for name in ("none", "M", "M+S", "M+U", "M+U+S", "fused")],
        [theme.CATEGORY_COLOURS[name] for name in ("host", "peer", "saved", "rss")],
        list(theme.GROUP_COLOURS[:4]),
    ],
    ids=["rows", "categories", "groups"],
)
def test_colours_that_meet_in_a_picture_stay_apart(deficiency: str, colours: list[str]) -> None:
    for one, other in itertools.combinations(colours, 2):
        distance = np.linalg.norm(
            seen(one, DEFICIENCIES[deficiency]) - seen(other, DEFICIENCIES[deficiency])
        )
        assert distance > 0.1, f"{one} and {other} look alike ({distance:.3f})"


def test_every_row_has_its_own_colour() -> None:
    assert len(set(theme.ROW_COLOURS.values())) == len(theme.ROW_ORDER) == 9
    assert theme.row_colour("mine") not in theme.ROW_COLOURS.values()


def test_order_is_the_papers_whatever_comes_first() -> None:
    assert theme.in_order(["mine", "M+U+S", "U", "none"]) == ["none", "M+U+S", "U", "mine"]
