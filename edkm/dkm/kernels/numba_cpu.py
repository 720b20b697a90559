"""The passes as compiled CPU loops (numba), one thread a share of the weights.

Contract: ``edkm.dkm.kernels.choice.Passes``; as many threads as torch uses. The loops release
the interpreter lock and run in torch's own threads (``edkm.dkm.kernels.team``); numba's pools
abort the process when two threads enter them, or after a fork.
Four weights are read as one word; gathering a block of table entries first leaves arithmetic that
compiles to vectors. `benchmarks/dkm.py --passes` measures each pass against a copy.
Boundary: little-endian machines.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numba  # type: ignore[import-untyped,import-not-found,unused-ignore]
import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from numpy.typing import NDArray
from torch import Tensor

from edkm.dkm.kernels.team import share
from edkm.dkm.patterns import PATTERNS

if sys.byteorder != "little":
    raise ImportError("words of four weights are taken apart in little-endian order")

_SHARE = 1 << 18  # fewer weights than this are not worth a thread (about 0.1 ms)
_BLOCK = 256  # table entries gathered at a time: 2 KiB
U16, U32, U64, F32 = np.uint16, np.uint32, np.uint64, np.float32


def _compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    # Unwrapped: a run-time type checker's wrapper can be neither compiled nor cached.
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True)(inspect.unwrap(loop))
    return compiled


def histogram(weight: Shaped[Tensor, " n"]) -> Int64[Tensor, " 65536"]:
    bits = _bits(weight)

    def count(part: slice) -> NDArray[Any]:
        tally = np.zeros(PATTERNS, np.int64)
        _count(bits[part], _words(bits[part]), tally)
        return tally

    return torch.from_numpy(_sum(_share_out(count, bits.size, pieces=1)))


def lookup(
    weight: Shaped[Tensor, " n"], table: Shaped[Tensor, " 65536"], out: Shaped[Tensor, " n"]
) -> None:
    bits, entries, results = _bits(weight), _bits(table), _bits(out)

    def look_up(part: slice) -> None:
        mine = results[part]
        _look_up(bits[part], _words(bits[part]), entries, mine, _words(mine))

    _share_out(look_up, bits.size)


def segment_sum(
    weight: Shaped[Tensor, " n"], grad: Shaped[Tensor, " n"]
) -> Float[Tensor, " 65536"]:
    bits, upstream = _bits(weight), _bits(grad)
    half = grad.dtype == torch.float16

    def add(part: slice) -> NDArray[Any]:
        sums = np.zeros(PATTERNS, np.float64)
        if half:
            _add_float16(bits[part], upstream[part], _float16_values(), sums)
        else:
            _add_bfloat16(bits[part], upstream[part], sums)
        return sums

    return torch.from_numpy(_sum(_share_out(add, bits.size, pieces=1)))


def gradient(
    weight: Shaped[Tensor, " n"],
    grad: Shaped[Tensor, " n"],
    slope: Float[Tensor, " 65536"],
    shift: Float[Tensor, " 65536"],
    out: Shaped[Tensor, " n"],
) -> None:
    bits, upstream, results = _bits(weight), _bits(grad), _bits(out)
    # side by side, so that both are one read
    lines = torch.stack((slope, shift), dim=1).numpy().view(np.uint64).reshape(-1)
    half = grad.dtype == torch.float16

    def pull(part: slice) -> None:
        if half:
            _pull_float16(
                bits[part], _words(bits[part]), upstream[part], _float16_values(), lines,
                results[part],
            )  # fmt: skip
        else:
            _pull_bfloat16(bits[part], _words(bits[part]), upstream[part], lines, results[part])

    _share_out(pull, bits.size)


def _bits(tensor: Tensor) -> NDArray[np.uint16]:
    """The tensor's memory as unsigned 16-bit patterns, not a copy."""
    bits: NDArray[np.uint16] = tensor.detach().view(torch.int16).numpy().view(np.uint16)
    return bits


