"""The points that are clustered: how they lie, what scales them and what each counts.

Contract: ``Points`` are ``g`` groups of ``n`` vectors, optionally with multiplicities, a scale for
equal runs of rows, and what each row of a run and each place in it counts. They are read a tile at
a time, widened to the compute dtype, and name the kernels that take them whole.
Boundary: holds tensors and slices them; the updates are ``edkm.dkm.updates``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edkm.dkm.distance import CHUNK_ELEMENTS
from edkm.dkm.kernels.choice import (
    Assignment,
    RowPasses,
    StreamingPasses,
    row_passes_for,
    streaming_passes_for,
)
from edkm.dkm.settings import Rule

_GPU_TILE = 1 << 24  # elements of a tile on a GPU: few launches, 64 MiB in float32


@dataclass(frozen=True)
class Points:
    """Vectors to cluster: ``rows`` in any float dtype, widened to ``work`` a tile at a time."""

    rows: Float[Tensor, "g n d"]
    work: torch.dtype  # dtype of the arithmetic
    counts: Float[Tensor, "g n"] | None = None  # how many equal rows each stands for; None: 1
    scale: Float[Tensor, "g channels"] | None = None  # divides a group's equal runs of rows
    per_row: Float[Tensor, "g channels"] | None = None  # what a row of a run counts; None: 1
    per_column: Float[Tensor, " run"] | None = None  # times what its place in the run counts

    def tiles(self, clusters: int) -> Iterator[tuple[slice, slice]]:
        """(groups, rows) of each tile of about a cache's size."""
        budget = CHUNK_ELEMENTS if self.rows.device.type == "cpu" else _GPU_TILE
        groups, count = self.rows.shape[:2]
        high = max(1, min(count, budget // clusters))
        wide = max(1, budget // (clusters * high))
        for first in range(0, groups, wide):
            for start in range(0, count, high):
                yield slice(first, first + wide), slice(start, min(start + high, count))

    def passes(self, c: Tensor) -> StreamingPasses | None:
        """Kernels for a GPU that go over all points at once, if there are any for them."""
        if any(one is not None for one in (self.counts, self.per_row, self.per_column)):
            return None
        return streaming_passes_for(self.rows.device, self.work, c.shape[1], c.shape[2])

    def row_passes(self, c: Tensor) -> RowPasses | None:
        """Compiled loops of the CPU, if there are any for these points and no other kernels."""
        if self.counts is not None or self.passes(c) is not None:
            return None
        return row_passes_for(self.rows.device, self.work, c.shape[1], c.shape[2])

    def assigned(self, c: Tensor, rule: Rule) -> Assignment:
        """The points as ``passes`` take them."""
        scale, per_row, per_column = (
            None if one is None else one.contiguous()
            for one in (self.scale, self.per_row, self.per_column)
        )
        return Assignment(self.rows, scale, c.contiguous(), rule, per_row, per_column)

    def x(self, at: tuple[slice, slice]) -> Tensor:
        """The tile's points, scaled, in the compute dtype."""
        x = self.rows[at].to(self.work)
        return self.rescale(x, at, power=-1)

    def weights(self, at: tuple[slice, slice]) -> Tensor | None:
        """What each of the tile's rows weighs in sums over points."""
        return self.importance(at) if self.counts is None else self.counts[at]

    def importance(self, at: tuple[slice, slice]) -> Tensor | None:
        """What each of the tile's rows, a single point, counts."""
        counted = None if self.per_row is None else self._of_runs(self.per_row, at)
        if self.per_column is None:
            return counted
        place = torch.arange(at[1].start, at[1].stop, device=self.rows.device)
        columns = self.per_column[place % len(self.per_column)].unsqueeze(0)
        groups = len(self.rows[at[0]])
        return columns.expand(groups, -1) if counted is None else counted * columns

    def rescale(self, values: Tensor, at: tuple[slice, slice], *, power: int) -> Tensor:
        """``values`` of a tile times its scale to the ``power``."""
        if self.scale is None:
            return values
        scale = self._of_runs(self.scale, at).unsqueeze(2)
        return values * scale if power > 0 else values / scale

    def _of_runs(self, each: Tensor, at: tuple[slice, slice]) -> Tensor:
        """A tile's rows' own of what is given for each run."""
        run = self.rows.shape[1] // each.shape[1]
        channel = torch.arange(at[1].start, at[1].stop, device=each.device) // run
        return each[at[0]].index_select(1, channel)
