"""Soft k-means of a small weight, update by update: what `edkm.dkm` does, laid open.

Contract: every figure comes from `edkm.dkm` run on a weight made from the seed; the centroids after
the last update are those that one call with as many iterations gives.
Boundary: CPU tensors of a few KiB; no page, no run, no training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edkm.dkm import (
    assign_hard,
    default_tau,
    dense_dkm,
    euclidean_distance,
    hard_indices,
    initial_centroids,
)

ROWS, COLUMNS = 64, 64
BINS = 96
POINTS = 72  # weights of the attention map, from the smallest to the largest
SHAPES = {
    "bell": "normal, as a fresh layer",
    "tails": "heavy tails, as a trained one",
    "two": "two groups",
}


@dataclass(frozen=True, kw_only=True)
class Clustered:
    """One clustering. Values in weight units, counts of elements."""

    edges: list[float]  # BINS + 1 of the histogram
    counts: list[int]
    soft_counts: list[int]  # of the softly clustered weights, in the same bins
    paths: list[list[float]]  # centroids before any update and after each: [updates + 1][clusters]
    sizes: list[int]  # weights nearest to each centroid at the end
    points: list[float]  # weights of the attention map
    attention: list[list[float]]  # [points][clusters]; rows sum to 1
    tau: float  # squared weight units
    distinct: tuple[int, int, int]  # 16-bit values: of the weights, soft, hard
    soft_error: float  # relative L2 distance of the soft weights from the weights
    hard_error: float
    gap: float  # relative L2 distance between soft and hard


def weight_of(shape: str, seed: int = 0) -> Tensor:
    """A [64, 64] float32 weight; ValueError for an unknown shape."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(ROWS, COLUMNS, generator=generator)
    if shape == "bell":
        return 0.02 * normal
    if shape == "tails":
        other = torch.randn(ROWS, COLUMNS, generator=generator)
        return 0.02 * normal * other.square().add(0.2).sqrt()
    if shape == "two":
        side = torch.rand(ROWS, COLUMNS, generator=generator).lt(0.35)
        return torch.where(side, 0.01 * normal - 0.05, 0.012 * normal + 0.02)
    raise ValueError(f"shape {shape!r}: unknown; choose from {', '.join(SHAPES)}")


def cluster(shape: str, bits: int, multiple: float, updates: int, seed: int = 0) -> Clustered:
    """Cluster the weight softly.

    multiple: tau in multiples of `default_tau`. ValueError for settings that `edkm.dkm` refuses.
    """
    weight = weight_of(shape, seed)
    clusters = 1 << bits
    tau = default_tau(weight, clusters, multiple=multiple)
    current = initial_centroids(weight, clusters, seed=seed)
    paths = [_values(current)]
    for _ in range(updates):
        result = dense_dkm(weight, current, tau=tau, iterations=1)
        current = result.centroids
        paths.append(_values(current))
    soft, hard = result.clustered.detach(), assign_hard(weight, current)
    span = float(weight.min()), float(weight.max())
    points = weight.flatten().sort().values[:: weight.numel() // POINTS][:POINTS]
    return Clustered(
        edges=torch.linspace(*span, BINS + 1).tolist(),
        counts=_histogram(weight, span),
        soft_counts=_histogram(soft, span),
        paths=paths,
        sizes=torch.bincount(hard_indices(weight, current), minlength=clusters).tolist(),
        points=points.tolist(),
        attention=attention(points, current, tau).tolist(),
        tau=tau,
        distinct=(_distinct(weight), _distinct(soft), _distinct(hard)),
        soft_error=_distance(soft, weight),
        hard_error=_distance(hard, weight),
        gap=_distance(soft, hard),
    )


def attention(points: Tensor, centroids: Tensor, tau: float) -> Tensor:
    """How strongly each point belongs to each centroid: softmax of -distance**2 / tau, [n, k]."""
    apart = euclidean_distance(points.view(-1, 1), centroids)
    return torch.softmax(-apart.square() / tau, dim=1)


def _values(centroids: Tensor) -> list[float]:
    found: list[float] = centroids.flatten().tolist()
    return found


def _histogram(values: Tensor, span: tuple[float, float]) -> list[int]:
    counts = torch.histc(values.detach(), BINS, *span)
    return [int(count) for count in counts.tolist()]


def _distinct(values: Tensor) -> int:
    return int(values.to(torch.bfloat16).unique().numel())


def _distance(values: Tensor, reference: Tensor) -> float:
    apart = (values.double() - reference.double()).norm() / reference.double().norm()
    return float(apart)
