"""The vectors that stand for a whole weight where its order does not matter.

Contract: a 16-bit weight at dim 1 is represented exactly, by its distinct values and how often
each occurs; any other by at most 65,536 evenly spaced vectors of its own.
Boundary: for choosing centroids and temperatures; the forms themselves never sample.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from edkm.dkm.kernels import passes_for
from edkm.dkm.patterns import is_patterned, pattern_values

_SAMPLE = 65_536  # vectors that stand for a weight without a histogram


def occupied(
    weight: Shaped[Tensor, "*shape"],
) -> tuple[Float[Tensor, " m"], Int64[Tensor, " m"]]:
    """The distinct values of a 16-bit ``weight`` in float32, with their counts."""
    counts = passes_for(weight.device).histogram(weight.detach().contiguous().view(-1))
    present = counts.nonzero().squeeze(1)
    values = pattern_values(weight.dtype, weight.device)[present]
    return values.float(), counts[present]


def represent(weight: Shaped[Tensor, "*shape"], dim: int) -> tuple[Tensor, Tensor]:
    """Vectors ``[m, dim]`` with counts ``[m]`` that stand for the weight, m <= 65,536."""
    if dim == 1 and is_patterned(weight.dtype):
        values, counts = occupied(weight)
        return values.unsqueeze(1), counts
    rows = weight.detach().reshape(-1, dim)
    stride = max(1, rows.shape[0] // _SAMPLE)
    rows = rows[::stride][:_SAMPLE]
    return rows, torch.ones(rows.shape[0], device=rows.device)
