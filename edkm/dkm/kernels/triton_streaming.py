"""The streaming form's four passes as Triton kernels for CUDA: no map ever reaches memory.

Contract: ``edkm.dkm.kernels.choice.StreamingPasses``. A program walks blocks of rows of one group
and holds a block's attention in registers; inputs are read once and results written once.
Arithmetic is float32. Sums over rows are added up in float64, by each program and then over the
programs in a fixed order: equal inputs give equal bits.
Boundary: dimensions 1 to 4, up to 256 clusters, points of equal weight. Checked in Triton's
interpreter and compiled for GPUs by the tests; not yet timed on one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from jaxtyping import Float, Float64
from torch import Tensor

from edkm.dkm.kernels.choice import Assignment
from edkm.dkm.settings import ATTENTION_FLOOR

FLOOR = tl.constexpr(ATTENTION_FLOOR)
_MAP = 2048  # elements of a block's attention: 16 registers of each of 128 threads
_PROGRAMS = 4096  # at most, over all groups: several waves on any GPU


def _kernel(program: Callable[..., Any]) -> Any:
    # Unwrapped: a run-time type checker's wrapper has no source that Triton could compile.
    return triton.jit(inspect.unwrap(program))


def sums(to: Assignment) -> tuple[Float64[Tensor, "g k d"], Float64[Tensor, "g k 1"]]:
    launch = _Launch(to)
    total, mass = launch.partial(), launch.partial(dim=1)
    launch(_sums, total, mass)
    return _added(total), _added(mass)


def output(to: Assignment, updated: Float[Tensor, "g k d"], out: Float[Tensor, "g n d"]) -> None:
    _Launch(to)(_output, updated, out)


def pull_output(
    to: Assignment,
    updated: Float[Tensor, "g k d"],
    grad: Float[Tensor, "g n d"],
    out: Float[Tensor, "g n d"],
) -> tuple[Float64[Tensor, "g k d"], Float64[Tensor, "g k d"]]:
    launch = _Launch(to)
    to_c, to_updated = launch.partial(), launch.partial()
    launch(_pull_output, updated, grad, out, to_c, to_updated)
    return _added(to_c), _added(to_updated)


def pull_update(
    to: Assignment,
    to_total: Float[Tensor, "g k d"],
    to_mass: Float[Tensor, "g k 1"],
    active: Float[Tensor, ""],
    out: Float[Tensor, "g n d"],
) -> Float64[Tensor, "g k d"]:
    launch = _Launch(to)
    to_c = launch.partial()
    launch(_pull_update, to_total, to_mass, active, out, to_c)
    return _added(to_c)


class _Launch:
    """What all four kernels begin with, and how they are cut into programs."""

    def __init__(self, to: Assignment) -> None:
        self.groups, self.clusters, self.dim = to.c.shape
        self.device, count = to.rows.device, to.rows.shape[1]
        wide = int(triton.next_power_of_2(self.clusters))
        block = min(1024, _MAP // wide)
        blocks = int(triton.cdiv(count, block))
        self.programs = max(1, min(blocks, _PROGRAMS // self.groups))
        channels = 1 if to.scale is None else to.scale.shape[1]
        self.inputs = (
            to.rows,
            to.rows if to.scale is None else to.scale,  # a pointer that is not read
            to.c, count, channels, count // channels, self.programs, -1.0 / to.rule.tau,
        )  # fmt: skip
        self.settings = {
            "K": self.clusters, "KP": wide, "D": self.dim,
            "DP": int(triton.next_power_of_2(self.dim)), "SQUARED": to.rule.squared,
            "SCALED": to.scale is not None, "BLOCK": block,
        }  # fmt: skip

    def partial(self, dim: int | None = None) -> Tensor:
        """Each program's own sums, ``[programs, g, d, k]``."""
        shape = (self.programs, self.groups, dim or self.dim, self.clusters)
        return torch.empty(shape, dtype=torch.float64, device=self.device)

    def __call__(self, kernel: Any, *tensors: Tensor) -> None:
        grid = (self.programs * self.groups,)
        with torch.cuda.device_of(tensors[0]):  # Triton launches on the current device
            kernel[grid](*self.inputs, *tensors, **self.settings)


def _added(partial: Tensor) -> Tensor:
    return partial.sum(0).transpose(1, 2).contiguous()


# fmt: off
# In the kernels, points are [BLOCK], maps [BLOCK, KP], sums [DP, KP]. Rows from n on and columns
# from K on are computed on zeros, and masked where they would be added or stored.


