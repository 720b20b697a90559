"""Hard assignment: every weight vector to its nearest centroid, as in eval and on disk.

Contract: never an ``n x k`` temporary. At dim 1 the centroids are sorted and each weight is
looked up between the midpoints; ties go to the smaller centroid there, and to the lower index
at other dims. Nothing here is differentiable.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from edkm.dkm.checks import check_centroids, check_weight
from edkm.dkm.distance import compute_dtype, row_chunks
from edkm.dkm.kernels.choice import bucketize_for


def hard_indices(weight: Shaped[Tensor, "*shape"], centroids: Tensor) -> Int64[Tensor, " n"]:
    """Index of the nearest centroid of each of the ``n = numel / d`` vectors of ``weight``.

    ``centroids``: ``[k, d]``, or ``[groups, k, d]`` for one codebook for each of ``groups`` equal
    blocks of consecutive rows; indices count within a vector's own codebook.
    """
    rows, codebooks = _grouped(weight, centroids)
    nearest = torch.empty(rows.shape[:2], dtype=torch.int64, device=rows.device)
    for part in _parts(rows, codebooks):
        nearest[:, part] = _nearest(rows[:, part], codebooks)
    return nearest.view(-1)


def assign_hard(weight: Shaped[Tensor, "*s"], centroids: Tensor) -> Float[Tensor, "*s"]:
    """``weight`` with each vector replaced by its nearest centroid; shape and dtype kept.

    ``centroids`` as in ``hard_indices``.
    """
    rows, codebooks = _grouped(weight, centroids)
    stored = codebooks.to(weight.dtype)
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    for part in _parts(rows, codebooks):
        index = _nearest(rows[:, part], codebooks)
        if len(stored) == 1:
            out[0, part] = stored[0, index[0]]
        else:
            out[:, part] = stored.gather(1, index.unsqueeze(2).expand(-1, -1, stored.shape[2]))
    return out.view(weight.shape)


def _grouped(weight: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """(vectors ``[groups, n, d]``, codebooks ``[groups, k, d]`` in the compute dtype), checked."""
    codebooks = centroids.detach() if centroids.ndim == 3 else centroids.detach().unsqueeze(0)
    dim = check_centroids(codebooks.flatten(0, 1), weight)
    check_weight(weight, 1, dim)
    groups = len(codebooks)
    if groups > 1 and (weight.shape[0] % groups or weight.numel() // groups % dim):
        raise ValueError(
            f"centroids has {groups} groups for a weight of shape {tuple(weight.shape)}; groups "
            "are equal blocks of its rows, of whole vectors: give a number that divides the rows"
        )
    rows = weight.detach().reshape(groups, -1, dim)
    return rows, codebooks.to(compute_dtype(weight.dtype))


def _parts(rows: Tensor, codebooks: Tensor) -> Iterator[slice]:
    """Runs of each group's vectors, so that what is made for one stays in cache."""
    groups, k, dim = codebooks.shape
    chunks = row_chunks(rows.shape[1], groups * (1 if dim == 1 else k))
    for start in chunks:
        yield slice(start, start + chunks.step)


def _nearest(rows: Tensor, codebooks: Tensor) -> Tensor:
    """``[groups, n]``"""
    rows = rows.to(codebooks.dtype)
    return (
        _nearest_scalar(rows, codebooks) if rows.shape[2] == 1 else _nearest_vector(rows, codebooks)
    )


def _nearest_scalar(rows: Tensor, codebooks: Tensor) -> Tensor:
    ordered, order = codebooks[:, :, 0].sort(dim=1)
    middles = ordered[:, :-1] + (ordered[:, 1:] - ordered[:, :-1]) / 2
    if len(codebooks) == 1:
        find = bucketize_for(rows.device, rows.dtype, len(middles[0]))
        return order[0, find(rows[0, :, 0].contiguous(), middles[0])].unsqueeze(0)
    return order.gather(1, torch.searchsorted(middles, rows[:, :, 0].contiguous()))


def _nearest_vector(rows: Tensor, codebooks: Tensor) -> Tensor:
    shape = (*rows.shape[:2], codebooks.shape[1])
    away = torch.zeros(shape, dtype=rows.dtype, device=rows.device)
    for axis in range(rows.shape[2]):
        away.add_((rows[:, :, axis, None] - codebooks[:, None, :, axis]).square_())
    return away.argmin(dim=2)


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
