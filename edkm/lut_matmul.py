"""``x @ W.T`` on CUDA where W is a palette: indices are unpacked in registers, never in memory.

Contract: equals the product with the dense weight to the rounding of a sum in float32; reads
``bits`` bits a weight. Any 1 to 8 bits, any shape, scales of rows and a table for each of equal
blocks of rows included; scalar tables.
Boundary: the product alone, no gradient; ``edkm.palettized`` chooses it. Checked in Triton's
interpreter; not yet timed on a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from jaxtyping import Float, UInt8
from torch import Tensor

_ROWS, _OUT, _IN = 16, 64, 64  # of a program's tile; 16 is the least a tensor core takes


def _kernel(program: Callable[..., Any]) -> Any:
    # Unwrapped: a run-time type checker's wrapper has no source that Triton could compile.
    return triton.jit(inspect.unwrap(program))


def lut_matmul(
    x: Float[Tensor, "rows inputs"],
    table: Float[Tensor, "*groups k 1"],
    indices: UInt8[Tensor, " bytes"],
    outputs: int,
    bits: int,
    scale: Float[Tensor, " outputs"] | None = None,
) -> Float[Tensor, "rows outputs"]:
    """``x @ (table[index] * scale[:, None]).T`` in the dtype of ``x``.

    ``indices``: of a weight ``[outputs, inputs]``, packed as ``edkm.palette`` packs them.
    ``table``: one, or one for each of equal blocks of outputs.
    """
    x = x.contiguous()
    rows, inputs = x.shape
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    groups = table.shape[0] if table.ndim == 3 else 1
    grid = (triton.cdiv(rows, _ROWS), triton.cdiv(outputs, _OUT))
    _multiply[grid](
        x, table.contiguous(), indices, table if scale is None else scale, out,
        rows, outputs, inputs, indices.numel(), outputs // groups, table.shape[-2],
        BITS=bits, SCALED=scale is not None, ROWS=_ROWS, OUT=_OUT, IN=_IN,
    )  # fmt: skip
    return out


@_kernel
def _multiply(
    x: Any, table: Any, indices: Any, scale: Any, out: Any,
    rows: Any, outputs: Any, inputs: Any, nbytes: Any, block: Any, entries: Any,
    BITS: tl.constexpr, SCALED: tl.constexpr,
    ROWS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * OUT + tl.arange(0, OUT)
    total = tl.full((ROWS, OUT), 0.0, tl.float32)
    for first in range(0, inputs, IN):
        at = first + tl.arange(0, IN)
        inside = (at < inputs)[:, None] & (column < outputs)[None, :]
        position = column[None, :].to(tl.int64) * inputs + at[:, None]
        bit = position * BITS
        byte = bit >> 3
        # an index of at most 8 bits lies in two neighbouring bytes
        low = tl.load(indices + byte, mask=inside, other=0).to(tl.int32)
        high = tl.load(indices + byte + 1, mask=inside & (byte + 1 < nbytes), other=0).to(tl.int32)
        index = ((low | (high << 8)) >> (bit & 7).to(tl.int32)) & ((1 << BITS) - 1)
        index += (column // block * entries)[None, :]  # of the table of its block of outputs
        weight = tl.load(table + index, mask=inside, other=0.0).to(tl.float32)
        given = tl.load(
            x + row[:, None] * inputs + at[None, :],
            mask=(row < rows)[:, None] & (at < inputs)[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.dot(given, weight, input_precision="ieee")
    if SCALED:
        by = tl.load(scale + column, mask=column < outputs, other=0.0).to(tl.float32)
        total = total * by[None, :]
    tl.store(
        out + row[:, None] * outputs + column[None, :],
        total.to(out.dtype.element_ty),
        mask=(row < rows)[:, None] & (column < outputs)[None, :],
    )
