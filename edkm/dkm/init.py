"""Where the first centroids come from: k-means++ or quantiles of the weights.

Contract: deterministic for a seed, on every device. A 16-bit weight has at most 65,536 distinct
values, so its histogram stands for all of it and k-means++ takes milliseconds at any size; other
weights are represented by at most 65,536 evenly spaced vectors.
Boundary: initial values only; the differentiable updates are in the forms.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from edkm.dkm.checks import check_choice, check_range, check_weight
from edkm.dkm.histogram import represent

METHODS = ("kmeans++", "quantile")


def initial_centroids(
    weight: Shaped[Tensor, "*shape"],
    clusters: int,
    dim: int = 1,
    method: str = "kmeans++",
    seed: int = 0,
) -> Float[Tensor, "{clusters} {dim}"]:
    """``clusters`` centroids to start from, float32 (float64 for float64), sorted at dim 1.

    ``kmeans++`` draws each next centroid with probability proportional to the squared distance
    to the nearest one drawn (Arthur & Vassilvitskii 2007); ``quantile`` puts an equal share of
    the weights around each (dim 1 only). Where the weight has fewer distinct vectors than
    clusters, the surplus centroids repeat drawn ones. Raises ``ValueError`` as ``dense_dkm``.
    """
    check_choice("method", method, METHODS)
    check_range("clusters", clusters, 1, 65_536, "a codebook is addressed by at most 16 bits")
    check_range("dim", dim, 1, None, "a cluster's vectors have at least one coordinate")
    check_weight(weight, clusters, dim)
    if method == "quantile" and dim != 1:
        raise ValueError(f"dim is {dim} with method='quantile'; quantiles need dim=1: use kmeans++")
    work = torch.float64 if weight.dtype == torch.float64 else torch.float32
    points, counts = represent(weight.detach(), dim)
    points, counts = points.to("cpu", work), counts.to("cpu", torch.float64)
    if method == "quantile":
        start = _quantiles(points, counts, clusters)
    else:
        start = _kmeans_plus_plus(points, counts, clusters, seed)
    if dim == 1:
        start = start.sort(dim=0).values
    return start.to(weight.device)


def _quantiles(points: Tensor, counts: Tensor, clusters: int) -> Tensor:
    order = points[:, 0].argsort()
    reached = counts[order].cumsum(0)
    wanted = (torch.arange(clusters, dtype=torch.float64) + 0.5) * (reached[-1] / clusters)
    return points[order[torch.searchsorted(reached, wanted).clamp_(max=len(order) - 1)]]


def _kmeans_plus_plus(points: Tensor, counts: Tensor, clusters: int, seed: int) -> Tensor:
    # One uniform draw per centroid, all taken up front: the order of draws is part of the seed.
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(clusters, dtype=torch.float64, generator=generator)
    chosen: list[Tensor] = []
    nearest: Tensor | None = None  # squared distance to the nearest centroid so far
    for draw in draws:
        mass = (counts if nearest is None else counts * nearest).cumsum(0)
        if mass[-1] == 0:  # every distinct vector is drawn: repeat one
            index = torch.tensor(len(chosen) % len(points))
        else:
            index = torch.searchsorted(mass, draw * mass[-1], right=True)
            index = index.clamp_(max=len(points) - 1)
        chosen.append(index)
        # squared in float64: the square of a small float32 difference must not vanish
        away = (points - points[index]).double().square().sum(1)
        nearest = away if nearest is None else torch.minimum(nearest, away)
    return points[torch.stack(chosen)]
