"""Hard one-dimensional k-means: to convergence for a start, one update for a training step.

Contract: minimizes squared errors, each counted by the importance of the weight's column if there
is one, for one codebook or for one a group of rows. Sums are float64; deterministic on the CPU.
Boundary: numbers in, centroids out; soft clustering is ``edkm.dkm``, state is ``edkm.codebook``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from edkm.dkm import hard_indices
from edkm.dkm.histogram import represent
from edkm.dkm.patterns import is_patterned

_SORTED = 1 << 22  # most values that are sorted or summed at a time; for a start, of a sample


def kmeans_update(weight: Tensor, centroids: Tensor, importance: Tensor | None = None) -> Tensor:
    """Each centroid at the mean of the weights nearest to it; alone it stays.

    ``centroids``: ``[k, 1]``, or ``[groups, k, 1]`` for equal blocks of the weight's rows.
    ``importance``: what a weight counts in the mean, ``[rows or 1, columns or 1]``; None: 1.
    """
    groups, k = len(centroids) if centroids.ndim == 3 else 1, centroids.shape[-2]
    if importance is None and groups == 1 and is_patterned(weight.dtype):
        values, multiples = represent(weight, 1)  # at most 65,536 of them
        return kmeans_update(values, centroids, multiples.unsqueeze(1))
    index = hard_indices(weight, centroids)
    flat, counts, block = weight.reshape(-1), None, weight.numel() // groups
    if importance is not None:
        counts = importance.expand(weight.shape).reshape(-1)
    mass = torch.zeros(groups * k, dtype=torch.float64, device=flat.device)
    total = torch.zeros_like(mass)
    for start in range(0, len(flat), _SORTED):
        part = slice(start, start + _SORTED)
        values, bins = flat[part].double(), index[part]
        if groups > 1:
            numbers = torch.arange(start, start + len(values), device=flat.device)
            bins = bins + numbers.div(block, rounding_mode="floor") * k
        each = torch.ones_like(values) if counts is None else counts[part].double()
        mass.index_add_(0, bins, each)
        total.index_add_(0, bins, each * values)
    mean = (total / torch.where(mass > 0, mass, 1.0)).to(centroids.dtype)
    return torch.where((mass > 0).view(centroids.shape), mean.view(centroids.shape), centroids)


def best_kmeans(
    weight: Tensor, centroids: Tensor, rounds: int, importance: Tensor | None = None
) -> Tensor:
    """Converged one-dimensional k-means from ``centroids`` or quantiles, the smaller error.

    ``centroids`` and ``importance`` as in ``kmeans_update``. Works on sorted values and their
    running sums: a round costs ``k log n``. Returns the shape of ``centroids``.
    """
    groups = len(centroids) if centroids.ndim == 3 else 1
    grouped = centroids[..., 0].double().reshape(groups, -1)
    rows, found = weight.shape[0] // groups, []
    together = max(1, _SORTED * groups // max(1, weight.numel())) if groups > 1 else 1
    for first in range(0, groups, together):  # as many groups as are sorted at a time
        count = min(together, groups - first)
        part = slice(first * rows, (first + count) * rows) if groups > 1 else slice(None)
        mine = importance
        if importance is not None and groups > 1 and len(importance) > 1:
            mine = importance[part]
        start = grouped[first : first + count].sort(dim=1).values
        found.append(_best(_sorted_values(weight[part], count, mine), start, rounds))
    return torch.cat(found).to(centroids.dtype).view(centroids.shape)


class _Sorted(NamedTuple):
    """The values of each group in order, and running sums over them, from 0 on; float64."""

    values: Tensor  # [groups, n]
    mass: Tensor  # [groups, n + 1], and so are the others
    sums: Tensor
    squares: Tensor


def _sorted_values(weight: Tensor, groups: int, importance: Tensor | None) -> _Sorted:
    if importance is None and groups == 1 and is_patterned(weight.dtype):
        points, multiples = represent(weight, 1)
        values, order = points.view(1, -1).double().sort()
        counts = multiples[order].double()
    else:
        # of a sample: whole rows where columns differ, else any values
        some = slice(None, None, max(1, weight.numel() // _SORTED) if groups == 1 else 1)
        sample = weight.reshape(-1)[some] if importance is None else weight[some]
        values, order = sample.reshape(groups, -1).double().sort()
        counts = torch.ones_like(values)
        if importance is not None:
            each = importance.expand(weight.shape)[some].reshape(groups, -1)
            counts = each.gather(1, order).double()

    def running(terms: Tensor) -> Tensor:
        return torch.cat([terms.new_zeros(groups, 1), terms.cumsum(1)], dim=1)

    return _Sorted(values, running(counts), running(counts * values),
                   running(counts * values.square()))  # fmt: skip


def _best(found: _Sorted, start: Tensor, rounds: int) -> Tensor:
    """``[groups, k]``"""
    k, last = start.shape[1], found.values.shape[1] - 1
    share = (torch.arange(k, dtype=torch.float64, device=start.device) + 0.5) / k
    at = torch.searchsorted(found.mass[:, 1:].contiguous(), share * found.mass[:, -1:])
    quantile = found.values.gather(1, at.clamp_(max=last))
    one, other = _lloyd(start, found, rounds), _lloyd(quantile, found, rounds)
    return torch.where((_error(one, found) <= _error(other, found)).unsqueeze(1), one, other)


def _edges(centroids: Tensor, values: Tensor) -> Tensor:
    middles = torch.searchsorted(values, (centroids[:, 1:] + centroids[:, :-1]) / 2)
    ends = middles.new_zeros(len(middles), 1)
    return torch.cat([ends, middles, ends + values.shape[1]], dim=1)


def _lloyd(start: Tensor, found: _Sorted, rounds: int) -> Tensor:
    current = start
    for _ in range(rounds):
        edges = _edges(current, found.values)
        held = found.mass.gather(1, edges).diff()
        some = held > 0
        means = found.sums.gather(1, edges).diff() / torch.where(some, held, 1.0)
        means = torch.where(some, means, current)
        if torch.equal(means, current):
            break
        current = means.sort(dim=1).values
    return current


def _error(c: Tensor, found: _Sorted) -> Tensor:
    """``[groups]``"""
    edges = _edges(c, found.values)
    m, s, q = (running.gather(1, edges).diff() for running in found[1:])
    return (q - 2 * c * s + c.square() * m).sum(1)
