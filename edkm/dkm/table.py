"""DKM on the table of a 16-bit dtype's values: all of the clustering, none of the weights.

Contract: from the histogram of a weight's bit patterns to the table f of clustered values, and
from the per-pattern sums of dL/dW~ to the two tables of the gradient,
``dL/dw_i = dL/dw~_i * slope[pattern_i] + shift[pattern_i]`` (docs/clustering.md eq. 9-11).
Everything is float64 and exact. Cost depends on the number of distinct values, not on N.
Boundary: reads no weight; the passes over weights are in ``kernels``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from edkm.dkm.checks import nonfinite_error
from edkm.dkm.patterns import PATTERNS, nonfinite_count, pattern_values
from edkm.dkm.points import Points
from edkm.dkm.settings import Rule
from edkm.dkm.updates import Path, pull_output, pull_updates, run_updates, soft_output


class Occupied(NamedTuple):
    """The patterns a weight shows, as points to cluster."""

    points: Points  # one group, their values, with multiplicities
    rows: Tensor | None  # their row numbers; None: all rows, in order

    def compact(self, table: Tensor) -> Tensor:
        """``[65536]`` to ``[1, m]``."""
        return (table if self.rows is None else table[self.rows]).unsqueeze(0)

    def spread(self, values: Tensor) -> Tensor:
        """``[1, m, 1]`` back to ``[65536]``, 0 in the rows that no weight reads."""
        flat = values.reshape(-1)
        if self.rows is None:
            return flat
        return flat.new_zeros(PATTERNS).index_copy_(0, self.rows, flat)


def occupied_points(counts: Int64[Tensor, " 65536"], dtype: torch.dtype) -> Occupied:
    """The points that stand for a weight.

    On the CPU only rows with a count are kept; on a GPU all are, because counting them would
    make the host wait. Rows without a count weigh nothing, and are set to 0 lest NaN spread.
    """
    values = pattern_values(dtype, counts.device)
    rows = counts.nonzero().squeeze(1) if counts.device.type == "cpu" else None
    if rows is not None:
        values, counts = values[rows].double(), counts[rows]
    else:
        values = values.double()
        values = values.masked_fill_(~torch.isfinite(values), 0.0)
    points = Points(values.view(1, -1, 1), torch.float64, counts.double().unsqueeze(0))
    return Occupied(points, rows)


def table_forward(
    counts: Int64[Tensor, " 65536"],
    dtype: torch.dtype,
    start: Float[Tensor, "k 1"],
    rule: Rule,
    steps: int,
    eps: float | None,
) -> tuple[Float[Tensor, " 65536"], Path]:
    """(f, centroids of all updates): the clustered value of each pattern, in float64.

    Raises ``ValueError`` if the weight holds NaN or infinity; on a GPU the one wait of it all.
    """
    bad = int(nonfinite_count(counts, dtype))
    if bad:
        raise nonfinite_error(bad)
    occupied = occupied_points(counts, dtype)
    path = run_updates(occupied.points, start.double().unsqueeze(0), rule, steps, eps)
    return table_output(occupied, path, rule), path


def table_output(occupied: Occupied, path: Path, rule: Rule) -> Float[Tensor, " 65536"]:
    """f from the centroids of all updates."""
    clustered = torch.empty_like(occupied.points.rows)
    soft_output(occupied.points, path, rule, clustered)
    return occupied.spread(clustered)


def table_backward(
    occupied: Occupied,
    grad_sums: Float[Tensor, " 65536"],
    path: Path,
    rule: Rule,
) -> tuple[Float[Tensor, " 65536"], Float[Tensor, " 65536"]]:
    """(slope, shift) of the gradient; ``grad_sums`` holds sum of dL/dW~ over each pattern."""
    points = occupied.points
    sums = occupied.compact(grad_sums.double())
    slope, shift = torch.empty_like(points.rows), torch.zeros_like(points.rows)
    unit = torch.ones_like(points.rows)
    to_before, to_updated = pull_output(points, path, rule, unit, sums, slope)
    pull_updates(points, path, rule, to_before, to_updated, shift)
    return occupied.spread(slope), occupied.spread(shift)