def _words(bits: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """The same memory in words of four patterns; up to three at the end are left over."""
    words: NDArray[np.uint64] = bits[: bits.size // 4 * 4].view(np.uint64)
    return words


@lru_cache(maxsize=1)
def _float16_values() -> NDArray[Any]:
    return np.arange(PATTERNS, dtype=np.uint16).view(np.float16).astype(np.float32)


def _share_out(work: Callable[[slice], Any], size: int, *, pieces: int = 4) -> list[Any]:
    """``work`` on equal consecutive parts of ``range(size)``, results in order.

    The parts, ``pieces`` a thread, depend on the size and the number of threads alone, and so do
    sums.
    """
    threads = max(1, min(torch.get_num_threads(), size // _SHARE))
    if threads == 1:
        return [work(slice(0, size))]
    count = threads * max(1, min(pieces, size // (threads * _SHARE)))
    edges = [size * part // count for part in range(count + 1)]
    return share(work, [slice(low, high) for low, high in pairwise(edges)], threads)


def _sum(parts: list[NDArray[Any]]) -> NDArray[Any]:
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


@_compiled
def _count(bits: Any, words: Any, tally: Any) -> None:
    for i in range(words.size):
        word = words[i]
        tally[word & U64(0xFFFF)] += 1
        tally[(word >> U64(16)) & U64(0xFFFF)] += 1
        tally[(word >> U64(32)) & U64(0xFFFF)] += 1
        tally[word >> U64(48)] += 1
    for i in range(4 * words.size, bits.size):
        tally[bits[i]] += 1


@_compiled
def _look_up(bits: Any, words: Any, table: Any, out: Any, out_words: Any) -> None:
    for i in range(words.size):
        word = words[i]
        out_words[i] = (
            U64(table[word & U64(0xFFFF)])
            | (U64(table[(word >> U64(16)) & U64(0xFFFF)]) << U64(16))
            | (U64(table[(word >> U64(32)) & U64(0xFFFF)]) << U64(32))
            | (U64(table[word >> U64(48)]) << U64(48))
        )
    for i in range(4 * words.size, bits.size):
        out[i] = table[bits[i]]


@_compiled
def _add_bfloat16(bits: Any, upstream: Any, sums: Any) -> None:
    for i in range(bits.size):
        # a bfloat16 is the upper half of a float32
        sums[bits[i]] += U32(U32(upstream[i]) << U32(16)).view(F32)


@_compiled
def _add_float16(bits: Any, upstream: Any, values: Any, sums: Any) -> None:
    for i in range(bits.size):
        sums[bits[i]] += values[upstream[i]]


@_compiled
def _affine(above: Any, line: Any) -> Any:
    """``above * slope + shift``, rounded twice as torch does, as the bits of a float32."""
    slope, shift = U32(line).view(F32), U32(line >> U64(32)).view(F32)
    return F32(F32(above * slope) + shift).view(U32)


@_compiled
def _to_bfloat16(wide: Any) -> Any:
    """The nearest bfloat16, ties to even; NaN stays NaN."""
    even = U32(U32(wide >> U32(16)) & U32(1))
    nearest = U32(U32(wide + U32(U32(0x7FFF) + even)) >> U32(16))
    return U16(nearest) if U32(wide & U32(0x7FFFFFFF)) <= U32(0x7F800000) else U16(0x7FC0)


@_compiled
def _to_float16(wide: Any) -> Any:
    """The nearest float16, ties to even; NaN stays NaN. Without branches, so that it vectorizes."""
    size = U32(wide & U32(0x7FFFFFFF))
    even = U32(U32(size >> U32(13)) & U32(1))
    nearest = U32(U32(U32(size + U32(U32(0xFFF) + even)) >> U32(13)) - U32(112 << 10))
    # below 2**-14: adding 0.5 rounds to 2**-24, the step of the subnormals
    small = U32(F32(size.view(F32) + F32(0.5)).view(U32) - U32(0x3F000000))
    nearest = small if size < U32(0x38800000) else nearest
    nearest = U32(0x7C00) if size >= U32(0x47800000) else nearest  # 2**16: infinite
    nearest = U32(0x7E00) if size > U32(0x7F800000) else nearest
    return U16(U32(U32(wide >> U32(16)) & U32(0x8000)) | nearest)


@_compiled
def _gather(words: Any, lines: Any, gathered: Any) -> None:
    for i in range(words.size):
        word = words[i]
        gathered[4 * i] = lines[word & U64(0xFFFF)]
        gathered[4 * i + 1] = lines[(word >> U64(16)) & U64(0xFFFF)]
        gathered[4 * i + 2] = lines[(word >> U64(32)) & U64(0xFFFF)]
        gathered[4 * i + 3] = lines[word >> U64(48)]


@_compiled
def _pull_gathered(upstream: Any, gathered: Any, out: Any) -> None:
    for i in range(_BLOCK):
        above = U32(U32(upstream[i]) << U32(16)).view(F32)
        out[i] = _to_bfloat16(_affine(above, gathered[i]))


@_compiled
def _pull_bfloat16(bits: Any, words: Any, upstream: Any, lines: Any, out: Any) -> None:
    gathered = np.empty(_BLOCK, U64)
    blocks = bits.size // _BLOCK
    for block in range(blocks):
        first = block * _BLOCK
        _gather(words[first // 4 : first // 4 + _BLOCK // 4], lines, gathered)
        part = slice(first, first + _BLOCK)
        _pull_gathered(upstream[part], gathered, out[part])
    for i in range(blocks * _BLOCK, bits.size):
        above = U32(U32(upstream[i]) << U32(16)).view(F32)
        out[i] = _to_bfloat16(_affine(above, lines[bits[i]]))


@_compiled
def _pull_float16(bits: Any, words: Any, upstream: Any, values: Any, lines: Any, out: Any) -> None:
    gathered, above = np.empty(_BLOCK, U64), np.empty(_BLOCK, F32)
    blocks = bits.size // _BLOCK
    for block in range(blocks):
        first = block * _BLOCK
        _gather(words[first // 4 : first // 4 + _BLOCK // 4], lines, gathered)
        part = slice(first, first + _BLOCK)
        _read(upstream[part], values, above)
        _pull_read(above, gathered, out[part])
    for i in range(blocks * _BLOCK, bits.size):
        out[i] = _to_float16(_affine(values[upstream[i]], lines[bits[i]]))


@_compiled
def _read(upstream: Any, values: Any, above: Any) -> None:
    for i in range(_BLOCK):
        above[i] = values[upstream[i]]


@_compiled
def _pull_read(above: Any, gathered: Any, out: Any) -> None:
    for i in range(_BLOCK):
        out[i] = _to_float16(_affine(above[i], gathered[i]))
