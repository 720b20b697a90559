"""The passes as Triton kernels for CUDA, each reading its inputs once.

Contract: ``edkm.dkm.kernels.choice.Passes``, on the current stream, without waiting for it.
Histogram and segment sum add atomically into a few private copies of the table, so that programs
collide less; the copies are added at the end. Atomic float64 sums depend on their order: two runs
may differ in the last bits of float64, which the rounding to 16 bits hides all but always.
``gradient`` may be compiled to a fused multiply-add: one rounding less than the other passes.
Boundary: checked in Triton's interpreter against ``torch_ops``; not yet timed on a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

PATTERNS = tl.constexpr(1 << 16)
_COPIES = 16  # private tables of a segment sum: 8 MiB of float64
_BLOCK = 2048  # weights a program handles


def _kernel(program: Callable[..., Any]) -> Any:
    # Unwrapped: a run-time type checker's wrapper has no source that Triton could compile.
    return triton.jit(inspect.unwrap(program))


def histogram(weight: Shaped[Tensor, " n"]) -> Int64[Tensor, " 65536"]:
    counts = torch.zeros(_COPIES, 1 << 16, dtype=torch.int32, device=weight.device)
    _launch(_count, weight, counts, COPIES=_COPIES)
    return counts.sum(0)  # int64


def lookup(
    weight: Shaped[Tensor, " n"], table: Shaped[Tensor, " 65536"], out: Shaped[Tensor, " n"]
) -> None:
    _launch(_look_up, weight, _bits(table), _bits(out))


def segment_sum(
    weight: Shaped[Tensor, " n"], grad: Shaped[Tensor, " n"]
) -> Float[Tensor, " 65536"]:
    sums = torch.zeros(_COPIES, 1 << 16, dtype=torch.float64, device=weight.device)
    _launch(_add, weight, grad, sums, COPIES=_COPIES)
    return sums.sum(0)


def gradient(
    weight: Shaped[Tensor, " n"],
    grad: Shaped[Tensor, " n"],
    slope: Float[Tensor, " 65536"],
    shift: Float[Tensor, " 65536"],
    out: Shaped[Tensor, " n"],
) -> None:
    _launch(_pull, weight, grad, slope, shift, out)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int16)


def _launch(kernel: Any, weight: Tensor, *others: Tensor, **settings: int) -> None:
    n = weight.numel()
    with torch.cuda.device_of(weight):  # Triton launches on the current device, not the tensors'
        kernel[(int(triton.cdiv(n, _BLOCK)),)](_bits(weight), *others, n, BLOCK=_BLOCK, **settings)


@_kernel
def _count(bits, counts, n, COPIES: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    program = tl.program_id(0)
    at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    row = tl.load(bits + at, mask=inside, other=0).to(tl.int32) & 0xFFFF
    own = counts + (program % COPIES) * PATTERNS
    tl.atomic_add(own + row, 1, mask=inside, sem="relaxed")


@_kernel
def _look_up(bits, table, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    row = tl.load(bits + at, mask=inside, other=0).to(tl.int32) & 0xFFFF
    tl.store(out + at, tl.load(table + row, mask=inside), mask=inside)


@_kernel
def _add(bits, grad, sums, n, COPIES: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    program = tl.program_id(0)
    at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    row = tl.load(bits + at, mask=inside, other=0).to(tl.int32) & 0xFFFF
    value = tl.load(grad + at, mask=inside, other=0.0).to(tl.float64)
    own = sums + (program % COPIES) * PATTERNS
    tl.atomic_add(own + row, value, mask=inside, sem="relaxed")


@_kernel
def _pull(bits, grad, slope, shift, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    row = tl.load(bits + at, mask=inside, other=0).to(tl.int32) & 0xFFFF
    above = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    value = above * tl.load(slope + row, mask=inside) + tl.load(shift + row, mask=inside)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)
