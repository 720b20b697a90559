"""Which implementation of the passes serves a tensor.

Contract: CUDA tensors take Triton where it is installed, CPU tensors numba where it is installed
and works; else plain torch operations, which run anywhere. For float32 arithmetic and up to 256
clusters the streaming form has Triton kernels on CUDA, up to 4 dimensions, and compiled loops on
the CPU, at dimension 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from edkm.dkm.settings import Rule


@runtime_checkable
class Passes(Protocol):
    """What an implementation offers. All tensors are flat, contiguous and on one device."""

    def histogram(self, weight: Tensor) -> Tensor:
        """``[n]`` 16-bit -> ``[65536]`` int64: occurrences of each pattern."""

    def lookup(self, weight: Tensor, table: Tensor, out: Tensor) -> None:
        """``out_i = table[pattern(weight_i)]``; ``table`` and ``out`` in the weight's dtype."""

    def segment_sum(self, weight: Tensor, grad: Tensor) -> Tensor:
        """``[65536]`` float64: sum of ``grad`` over the weights of each pattern."""

    def gradient(
        self, weight: Tensor, grad: Tensor, slope: Tensor, shift: Tensor, out: Tensor
    ) -> None:
        """``out_i = grad_i * slope[pattern] + shift[pattern]`` in float32, then rounded.

        ``slope`` and ``shift`` are float32; ``out`` may be ``grad``.
        """


def passes_for(device: torch.device) -> Passes:
    """The fastest implementation that can run on ``device``."""
    return _load(device.type)


@lru_cache(maxsize=8)
def _load(kind: str) -> Passes:
    name = "torch_ops"
    if kind == "cuda" and find_spec("triton") is not None:
        name = "triton_cuda"
    elif kind == "cpu" and find_spec("numba") is not None:
        name = "numba_cpu"
    return named_passes(name)


class Assignment(NamedTuple):
    """Points, and the centroids that a pass assigns them to. All contiguous, on one device."""

    rows: Float[Tensor, "g n d"]  # any float dtype
    scale: Float[Tensor, "g channels"] | None  # divides a group's equal runs of rows
    c: Float[Tensor, "g k d"]
    rule: Rule
    per_row: Float[Tensor, "g channels"] | None = None  # how often the points of a run count
    per_column: Float[Tensor, " run"] | None = None  # times how often, alike in all runs


@runtime_checkable
class StreamingPasses(Protocol):
    """The streaming form's passes over all points at once; ``tiles`` says what each computes.

    Sums over rows come in float64, and in the same bits every time. Tensors are contiguous.
    """

    def sums(self, to: Assignment) -> tuple[Tensor, Tensor]:
        """Eq. 3's numerator ``[g, k, d]`` and denominator ``[g, k, 1]``."""

    def output(self, to: Assignment, updated: Tensor, out: Tensor) -> None:
        """Eq. 4, scaled back and rounded to the dtype of ``out``."""

    def pull_output(
        self, to: Assignment, updated: Tensor, grad: Tensor, out: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Eq. 5: dL/dx into float32 ``out``; returns (dL/dC, dL/dC')."""

    def pull_update(
        self, to: Assignment, to_total: Tensor, to_mass: Tensor, active: Tensor, out: Tensor
    ) -> Tensor:
        """Eq. 7: the scalar ``active`` times dL/dx added to float32 ``out``; returns dL/dC."""


def streaming_passes_for(
    device: torch.device, work: torch.dtype, clusters: int, dim: int
) -> StreamingPasses | None:
    """Whole-tensor passes where there are any for such points; None: loop over tiles."""
    fits = work == torch.float32 and dim <= 4 and clusters <= 256
    return _load_streaming() if device.type == "cuda" and fits else None


@lru_cache(maxsize=1)
def _load_streaming() -> StreamingPasses | None:
    if find_spec("triton") is None:
        return None
    try:
        return cast(StreamingPasses, import_module("edkm.dkm.kernels.triton_streaming"))
    except (ImportError, RuntimeError):  # installed, but not for this machine
        return None


@runtime_checkable
class RowPasses(Protocol):
    """The streaming form's passes at dim 1, over points that may count differently.

    Sums over rows come in float64 ``[g, k, 1]``, and in the same bits every time. Tensors are
    contiguous; centroids and their like float32, ``grad`` of the rows' dtype.
    """

    def sums(self, to: Assignment) -> tuple[Tensor, Tensor]:
        """Eq. 3's numerator and denominator."""

    def output(
        self, to: Assignment, updated: Tensor, out: Tensor | None, grad: Tensor | None
    ) -> Tensor:
        """Eq. 4, scaled back and rounded, into ``out`` of the rows' dtype, if it is given; returns
        dL/dC' of eq. 5, 0 without ``grad``."""

    def pull(
        self,
        to: Assignment,
        updated: Tensor | None,
        grad: Tensor | None,
        to_total: Tensor,
        to_mass: Tensor,
        out: Tensor,
    ) -> Tensor:
        """Eq. 5 and 7 together: dL/dx into ``out``, rounded, which may be ``grad``; returns dL/dC.

        Without ``grad`` and ``updated`` eq. 7 alone, added to ``out``.
        """


def row_passes_for(
    device: torch.device, work: torch.dtype, clusters: int, dim: int
) -> RowPasses | None:
    """Compiled loops where there are any for such points; None: loop over tiles."""
    fits = work == torch.float32 and dim == 1 and clusters <= 256
    return _load_rows() if device.type == "cpu" and fits else None


@lru_cache(maxsize=1)
def _load_rows() -> RowPasses | None:
    if find_spec("numba") is None:
        return None
    try:
        return cast(RowPasses, import_module("edkm.dkm.kernels.numba_streaming"))
    except (ImportError, RuntimeError):  # as for named_passes
        return None


def bucketize_for(
    device: torch.device, dtype: torch.dtype, edges: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """``torch.bucketize`` of flat, contiguous values, or a faster one that gives the same."""
    fits = device.type == "cpu" and dtype == torch.float32 and edges < 256
    return _load_bucketize() if fits else torch.bucketize


@lru_cache(maxsize=1)
def _load_bucketize() -> Callable[[Tensor, Tensor], Tensor]:
    try:
        found = import_module("edkm.dkm.kernels.numba_assign").bucketize
    except (ImportError, RuntimeError):  # as for named_passes
        return torch.bucketize
    return cast(Callable[[Tensor, Tensor], Tensor], found)


def named_passes(name: str) -> Passes:
    """The implementation in module ``name`` of this folder; torch's if it cannot be imported."""
    try:
        module = import_module(f"edkm.dkm.kernels.{name}")
    # installed, but not for this Python, numpy or machine; or no folder for compiled loops
    except (ImportError, RuntimeError):
        module = import_module("edkm.dkm.kernels.torch_ops")
    return cast(Passes, module)
