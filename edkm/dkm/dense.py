"""The dense differentiable k-means of the DKM paper, one torch operation per step.

Contract: the graph, and so the list of tensors autograd saves, is the one whose bytes Table 2
of the eDKM paper (arXiv 2309.00964) counts. One iteration at dim 1 saves six n x k maps
(distance twice, softmax twice, attention twice) and the weight twice.
Boundary: this form exists to be compared with. The forms that save next to nothing are in
``fused`` and ``streaming``.
"""

from __future__ import annotations

from typing import NamedTuple, Unpack

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from edkm.dkm import half
from edkm.dkm.checks import check_centroids, check_weight
from edkm.dkm.distance import euclidean_distance
from edkm.dkm.init import initial_centroids
from edkm.dkm.settings import ATTENTION_FLOOR, Rule, Schedule, Settings

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
    **settings: Unpack[Settings],
) -> ClusterResult:
    """Cluster ``weight`` softly (DKM, arXiv 2108.12659, section 3; clustering.md eq. 1-4).

    ``weight``: any shape, viewed as ``[n, dim]`` rows. ``centroids``: ``[clusters, dim]`` to
    start from, or None for 8 from ``initial_centroids``. ``settings``: ``tau`` and, if wanted,
    ``iterations``, ``max_iter``, ``eps``, ``distance``; ``Settings`` says what each is.
    Raises ``ValueError`` for weights, centroids or settings that cannot be clustered.
    """
    schedule = Schedule(**settings)
    if centroids is None:
        centroids = initial_centroids(weight, DEFAULT_CLUSTERS)
    dim = check_centroids(centroids, weight)
    check_weight(weight, centroids.shape[0], dim)
    points = weight.reshape(-1, dim)  # a view of a contiguous weight
    narrow = weight.dtype == torch.float16  # sums and squares leave its range
    current = centroids.detach().to(torch.float32 if narrow else weight.dtype)
    ran = 0
    while True:
        attention = _attention(points, current, schedule.rule)
        previous, current = current, _update(points, attention)
        ran += 1
        if ran == schedule.steps:
            break
        if schedule.stop >= 0 and _moved(previous, current) <= schedule.stop:
            break
        del attention  # autograd holds what it needs; two maps must not overlap
    clustered = half.output(attention, current) if narrow else attention.mm(current)
    return ClusterResult(clustered.view(weight.shape), current.detach(), ran)


def _attention(
    points: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"], rule: Rule
) -> Float[Tensor, "n k"]:
    """Eq. 1-2. Saved: points and distance; distance again (square); softmax; softmax (clamp)."""
    apart = euclidean_distance(points, centroids)
    # a scalar factor saves nothing; chained so that no name keeps the square alive
    if apart.dtype == torch.float16:
        logits = half.logits(apart, rule)
    elif rule.squared:
        logits = apart.square().mul_(-1.0 / rule.tau)
    else:
        logits = apart.mul(-1.0 / rule.tau)
    del apart
    return torch.softmax(logits, dim=1).clamp(min=ATTENTION_FLOOR)


def _update(points: Float[Tensor, "n d"], attention: Float[Tensor, "n k"]) -> Float[Tensor, "k d"]:
    """Eq. 3. Saved: attention and the transposed points, and tensors of centroid size."""
    if points.dtype == torch.float16:
        return half.mean(points, attention)
    mass = attention.sum(0).unsqueeze(1)
    return points.T.mm(attention).T / mass


def _moved(previous: Tensor, current: Tensor) -> float:
    return float((current.detach() - previous.detach()).abs().max())