@_kernel
def _block(  # type: ignore[no-untyped-def]
    rows, scales, n, channels, run, start, group, D: tl.constexpr, SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(offsets of the points, which exist, their scales)."""
    row = start + tl.arange(0, BLOCK)
    inside = row < n
    if SCALED:
        scale = tl.load(scales + group * channels + row // run, mask=inside, other=1.0)
    else:
        scale = tl.full((BLOCK,), 1.0, tl.float32)
    return (group.to(tl.int64) * n + row) * D, inside, scale


@_kernel
def _points(rows, at, inside, scale):  # type: ignore[no-untyped-def]
    return tl.load(rows + at, mask=inside, other=0.0).to(tl.float32) / scale


@_kernel
def _column(codebook, group, axis, K: tl.constexpr, KP: tl.constexpr, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """One coordinate of a group's centroids, ``[KP]``."""
    cluster = tl.arange(0, KP)
    return tl.load(codebook + (group * K + cluster) * D + axis, mask=cluster < K, other=0.0)


@_kernel
def _softmax(  # type: ignore[no-untyped-def]
    rows, c, at, inside, scale, group, factor, K: tl.constexpr, KP: tl.constexpr, D: tl.constexpr,
    SQUARED: tl.constexpr, BLOCK: tl.constexpr,
):
    """(eq. 2 before its clamp, distances of eq. 1)."""
    apart = tl.full((BLOCK, KP), 0.0, tl.float32)
    for axis in tl.static_range(D):
        x = _points(rows, at + axis, inside, scale)
        away = _column(c, group, axis, K, KP, D)[None, :] - x[:, None]
        apart += away * away
    if not SQUARED:
        apart = tl.sqrt(apart)
    real = tl.arange(0, KP)[None, :] < K
    logits = tl.where(real, apart * factor, float("-inf"))
    powers = tl.exp(logits - tl.max(logits, 1)[:, None])
    return powers / tl.sum(powers, 1)[:, None], apart


@_kernel
def _attention(p, inside, K: tl.constexpr, KP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Eq. 2; 0 where there is no row or no cluster."""
    real = inside[:, None] & (tl.arange(0, KP)[None, :] < K)
    return tl.where(real, tl.maximum(p, FLOOR), 0.0)


@_kernel
def _to_distance(p, apart, to_a, inside, factor, SQUARED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Eq. 6: dL/dD times what turns ``c - x`` into dD/dc."""
    to_a = tl.where((p >= FLOOR) & inside[:, None], to_a, 0.0)
    to_a = (to_a - tl.sum(p * to_a, 1)[:, None]) * p
    if SQUARED:
        return to_a * (2.0 * factor)
    met = apart == 0.0
    return tl.where(met, 0.0, to_a * factor / tl.where(met, 1.0, apart))


@_kernel
def _add(sums, axis, values, DP: tl.constexpr):  # type: ignore[no-untyped-def]
    """``sums`` with a map's columns added up into its row ``axis``."""
    here = tl.arange(0, DP)[:, None] == axis
    return sums + tl.where(here, tl.sum(values, 0)[None, :], 0.0).to(tl.float64)


@_kernel
def _keep(  # type: ignore[no-untyped-def]
    partial, program, sums, K: tl.constexpr, KP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
):
    axis, cluster = tl.arange(0, DP)[:, None], tl.arange(0, KP)[None, :]
    at = (program.to(tl.int64) * D + axis) * K + cluster
    tl.store(partial + at, sums, mask=(axis < D) & (cluster < K))


@_kernel
def _sums(  # type: ignore[no-untyped-def]
    rows, scales, c, n, channels, run, programs, factor, total, mass, K: tl.constexpr,
    KP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, SQUARED: tl.constexpr,
    SCALED: tl.constexpr, BLOCK: tl.constexpr,
):
    """Eq. 3's numerator and denominator."""
    groups = tl.num_programs(0) // programs
    group, program = tl.program_id(0) % groups, tl.program_id(0) // groups
    totals, masses = tl.full((DP, KP), 0.0, tl.float64), tl.full((1, KP), 0.0, tl.float64)
    for start in range(program * BLOCK, n, programs * BLOCK):
        at, inside, scale = _block(rows, scales, n, channels, run, start, group, D, SCALED, BLOCK)
        p, _ = _softmax(rows, c, at, inside, scale, group, factor, K, KP, D, SQUARED, BLOCK)
        a = _attention(p, inside, K, KP)
        masses = _add(masses, 0, a, 1)
        for axis in tl.static_range(D):
            x = _points(rows, at + axis, inside, scale)
            totals = _add(totals, axis, a * x[:, None], DP)
    _keep(total, tl.program_id(0), totals, K, KP, D, DP)
    _keep(mass, tl.program_id(0), masses, K, KP, 1, 1)


@_kernel
def _output(  # type: ignore[no-untyped-def]
    rows, scales, c, n, channels, run, programs, factor, updated, out, K: tl.constexpr,
    KP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, SQUARED: tl.constexpr,
    SCALED: tl.constexpr, BLOCK: tl.constexpr,
):
    """Eq. 4."""
    groups = tl.num_programs(0) // programs
    group, program = tl.program_id(0) % groups, tl.program_id(0) // groups
    for start in range(program * BLOCK, n, programs * BLOCK):
        at, inside, scale = _block(rows, scales, n, channels, run, start, group, D, SCALED, BLOCK)
        p, _ = _softmax(rows, c, at, inside, scale, group, factor, K, KP, D, SQUARED, BLOCK)
        a = _attention(p, inside, K, KP)
        for axis in tl.static_range(D):
            value = tl.sum(a * _column(updated, group, axis, K, KP, D)[None, :], 1) * scale
            tl.store(out + at + axis, value.to(out.dtype.element_ty), mask=inside)


@_kernel
def _pull_output(  # type: ignore[no-untyped-def]
    rows, scales, c, n, channels, run, programs, factor, updated, grad, out, to_c, to_updated,
    K: tl.constexpr, KP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, SQUARED: tl.constexpr,
    SCALED: tl.constexpr, BLOCK: tl.constexpr,
):
    """Eq. 5 and 6."""
    groups = tl.num_programs(0) // programs
    group, program = tl.program_id(0) % groups, tl.program_id(0) // groups
    to_cs, to_updateds = tl.full((DP, KP), 0.0, tl.float64), tl.full((DP, KP), 0.0, tl.float64)
    for start in range(program * BLOCK, n, programs * BLOCK):
        at, inside, scale = _block(rows, scales, n, channels, run, start, group, D, SCALED, BLOCK)
        p, apart = _softmax(rows, c, at, inside, scale, group, factor, K, KP, D, SQUARED, BLOCK)
        a = _attention(p, inside, K, KP)
        to_a = tl.full((BLOCK, KP), 0.0, tl.float32)
        for axis in tl.static_range(D):
            g = tl.load(grad + at + axis, mask=inside, other=0.0).to(tl.float32) * scale
            to_a += g[:, None] * _column(updated, group, axis, K, KP, D)[None, :]
            to_updateds = _add(to_updateds, axis, a * g[:, None], DP)
        to_d = _to_distance(p, apart, to_a, inside, factor, SQUARED)
        for axis in tl.static_range(D):
            x = _points(rows, at + axis, inside, scale)
            along = (_column(c, group, axis, K, KP, D)[None, :] - x[:, None]) * to_d
            tl.store(out + at + axis, -tl.sum(along, 1) / scale, mask=inside)
            to_cs = _add(to_cs, axis, along, DP)
    _keep(to_c, tl.program_id(0), to_cs, K, KP, D, DP)
    _keep(to_updated, tl.program_id(0), to_updateds, K, KP, D, DP)


@_kernel
def _pull_update(  # type: ignore[no-untyped-def]
    rows, scales, c, n, channels, run, programs, factor, to_total, to_mass, active, out, to_c,
    K: tl.constexpr, KP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, SQUARED: tl.constexpr,
    SCALED: tl.constexpr, BLOCK: tl.constexpr,
):
    """Eq. 7 and 6, added to ``out`` times ``active`` (0 for an update that did not take place)."""
    groups = tl.num_programs(0) // programs
    group, program = tl.program_id(0) % groups, tl.program_id(0) // groups
    to_cs = tl.full((DP, KP), 0.0, tl.float64)
    share = tl.load(active)
    for start in range(program * BLOCK, n, programs * BLOCK):
        at, inside, scale = _block(rows, scales, n, channels, run, start, group, D, SCALED, BLOCK)
        p, apart = _softmax(rows, c, at, inside, scale, group, factor, K, KP, D, SQUARED, BLOCK)
        a = _attention(p, inside, K, KP)
        to_a = tl.full((BLOCK, KP), 0.0, tl.float32) + _column(to_mass, group, 0, K, KP, 1)[None, :]
        for axis in tl.static_range(D):
            x = _points(rows, at + axis, inside, scale)
            to_a += x[:, None] * _column(to_total, group, axis, K, KP, D)[None, :]
        to_d = _to_distance(p, apart, to_a, inside, factor, SQUARED)
        for axis in tl.static_range(D):
            x = _points(rows, at + axis, inside, scale)
            along = (_column(c, group, axis, K, KP, D)[None, :] - x[:, None]) * to_d
            direct = tl.sum(a * _column(to_total, group, axis, K, KP, D)[None, :], 1)
            value = (direct - tl.sum(along, 1)) * share / scale
            before = tl.load(out + at + axis, mask=inside, other=0.0)
            tl.store(out + at + axis, before + value, mask=inside)
            to_cs = _add(to_cs, axis, along, DP)
    _keep(to_c, tl.program_id(0), to_cs, K, KP, D, DP)
