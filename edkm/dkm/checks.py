"""Checks of what the user hands in. Each error gives the name, the value, the rule, the remedy.

Boundary: nothing here computes; the finite check reads the weight once, in chunks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DISTANCES = ("squared", "euclidean")
FORMS = ("auto", "dense", "fused", "streaming")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_CHUNK = 1 << 20  # elements checked at a time, so that no mask of the weight's size is made


def check_weight(weight: Tensor, clusters: int, dim: int) -> None:
    """Raise ``ValueError`` unless ``weight`` can be cut into >= ``clusters`` finite vectors."""
    check_sizes(weight, clusters, dim)
    check_finite(weight)


def check_sizes(weight: Tensor, clusters: int, dim: int) -> None:
    """The part of ``check_weight`` that reads no values, and so works on fake tensors too."""
    check_dtype(weight)
    if weight.numel() == 0:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, which holds no element; clustering needs "
            "at least one weight per cluster: leave empty weights out"
        )
    if weight.numel() % dim:
        raise ValueError(
            f"weight has {weight.numel()} elements, which dim={dim} does not divide; choose a "
            "cluster dimension that divides the number of weights, or pad the weight"
        )
    vectors = weight.numel() // dim
    if vectors < clusters:
        raise ValueError(
            f"weight gives {vectors} vectors of dim={dim}, fewer than the {clusters} clusters "
            "asked for; use fewer bits, a smaller dim, or leave this weight unclustered"
        )


def check_dtype(weight: Tensor) -> None:
    """Raise ``ValueError`` unless the dtype is one of float64, float32, bfloat16, float16."""
    if weight.dtype not in DTYPES:
        raise ValueError(
            f"weight has dtype {weight.dtype}; clustering is defined for float64, float32, "
            "bfloat16 and float16: convert the weight first"
        )


def check_finite(weight: Tensor) -> None:
    """Raise ``ValueError`` if any weight is NaN or infinite. One host sync on a GPU."""
    if weight.is_meta:
        return
    flat = weight.detach().reshape(-1)
    # the sum of 0 * w is 0 for finite weights only, and needs no mask of the weight's size
    total = torch.zeros((), dtype=torch.float32, device=weight.device)
    for start in range(0, flat.numel(), _CHUNK):
        total += (flat[start : start + _CHUNK] * 0).sum()
    if not bool(total == 0):
        bad = sum(
            int((~torch.isfinite(flat[start : start + _CHUNK])).sum())
            for start in range(0, flat.numel(), _CHUNK)
        )
        raise nonfinite_error(bad)


def nonfinite_error(count: int) -> ValueError:
    """The error for ``count`` NaN or infinite weights."""
    return ValueError(
        f"weight holds {count} NaN or infinite values; clustering needs finite weights: look "
        "for the step that made them (learning rate, loss scale) or mask them first"
    )


def check_centroids(
    centroids: Tensor, weight: Tensor, dim: int | None = None, *, finite: bool = True
) -> int:
    """Raise ``ValueError`` unless centroids are ``[k, d]``, and finite if asked; returns ``d``."""
    wanted = "[clusters, dim]" if dim is None else f"[clusters, {dim}]"
    if centroids.ndim != 2 or 0 in centroids.shape or dim not in (None, centroids.shape[1]):
        raise ValueError(
            f"centroids has shape {tuple(centroids.shape)}; it must be {wanted}: reshape it, or "
            "pass None to start from initial_centroids"
        )
    if not centroids.is_floating_point():
        raise ValueError(
            f"centroids has dtype {centroids.dtype}; it must be floating point: convert it"
        )
    if centroids.device != weight.device:
        raise ValueError(
            f"centroids is on {centroids.device}; it must be on the weight's device "
            f"{weight.device}: move it there"
        )
    if finite and not centroids.is_meta and not bool(torch.isfinite(centroids).all()):
        raise ValueError(
            "centroids holds NaN or infinite values; they must be finite: start again from "
            "initial_centroids(weight, clusters)"
        )
    return centroids.shape[1]


def check_tau(tau: float) -> float:
    """Raise ``ValueError`` unless ``tau`` is a finite positive number; returns it as float."""
    tau = float(tau)
    if not 0 < tau < math.inf:  # comparisons only: a compiler may hold tau as a symbol
        raise ValueError(
            f"tau is {tau}; the softmax temperature must be a finite number above 0: use "
            "default_tau(weight, clusters) for one that fits the weights' scale"
        )
    return tau


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")


def check_range(name: str, value: int, low: int, high: int | None, why: str) -> None:
    """Raise ``ValueError`` unless ``low <= value <= high`` (``high=None``: no upper bound)."""
    if value < low or (high is not None and value > high):
        rule = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} is {value}; it must be {rule}: {why}")


def check_schedule(iterations: int | None, max_iter: int, eps: float) -> None:
    """Raise ``ValueError`` unless the iteration settings can run."""
    if iterations is not None:
        check_range("iterations", iterations, 1, None, "pass None to run until convergence")
    check_range("max_iter", max_iter, 1, None, "one k-means update is the least there is")
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps is {eps}; it must be a finite number of at least 0 (weight units)")
