"""Indices of a bit stream looked up in their table in one compiled pass (numba), on the CPU.

Contract: ``look_up`` writes what unpacking to int64 and then indexing gives, and makes no more.
Eight indices fill whole bytes, so they are read as one word; up to 4 bits two are looked up at a
time. Bits of table entries are moved, whatever their dtype. One thread; the interpreter lock is let
go. `benchmarks/decode.py` measures what it is worth.
Boundary: scalar tables of 1, 2, 4 or 8 bytes an entry; ``edkm.palette`` has the general way, which
is also taken where numba is missing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba  # type: ignore[import-untyped,import-not-found,unused-ignore]
import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

_PAIRED = 4  # bits of an index up to which a table of pairs stays in the nearest cache
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    # Unwrapped: a run-time type checker's wrapper can be neither compiled nor cached.
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True)(inspect.unwrap(loop))
    return compiled


def look_up(
    packed: UInt8[Tensor, " bytes"],
    table: Shaped[Tensor, "groups k"],
    start: int,
    block: int,
    bits: int,
    out: Shaped[Tensor, " n"],
) -> None:
    """``out[i]`` = entry of index ``start + i``, in table ``(start + i) // block``.

    All contiguous; ``out`` in the table's dtype. The stream must hold that many indices, and
    tables ``2**bits`` entries unless no index points beyond them.
    """
    word = _WORDS[table.element_size()]
    entries, result = table.view(word).numpy(), out.view(word).numpy()
    first, end = start, start + len(result)
    while first < end:
        stop = min(end, (first // block + 1) * block)  # of this group, or of what is asked for
        part = result[first - start : stop - start]
        mine = entries[first // block]
        if first % 8 == 0:  # eight indices fill whole bytes
            whole = len(part) // 8 * 8
            stream = packed.numpy()[first * bits // 8 :]
            if bits <= _PAIRED and mine.itemsize < 8:
                wide = part[:whole].view(f"u{2 * part.itemsize}")
                _look_up_eights(stream, _pairs(mine, bits), bits, 2 * bits, wide)
            else:
                _look_up_eights(stream, mine, bits, bits, part[:whole])
            part, first = part[whole:], first + whole
        _look_up(packed.numpy(), mine, first, bits, part)
        first = stop


def _pairs(entries: NDArray[Any], bits: int) -> NDArray[Any]:
    """Two entries side by side for each value of two indices: half as many look-ups."""
    every = np.zeros(1 << bits, entries.dtype)
    every[: len(entries)] = entries
    both = np.stack([np.tile(every, len(every)), np.repeat(every, len(every))], axis=1)
    return both.view(f"u{2 * entries.itemsize}").reshape(-1)


@_compiled
def _look_up_eights(packed: Any, entries: Any, bits: Any, step: Any, out: Any) -> None:
    """``step``: bits that number one of ``entries``, of one index or of a pair."""
    mask, shift, each = np.uint64((1 << step) - 1), np.uint64(step), 8 * bits // step
    byte = 0
    for at in range(0, out.size, each):
        word = np.uint64(packed[byte])
        for part in range(1, bits):
            word |= np.uint64(packed[byte + part]) << np.uint64(8 * part)
        byte += bits
        for part in range(each):
            out[at + part] = entries[word & mask]
            word >>= shift


@_compiled
def _look_up(packed: Any, entries: Any, start: Any, bits: Any, out: Any) -> None:
    mask = np.uint64((1 << bits) - 1)
    for at in range(out.size):
        out[at] = entries[_index(packed, (start + at) * bits, mask)]


@_compiled
def _index(packed: Any, bit: Any, mask: Any) -> Any:
    # an index of at most 8 bits lies in two neighbouring bytes
    byte = bit // 8
    word = np.uint64(packed[byte])
    if byte + 1 < packed.size:
        word |= np.uint64(packed[byte + 1]) << np.uint64(8)
    return (word >> np.uint64(bit % 8)) & mask
