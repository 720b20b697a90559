"""Hard one-dimensional k-means: to convergence for a start, one update for a training step.

Contract: minimizes squared errors, each counted by the importance of the weight's column if there
is one. Sums are float64; deterministic on the CPU.
Boundary: numbers in, centroids out; soft clustering is ``edkm.dkm``, state is ``edkm.codebook``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edkm.dkm import hard_indices
from edkm.dkm.histogram import represent
from edkm.dkm.patterns import is_patterned

_SORTED = 1 << 22  # most values that are sorted or summed at a time; for a start, of a sample


def kmeans_update(weight: Tensor, centroids: Tensor, importance: Tensor | None = None) -> Tensor:
    """Each centroid ``[k, 1]`` at the mean of the weights nearest to it; alone it stays.

    ``importance``: what a weight counts in the mean, ``[rows or 1, columns or 1]``; None: 1.
    """
    if importance is None and is_patterned(weight.dtype):
        values, multiples = represent(weight, 1)  # at most 65,536 of them
        return kmeans_update(values, centroids, multiples.unsqueeze(1))
    index = hard_indices(weight, centroids)
    flat, counts = weight.reshape(-1), None
    if importance is not None:
        counts = importance.expand(weight.shape).reshape(-1)
    mass = torch.zeros(len(centroids), dtype=torch.float64, device=flat.device)
    total = torch.zeros_like(mass)
    for start in range(0, len(flat), _SORTED):
        part = slice(start, start + _SORTED)
        values = flat[part].double()
        each = torch.ones_like(values) if counts is None else counts[part].double()
        mass.index_add_(0, index[part], each)
        total.index_add_(0, index[part], each * values)
    held = mass.unsqueeze(1) > 0
    mean = (total / torch.where(mass > 0, mass, 1.0)).to(centroids.dtype).unsqueeze(1)
    return torch.where(held, mean, centroids)


def best_kmeans(
    weight: Tensor, centroids: Tensor, rounds: int, importance: Tensor | None = None
) -> Tensor:
    """Converged one-dimensional k-means from ``centroids`` or quantiles, the smaller error.

    ``importance``: as in ``kmeans_update``. Works on sorted values and their running sums: a round
    costs ``k log n``. ``[k, 1]``.
    """
    values, mass, sums, squares = _running_sums(weight, importance)
    k = len(centroids)
    quantile = (torch.arange(k, dtype=torch.float64, device=mass.device) + 0.5) / k * mass[-1]
    at = torch.searchsorted(mass[1:].contiguous(), quantile).clamp_(max=len(values) - 1)
    starts = (centroids[:, 0].double().sort().values, values[at])
    best: tuple[float, Tensor] | None = None
    for start in starts:
        found = _lloyd(start, values, mass, sums, rounds)
        error = _error(found, values, mass, sums, squares)
        if best is None or error < best[0]:
            best = error, found
    assert best is not None
    return best[1].to(centroids.dtype).unsqueeze(1)


def _running_sums(
    weight: Tensor, importance: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if importance is not None:
        some = slice(None, None, max(1, weight.numel() // _SORTED))  # whole rows: all columns
        values, order = weight[some].reshape(-1).double().sort()
        counts = importance.expand(weight.shape)[some].reshape(-1)[order].double()
    elif weight.dtype in (torch.bfloat16, torch.float16):
        points, multiples = represent(weight, 1)
        values, order = points[:, 0].double().sort()
        counts = multiples[order].double()
    else:
        flat = weight.reshape(-1)
        values = flat[:: max(1, flat.numel() // _SORTED)].double().sort().values
        counts = torch.ones_like(values)

    def running(terms: Tensor) -> Tensor:
        return torch.cat([terms.new_zeros(1), terms.cumsum(0)])

    return values, running(counts), running(counts * values), running(counts * values.square())


def _edges(centroids: Tensor, values: Tensor) -> Tensor:
    middles = torch.searchsorted(values, (centroids[1:] + centroids[:-1]) / 2)
    return torch.cat([middles.new_zeros(1), middles, middles.new_full((1,), len(values))])


def _lloyd(start: Tensor, values: Tensor, mass: Tensor, sums: Tensor, rounds: int) -> Tensor:
    current = start
    for _ in range(rounds):
        edges = _edges(current, values)
        held = mass[edges].diff()
        some = held > 0
        mean = torch.where(some, sums[edges].diff() / torch.where(some, held, 1.0), current)
        if torch.equal(mean, current):
            break
        current = mean.sort().values
    return current


def _error(c: Tensor, values: Tensor, mass: Tensor, sums: Tensor, squares: Tensor) -> float:
    edges = _edges(c, values)
    m, s, q = (running[edges].diff() for running in (mass, sums, squares))
    return float((q - 2 * c * s + c.square() * m).sum())
