"""The 65,536 bit patterns of a 16-bit dtype, and how often a weight shows each.

Contract: the pattern of a value, read as an unsigned integer, is its row number in every table
of this package. A histogram is exact and is made in chunks, without an index list.
Boundary: patterns and the plain way of counting them; faster passes are in ``kernels``.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

PATTERNS = 1 << 16
CHUNK = 1 << 20  # weights whose patterns are widened at a time: 8 MiB of int64


def is_patterned(dtype: torch.dtype) -> bool:
    """True for the dtypes whose values are numbered by 16 bits."""
    return dtype in (torch.bfloat16, torch.float16)


@lru_cache(maxsize=4)
def _values(dtype: torch.dtype) -> Tensor:
    return torch.arange(PATTERNS, dtype=torch.int32).to(torch.int16).view(dtype)


def pattern_values(dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """``[65536]``: the value whose bits are the row number, NaN and infinities included."""
    return _values(dtype).to(device).clone()


@lru_cache(maxsize=4)
def _nonfinite(dtype: torch.dtype) -> Tensor:
    return (~torch.isfinite(_values(dtype))).nonzero().squeeze(1)


def nonfinite_count(counts: Int64[Tensor, " 65536"], dtype: torch.dtype) -> Int64[Tensor, ""]:
    """How many weights of a histogram are NaN or infinite: a look at their few rows only."""
    return counts[_nonfinite(dtype).to(counts.device)].sum()


def pattern_index(chunk: Shaped[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Row numbers of a flat chunk of 16-bit values (a widened copy, so keep chunks small)."""
    return chunk.view(torch.int16).to(torch.int64).bitwise_and_(PATTERNS - 1)


def pattern_counts(weight: Shaped[Tensor, "*shape"]) -> Int64[Tensor, " 65536"]:
    """How many elements of a 16-bit ``weight`` have each pattern."""
    flat = weight.detach().reshape(-1)
    counts = torch.zeros(PATTERNS, dtype=torch.int64, device=weight.device)
    for start in range(0, flat.numel(), CHUNK):
        # widened to 32 bits only: twice as fast as pattern_index
        index = flat[start : start + CHUNK].view(torch.int16).to(torch.int32)
        counts += torch.bincount(index.bitwise_and_(PATTERNS - 1), minlength=PATTERNS)
    return counts
