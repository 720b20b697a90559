"""How soft the clustering is: a temperature that follows the weights' scale, and its annealing.

Contract: the softmax of DKM compares squared distances with tau, so a fixed tau means another
softness for every layer. Here tau is a multiple of the weights' variance per cluster cell, and
multiplying a weight by s multiplies its tau by s**2: the attention stays the same.
Boundary: numbers only; who changes tau over the training steps is the trainer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from edkm.dkm.checks import DISTANCES, check_choice, check_dtype, check_range
from edkm.dkm.histogram import occupied
from edkm.dkm.patterns import CHUNK, is_patterned

DEFAULT_MULTIPLE = 1.0  # of variance / K**2
_LEAST_SPREAD = 1e-5  # of the root mean square


def default_tau(
    weight: Shaped[Tensor, "*shape"],
    clusters: int,
    dim: int = 1,
    *,
    multiple: float = DEFAULT_MULTIPLE,
    distance: str = "squared",
) -> float:
    """``multiple * dim * var(weight) / clusters**(2/dim)``, in squared weight units.

    ``var / K**2`` at dim 1 is the squared width of a cell when K cells share one standard
    deviation. With ``distance="euclidean"`` the square root of it, in weight units. A spread
    below 1e-5 of the weights' magnitude counts as 1e-5 of it: under a smaller tau the rounding
    of the centroids, and not the weights, would decide.
    Raises ``ValueError`` for a weight without finite elements.
    """
    check_dtype(weight)
    check_choice("distance", distance, DISTANCES)
    check_range("clusters", clusters, 1, None, "a codebook has at least one entry")
    if not (math.isfinite(multiple) and multiple > 0):
        raise ValueError(f"multiple is {multiple}; it must be a finite number above 0")
    variance, square = _moments(weight.detach())
    if not math.isfinite(variance):
        raise ValueError(
            "weight is empty or holds NaN or infinite values, so it has no variance to scale tau "
            "by; cluster finite weights or give tau as a number"
        )
    variance = max(variance, square * _LEAST_SPREAD**2)
    tau = multiple * dim * variance / clusters ** (2.0 / dim)
    tau = max(tau, torch.finfo(torch.float32).tiny)
    return math.sqrt(tau) if distance == "euclidean" else tau


def _moments(weight: Tensor) -> tuple[float, float]:
    """(population variance, mean square), accumulated in float64, over the histogram if any."""
    if weight.numel() == 0:
        return math.nan, math.nan
    if is_patterned(weight.dtype):
        values, counts = occupied(weight)
        share = counts.double() / weight.numel()
        values = values.double()
        mean = float((share * values).sum())
        variance = float((share * (values - mean).square()).sum())
        return variance, variance + mean**2
    flat = weight.reshape(-1)
    chunks = flat.split(CHUNK)  # views; widened one at a time
    mean = sum(float(chunk.double().sum()) for chunk in chunks) / flat.numel()
    variance = sum(float((chunk.double() - mean).square().sum()) for chunk in chunks) / flat.numel()
    return variance, variance + mean**2


@dataclass(frozen=True, kw_only=True)
class TauSchedule:
    """Geometric annealing of tau: soft at the start of a training run, hard at its end.

    Called with the training progress in [0, 1], it returns the factor tau is multiplied by.
    """

    start: float = 1.0  # factor at progress 0, dimensionless
    end: float = 1.0  # factor at progress 1, dimensionless; below ``start`` to harden

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; a factor of tau must be finite and above 0")

    def __call__(self, progress: float) -> float:
        """The factor at ``progress``: 0 at the first step, 1 at the last, clamped outside."""
        progress = min(max(progress, 0.0), 1.0)
        return float(self.start * (self.end / self.start) ** progress)
