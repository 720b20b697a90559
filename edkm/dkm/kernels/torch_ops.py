"""The passes in plain torch operations, a million weights at a time.

Contract: ``edkm.dkm.kernels.choice.Passes``. Temporaries are a few MiB a chunk. ``bincount`` and
not ``index_add_``, which is several times slower on a CPU.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from edkm.dkm.patterns import CHUNK, PATTERNS, pattern_counts


def histogram(weight: Shaped[Tensor, " n"]) -> Int64[Tensor, " 65536"]:
    return pattern_counts(weight)


def lookup(
    weight: Shaped[Tensor, " n"], table: Shaped[Tensor, " 65536"], out: Shaped[Tensor, " n"]
) -> None:
    for start in range(0, weight.numel(), CHUNK):
        part = slice(start, start + CHUNK)
        torch.index_select(table, 0, _index(weight[part]), out=out[part])


def segment_sum(
    weight: Shaped[Tensor, " n"], grad: Shaped[Tensor, " n"]
) -> Float[Tensor, " 65536"]:
    sums = torch.zeros(PATTERNS, dtype=torch.float64, device=weight.device)
    for start in range(0, weight.numel(), CHUNK):
        part = slice(start, start + CHUNK)
        index = _index(weight[part])
        sums += torch.bincount(index, weights=grad[part].double(), minlength=PATTERNS)
    return sums


def gradient(
    weight: Shaped[Tensor, " n"],
    grad: Shaped[Tensor, " n"],
    slope: Float[Tensor, " 65536"],
    shift: Float[Tensor, " 65536"],
    out: Shaped[Tensor, " n"],
) -> None:
    for start in range(0, weight.numel(), CHUNK):
        part = slice(start, start + CHUNK)
        index = _index(weight[part])
        # two roundings, not one fused: the compiled loops give the same bits
        out[part] = grad[part].float().mul_(slope[index]).add_(shift[index])


def _index(chunk: Tensor) -> Tensor:
    return chunk.view(torch.int16).to(torch.int32).bitwise_and_(PATTERNS - 1)
