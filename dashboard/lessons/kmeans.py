"""Which weights feel the gradient of one clustered weight? Asked of autograd, through real DKM.

Contract: float64 weights, clustered by `edkm.dkm.dense_dkm`; the codebook has settled at the same
temperature first, as in training, and one more update is differentiated.
Boundary: a few hundred weights; no page and no run. Source: DKM (arXiv 2108.12659) sec. 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edkm.dkm import ClusterResult, default_tau, dense_dkm, hard_indices, initial_centroids

WEIGHTS = 400
ASKED = 290  # which of the sorted weights the loss looks at
SPREAD = 0.02  # standard deviation of the weights, as in a language model
FELT = 0.05  # a group that gets less than this part of the gradient does not count
GROUPS = ("itself", "own cluster", "other clusters")


@dataclass(frozen=True)
class Clustered:
    """One clustering of the weights and one gradient through it."""

    tau: float
    weights: list[float]  # sorted
    soft: list[float]  # W~
    hard: list[float]  # the nearest centroid of each
    centroids: list[float]
    gradient: list[float]  # of W~ at ASKED, by each weight
    groups: list[str]  # of each weight: what it is to the weight at ASKED
    shares: dict[str, float]  # of the gradient's magnitude, by group

    @property
    def reach(self) -> str:
        """The farthest group that gets at least FELT of the gradient."""
        return [name for name in GROUPS if self.shares[name] >= FELT][-1]


def gradient_through(
    weights: Tensor, centroids: Tensor, tau: float, asked: int
) -> tuple[ClusterResult, Tensor]:
    w = weights.clone().requires_grad_()
    found = dense_dkm(w, centroids, tau=tau, iterations=1)
    (gradient,) = torch.autograd.grad(found.clustered[asked], w)
    return found, gradient


def sample() -> Tensor:
    """The weights of the lesson, sorted, equal at every call."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(WEIGHTS, dtype=torch.float64, generator=generator)
    return (SPREAD * drawn).sort().values


def settled(weights: Tensor, bits: int, tau: float) -> Tensor:
    """Centroids that further updates move by less than a millionth of the weights' spread."""
    start = initial_centroids(weights, 2**bits, method="quantile")
    return dense_dkm(weights, start, tau=tau, max_iter=500, eps=1e-6 * SPREAD).centroids


def clustered(bits: int, multiple: float) -> Clustered:
    """Clusters the weights with 2**bits centroids at `multiple` times the default temperature."""
    weights = sample()
    tau = default_tau(weights, 2**bits, multiple=multiple)
    found, gradient = gradient_through(weights, settled(weights, bits, tau), tau, ASKED)
    nearest = hard_indices(weights, found.centroids)
    groups = ["own cluster" if same else "other clusters" for same in nearest == nearest[ASKED]]
    groups[ASKED] = "itself"
    size = gradient.abs()
    shares = {
        name: float(size[[group == name for group in groups]].sum() / size.sum()) for name in GROUPS
    }
    return Clustered(
        tau=tau,
        weights=weights.tolist(),
        soft=found.clustered.detach().tolist(),
        hard=found.centroids[nearest, 0].tolist(),
        centroids=sorted(found.centroids[:, 0].tolist()),
        gradient=gradient.tolist(),
        groups=groups,
        shares=shares,
    )
