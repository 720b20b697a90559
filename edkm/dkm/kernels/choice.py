"""Which implementation of the passes serves a tensor.

Contract: CUDA tensors take Triton where it is installed, CPU tensors numba where it is installed
and works; else plain torch operations, which run anywhere.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor


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


def named_passes(name: str) -> Passes:
    """The implementation in module ``name`` of this folder; torch's if it cannot be imported."""
    try:
        module = import_module(f"edkm.dkm.kernels.{name}")
    # installed, but not for this Python, numpy or machine; or no folder for compiled loops
    except (ImportError, RuntimeError):
        module = import_module("edkm.dkm.kernels.torch_ops")
    return cast(Passes, module)
