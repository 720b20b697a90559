"""Hard assignment: every weight vector to its nearest centroid, as in eval and on disk.

Contract: never an ``n x k`` temporary. At dim 1 the centroids are sorted and each weight is
looked up between the midpoints; ties go to the smaller centroid there, and to the lower index
at other dims. Nothing here is differentiable.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from edkm.dkm.checks import check_centroids, check_weight
from edkm.dkm.distance import compute_dtype, row_chunks


def hard_indices(weight: Shaped[Tensor, "*shape"], centroids: Tensor) -> Int64[Tensor, " n"]:
    """Index of the nearest centroid (``[k, d]``) of each of the ``n = numel / d`` vectors."""
    dim = check_centroids(centroids, weight)
    check_weight(weight, 1, dim)
    rows = weight.detach().reshape(-1, dim)
    nearest = torch.empty(rows.shape[0], dtype=torch.int64, device=rows.device)
    lookup = _nearest_scalar if dim == 1 else _nearest_vector
    codebook = centroids.detach().to(compute_dtype(weight.dtype))
    chunks = row_chunks(rows.shape[0], 1 if dim == 1 else codebook.shape[0])
    for start in chunks:
        part = slice(start, start + chunks.step)
        nearest[part] = lookup(rows[part].to(codebook.dtype), codebook)
    return nearest


def assign_hard(weight: Shaped[Tensor, "*s"], centroids: Tensor) -> Float[Tensor, "*s"]:
    """``weight`` with each vector replaced by its nearest centroid; shape and dtype kept."""
    dim = check_centroids(centroids, weight)
    check_weight(weight, 1, dim)
    rows = weight.detach().reshape(-1, dim)
    codebook = centroids.detach().to(compute_dtype(weight.dtype))
    stored = codebook.to(weight.dtype)
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    lookup = _nearest_scalar if dim == 1 else _nearest_vector
    chunks = row_chunks(rows.shape[0], 1 if dim == 1 else codebook.shape[0])
    for start in chunks:
        part = slice(start, start + chunks.step)
        out[part] = stored[lookup(rows[part].to(codebook.dtype), codebook)]
    return out.view(weight.shape)


def _nearest_scalar(rows: Tensor, codebook: Tensor) -> Tensor:
    ordered, order = codebook[:, 0].sort()
    middles = ordered[:-1] + (ordered[1:] - ordered[:-1]) / 2
    return order[torch.bucketize(rows[:, 0], middles)]


def _nearest_vector(rows: Tensor, codebook: Tensor) -> Tensor:
    away = torch.zeros(rows.shape[0], codebook.shape[0], dtype=rows.dtype, device=rows.device)
    for axis in range(rows.shape[1]):
        away.add_((rows[:, axis : axis + 1] - codebook[:, axis]).square_())
    return away.argmin(dim=1)


def soft_hard_gap(clustered: Tensor, weight: Tensor, centroids: Tensor) -> float:
    """``||clustered - hard|| / ||hard||``: what hardening the codebook would still change.

    ``clustered``: the soft W~; ``hard``: ``assign_hard(weight, centroids)``. Dimensionless; 0
    means that training already sees the weights that will be shipped. Waits for the device.
    """
    hard = assign_hard(weight, centroids).reshape(-1)
    soft = clustered.detach().reshape(-1)
    apart = size = 0.0
    chunks = row_chunks(hard.numel(), 1)
    for start in chunks:
        one, two = (t[start : start + chunks.step].double() for t in (soft, hard))
        apart += float((one - two).square().sum())
        size += float(two.square().sum())
    if size == 0.0:
        return 0.0 if apart == 0.0 else float("inf")
    return float((apart / size) ** 0.5)
