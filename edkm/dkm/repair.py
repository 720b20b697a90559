"""Centroids that lost their weights, or that coincide, put back to work.

Contract: applied to the centroids a step starts from, which are constants of that step, so that
every gradient stays exact. A soft update cannot do it: centroids that coincide get equal shares
and stay together for ever, and one that no weight is near to drifts to the mean of all.
Boundary: repairs; ``init`` chooses the first centroids, ``updates`` moves them.
"""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

from edkm.dkm.assign import hard_indices
from edkm.dkm.checks import check_centroids, check_finite, check_sizes
from edkm.dkm.distance import compute_dtype
from edkm.dkm.histogram import represent


def repair_centroids(
    weight: Shaped[Tensor, "*shape"], centroids: Tensor, *, apart: float = 1e-6
) -> Tensor:
    """``centroids`` (``[k, d]``) with each useless one moved to where it is needed most.

    ``[groups, k, d]``: each group's for its own block of the weight's rows.

    Useless: nearest to no vector of the weight, or within ``apart`` (relative to the largest
    distance between centroids) of one of a lower index. Each moves to the vector farthest from
    all useful centroids, counted with its multiplicity. Where the weight has fewer distinct
    vectors than centroids, the surplus stay as they are. Returns a new tensor, same dtype and
    device; equal to ``centroids`` if nothing was useless. Works on the histogram of a 16-bit
    weight, else on at most 65,536 evenly spaced vectors. Raises ``ValueError`` as ``dense_dkm``.
    """
    if centroids.ndim == 3:
        return _repair_groups(weight, centroids, apart)
    dim = check_centroids(centroids, weight)
    check_sizes(weight, 1, dim)
    work = compute_dtype(weight.dtype)
    points, counts = represent(weight, dim)
    check_finite(points)  # of the representatives alone; the forms look at every weight
    points, counts = points.to(work), counts.to(work)
    fixed = centroids.detach().to(work).clone()
    useful = ~_useless(points, fixed, apart)
    if bool(useful.all()):
        return centroids.detach().clone()
    for index in (~useful).nonzero().flatten().tolist():
        nearest = _squared_to_nearest(points, fixed[useful])
        need = nearest * counts
        worst = int(need.argmax())
        if need[worst] == 0:  # every distinct vector has its centroid
            break
        fixed[index] = points[worst]
        useful[index] = True
    return fixed.to(centroids.dtype)


def _repair_groups(weight: Tensor, centroids: Tensor, apart: float) -> Tensor:
    groups, k = centroids.shape[:2]
    index = hard_indices(weight, centroids).view(groups, -1)
    index = index + k * torch.arange(groups, device=index.device).unsqueeze(1)
    used = (torch.bincount(index.view(-1), minlength=groups * k) > 0).view(groups, k)
    bad = ~used.all(1) | _close(centroids, apart).any(1)
    fixed = centroids.detach().clone()
    for group in bad.nonzero().flatten().tolist():  # few: each is looked at by itself
        block = weight.detach().reshape(groups, -1)[group]
        fixed[group] = repair_centroids(block, fixed[group], apart=apart)
    return fixed


def _useless(points: Tensor, centroids: Tensor, apart: float) -> Tensor:
    used = torch.bincount(hard_indices(points, centroids), minlength=len(centroids)) > 0
    return ~used | _close(centroids.unsqueeze(0), apart)[0]


def _close(centroids: Tensor, apart: float) -> Tensor:
    """``[groups, k]``: which lie within ``apart`` of one of a lower index."""
    between = (centroids.unsqueeze(1) - centroids.unsqueeze(2)).square().sum(3).sqrt()
    near = between <= apart * between.amax((1, 2), keepdim=True)
    return near.tril(-1).any(2)


def _squared_to_nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """``[m]``; infinite where there is no centroid."""
    nearest = torch.full((points.shape[0],), torch.inf, dtype=points.dtype, device=points.device)
    for centroid in centroids:
        nearest = torch.minimum(nearest, (points - centroid).square().sum(1))
    return nearest
