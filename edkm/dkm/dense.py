"""The dense differentiable k-means of the DKM paper, one torch operation per step.

Contract: the graph, and so the list of tensors autograd saves, is the one whose bytes Table 2
of the eDKM paper (arXiv 2309.00964) counts. One iteration at dim 1 saves six n x k maps
(distance twice, softmax twice, attention twice) and the weight twice.
Boundary: this form exists to be compared with. The forms that save next to nothing are in
``fused`` and ``streaming``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from edkm.dkm.checks import (
    DISTANCES,
    check_centroids,
    check_choice,
    check_schedule,
    check_tau,
    check_weight,
)
from edkm.dkm.distance import euclidean_distance
from edkm.dkm.init import initial_centroids

ATTENTION_FLOOR = 1e-7  # the attention is clamped from below so that no cluster loses all mass
DEFAULT_CLUSTERS = 8  # 3 bits, the paper's setting, when no centroids are given


class ClusterResult(NamedTuple):
    """What one differentiable clustering returns."""

    clustered: Tensor  # W~, shape and dtype of the weight, differentiable
    centroids: Tensor  # [clusters, dim] after the last update, detached
    iterations: int | Tensor  # updates run; a tensor where reading it would wait for a GPU
    form: str = "dense"  # which form computed it: "dense", "fused" or "streaming"


def dense_dkm(
    weight: Shaped[Tensor, "*shape"],
    centroids: Tensor | None,
    *,
    tau: float,
    iterations: int | None = None,
    max_iter: int = 5,
    eps: float = 1e-4,
    distance: str = "squared",
) -> ClusterResult:
    """Cluster ``weight`` softly (DKM, arXiv 2108.12659, section 3; clustering.md eq. 1-4).

    ``weight``: any shape, viewed as ``[n, dim]`` rows. ``centroids``: ``[clusters, dim]`` to
    start from, or None for 8 from ``initial_centroids``. ``tau``: softmax temperature, in squared
    weight units (weight units with ``distance="euclidean"``). ``iterations`` runs exactly so many
    updates; None runs until ``max|C' - C| <= eps`` (weight units) or ``max_iter`` updates.
    ``distance``: ``"squared"`` or ``"euclidean"``, which of the two tau divides.
    Raises ``ValueError`` for weights, centroids or settings that cannot be clustered.
    """
    tau = check_tau(tau)
    check_choice("distance", distance, DISTANCES)
    check_schedule(iterations, max_iter, eps)
    if centroids is None:
        centroids = initial_centroids(weight, DEFAULT_CLUSTERS)
    dim = check_centroids(centroids, weight)
    check_weight(weight, centroids.shape[0], dim)
    points = weight.reshape(-1, dim)  # a view of a contiguous weight
    current = centroids.detach().to(weight.dtype)
    ran = 0
    while True:
        attention = _attention(points, current, tau, distance)
        previous, current = current, _update(points, attention)
        ran += 1
        if ran == (max_iter if iterations is None else iterations):
            break
        if iterations is None and _moved(previous, current) <= eps:
            break
        del attention  # autograd holds what it needs; two maps must not overlap
    clustered = attention.mm(current).view(weight.shape)
    return ClusterResult(clustered, current.detach(), ran)


def _attention(
    points: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"], tau: float, distance: str
) -> Float[Tensor, "n k"]:
    """Eq. 1-2. Saved: points and distance; distance again (square); softmax; softmax (clamp)."""
    apart = euclidean_distance(points, centroids)
    # a scalar factor saves nothing; chained so that no name keeps the square alive
    if distance == "squared":
        logits = apart.square().mul_(-1.0 / tau)
    else:
        logits = apart.mul(-1.0 / tau)
    del apart
    return torch.softmax(logits, dim=1).clamp(min=ATTENTION_FLOOR)


def _update(points: Float[Tensor, "n d"], attention: Float[Tensor, "n k"]) -> Float[Tensor, "k d"]:
    """Eq. 3. Saved: attention and the transposed points, and tensors of centroid size."""
    mass = attention.sum(0).unsqueeze(1)
    return points.T.mm(attention).T / mass


def _moved(previous: Tensor, current: Tensor) -> float:
    return float((current.detach() - previous.detach()).abs().max())
