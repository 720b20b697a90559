"""Measured rows as points: those of one method and bits together, whatever their seeds.

Contract: only rows with a perplexity; a point has the mean over its rows of every figure that they
have, of perplexity also the lowest and the highest. The dense model is a level, before and after
tuning.
Boundary: means only; reading is `dashboard.quality`, drawing `dashboard.charts.quality`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dashboard.quality import DENSE, Quality
from edkm import method_names

FIGURES = ("bits", "bits_per_weight", "size_bytes", "ppl", "seconds", "peak_bytes")


@dataclass(frozen=True, slots=True)
class Point:
    """Rows of one method and bits, each of another seed."""

    rows: tuple[Quality, ...]

    @property
    def method(self) -> str:
        """As the rows call it."""
        return self.rows[0].method

    @property
    def name(self) -> str:
        """The method and its bits as readers know them."""
        bits = self.rows[0].bits_text
        unit = "" if not bits or bits.startswith("bytes") else " bits"
        return f"{self.title}, {bits}{unit}" if bits else self.title

    @property
    def title(self) -> str:
        """The method alone, as readers know it."""
        return self.rows[0].title

    @property
    def parts(self) -> tuple[bool, str, str]:
        """(of the tuned dense model, method, embedding bits or "") of the rows' name."""
        return method_names.split(self.method)

    def mean(self, name: str) -> float | None:
        """Of one of `FIGURES` over the rows that have it."""
        found = _known(self.rows, name)
        return statistics.mean(found) if found else None

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest perplexity."""
        found = _known(self.rows, "ppl")
        return min(found), max(found)


def points(rows: Iterable[Quality]) -> list[Point]:
    """The points of the rows, in the order in which they come."""
    found: dict[tuple[str, float | None, int | None], list[Quality]] = {}
    for row in rows:
        if row.ppl:
            found.setdefault((row.method, row.bits, row.group_size), []).append(row)
    return [Point(tuple(members)) for members in found.values()]


def levels(rows: Sequence[Quality]) -> dict[str, float]:
    """Mean perplexity of the dense model: "before tuning", and "tuned" where a row has that."""
    before = _known(rows, "ppl_dense")
    after = _known([row for row in rows if row.method == DENSE], "ppl")
    found = {"before tuning": before, "tuned": after}
    return {name: statistics.mean(values) for name, values in found.items() if values}


def _known(rows: Iterable[Quality], name: str) -> list[float]:
    return [float(value) for row in rows if (value := getattr(row, name)) is not None]
