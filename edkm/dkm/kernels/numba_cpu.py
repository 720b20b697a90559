"""The passes as compiled CPU loops (numba), one thread a share of the weights.

Contract: ``edkm.dkm.kernels.choice.Passes``; as many threads as torch uses. The loops release
the interpreter lock and run in ordinary Python threads, because numba's own thread pools abort
the process when two threads enter them, or after a fork.
Measured against the torch operations at 16.7 M bfloat16 weights on two cores: histogram 2.5
against 7.5 ms, look-up 2.4 against 23 ms (without first touching the result's memory).
Boundary: float16 gradients are left to ``torch_ops``: rounding to float16 is not written here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba  # type: ignore[import-untyped,import-not-found,unused-ignore]
import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from numpy.typing import NDArray
from torch import Tensor

from edkm.dkm.kernels import torch_ops
from edkm.dkm.patterns import PATTERNS

_SHARE = 1 << 18  # fewer weights than this are not worth a thread (about 0.1 ms)


def _compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    # Unwrapped: a run-time type checker's wrapper can be neither compiled nor cached.
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True)(inspect.unwrap(loop))
    return compiled


def histogram(weight: Shaped[Tensor, " n"]) -> Int64[Tensor, " 65536"]:
    bits = _bits(weight)

    def count(part: slice) -> NDArray[Any]:
        tally = np.zeros(PATTERNS, np.int64)
        _count(bits[part], tally)
        return tally

    return torch.from_numpy(_sum(_share_out(count, bits.size)))


def lookup(
    weight: Shaped[Tensor, " n"], table: Shaped[Tensor, " 65536"], out: Shaped[Tensor, " n"]
) -> None:
    bits, entries, results = _bits(weight), _bits(table), _bits(out)
    _share_out(lambda part: _look_up(bits[part], entries, results[part]), bits.size)


def segment_sum(
    weight: Shaped[Tensor, " n"], grad: Shaped[Tensor, " n"]
) -> Float[Tensor, " 65536"]:
    bits, upstream = _bits(weight), _bits(grad)
    half = grad.dtype == torch.float16
    floats = _float16_values() if half else np.zeros(1, np.float32)

    def add(part: slice) -> NDArray[Any]:
        sums = np.zeros(PATTERNS, np.float64)
        if half:
            _add_listed(bits[part], upstream[part], floats, sums)
        else:
            _add_bfloat16(bits[part], upstream[part], sums)
        return sums

    return torch.from_numpy(_sum(_share_out(add, bits.size)))


def gradient(
    weight: Shaped[Tensor, " n"],
    grad: Shaped[Tensor, " n"],
    slope: Float[Tensor, " 65536"],
    shift: Float[Tensor, " 65536"],
    out: Shaped[Tensor, " n"],
) -> None:
    if grad.dtype != torch.bfloat16:
        torch_ops.gradient(weight, grad, slope, shift, out)
        return
    bits, upstream, results = _bits(weight), _bits(grad), _bits(out)
    factors, terms = slope.numpy(), shift.numpy()

    def pull(part: slice) -> None:
        _pull(bits[part], upstream[part], factors, terms, results[part])

    _share_out(pull, bits.size)


def _bits(tensor: Tensor) -> NDArray[np.uint16]:
    """The tensor's memory as unsigned 16-bit patterns, not a copy."""
    bits: NDArray[np.uint16] = tensor.detach().view(torch.int16).numpy().view(np.uint16)
    return bits


def _float16_values() -> NDArray[Any]:
    return np.arange(PATTERNS, dtype=np.uint16).view(np.float16).astype(np.float32)


def _share_out(work: Callable[[slice], Any], size: int) -> list[Any]:
    """``work`` on equal consecutive shares of ``range(size)``, results in order."""
    shares = max(1, min(torch.get_num_threads(), size // _SHARE))
    edges = [size * share // shares for share in range(shares + 1)]
    parts = [slice(low, high) for low, high in pairwise(edges)]
    if shares == 1:
        return [work(parts[0])]
    with ThreadPoolExecutor(shares) as pool:
        return list(pool.map(work, parts))


def _sum(parts: list[NDArray[Any]]) -> NDArray[Any]:
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


@_compiled
def _count(bits: Any, tally: Any) -> None:
    for i in range(bits.size):
        tally[bits[i]] += 1


@_compiled
def _look_up(bits: Any, table: Any, out: Any) -> None:
    for i in range(bits.size):
        out[i] = table[bits[i]]


@_compiled
def _add_bfloat16(bits: Any, upstream: Any, sums: Any) -> None:
    for i in range(bits.size):
        # a bfloat16 is the upper half of a float32
        sums[bits[i]] += np.uint32(np.uint32(upstream[i]) << np.uint32(16)).view(np.float32)


@_compiled
def _add_listed(bits: Any, upstream: Any, values: Any, sums: Any) -> None:
    for i in range(bits.size):
        sums[bits[i]] += values[upstream[i]]


@_compiled
def _pull(bits: Any, upstream: Any, slope: Any, shift: Any, out: Any) -> None:
    for i in range(bits.size):
        row = bits[i]
        above = np.uint32(np.uint32(upstream[i]) << np.uint32(16)).view(np.float32)
        value = np.float32(np.float32(above * slope[row]) + shift[row])
        wide = value.view(np.uint32)
        # round to nearest, ties to even, as torch does; NaN stays NaN
        rounded = (wide + np.uint32(0x7FFF) + ((wide >> np.uint32(16)) & np.uint32(1))) >> (
            np.uint32(16)
        )
        out[i] = np.uint16(0x7FC0) if value != value else np.uint16(rounded)
