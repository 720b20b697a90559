"""The dense gradient in float64, streamed: what every other form is measured against.

Contract: the values and gradients of ``dense_dkm`` in float64 for any weight and any number of
iterations, holding one row chunk of the maps at a time. Written apart from the other forms: each
chunk's derivative is taken by torch's own autograd.
Boundary: slow and exact; for tests, benchmarks and the ablation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from edkm.dkm.checks import check_centroids, check_tau, check_weight
from edkm.dkm.distance import row_chunks
from edkm.dkm.settings import ATTENTION_FLOOR

_TILE = 1 << 17  # elements of a float64 tile: 1 MiB, so that the chain of maps stays in cache


class GradientReference(NamedTuple):
    """Float64 results of ``gradient_reference``."""

    grad_weight: Tensor  # dL/dW, shape of the weight
    clustered: Tensor | None  # W~, shape of the weight; None unless asked for
    centroids: Tensor  # [k, d] after the last update


def gradient_reference(
    weight: Shaped[Tensor, "*s"],
    centroids: Float[Tensor, "k d"],
    grad_output: Shaped[Tensor, "*s"],
    *,
    tau: float,
    iterations: int = 1,
    distance: str = "squared",
    with_clustered: bool = False,
) -> GradientReference:
    """Exact dL/dW of DKM for ``grad_output`` = dL/dW~ (clustering.md eq. 5-8), in float64.

    Peak memory: the float64 results (8 bytes a weight each) and a few MiB of tiles.
    """
    tau = check_tau(tau)
    check_weight(weight, centroids.shape[0], check_centroids(centroids, weight))
    rows = weight.detach().reshape(-1, centroids.shape[1])
    grads = grad_output.detach().reshape(-1, centroids.shape[1])
    dense = _Dense(rows, grads, tau, distance)
    states, masses = [centroids.detach().double()], []
    for _ in range(iterations):
        updated, mass, pull = dense.update(states[-1])
        states.append(updated)
        masses.append(mass)
    grad = torch.zeros_like(rows, dtype=torch.float64)
    for step in reversed(range(iterations)):
        last = step == iterations - 1
        before, after = states[step], states[step + 1]
        pull = dense.pull_back(before, after, masses[step], pull, grad, last=last)
    clustered = dense.output(states[-2], states[-1]) if with_clustered else None
    return GradientReference(
        grad.view(weight.shape),
        None if clustered is None else clustered.view(weight.shape),
        states[-1],
    )


class _Dense:
    """The dense maps of one weight, made a chunk at a time."""

    def __init__(self, rows: Tensor, grads: Tensor, tau: float, distance: str) -> None:
        self.rows, self.grads, self.tau, self.distance = rows, grads, tau, distance

    def attention(self, x: Tensor, c: Tensor) -> Tensor:
        if self.distance == "squared":
            away = (x.unsqueeze(1) - c).square().sum(-1)
        else:
            away = torch.cdist(x, c, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.softmax(away / -self.tau, dim=1).clamp(min=ATTENTION_FLOOR)

    def chunks(self, clusters: int) -> list[slice]:
        starts = row_chunks(self.rows.shape[0], clusters, _TILE)
        return [slice(start, start + starts.step) for start in starts]

    def update(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One update from ``c``: new centroids, the clusters' masses, and A^T dL/dW~.

        The last is dL/d(new centroids) through W~ = A C alone, if this update is the last one.
        """
        total, mass, pull = torch.zeros_like(c), c.new_zeros(c.shape[0], 1), torch.zeros_like(c)
        for part in self.chunks(c.shape[0]):
            x = self.rows[part].double()
            a = self.attention(x, c)
            total += a.T @ x
            mass += a.sum(0).unsqueeze(1)
            pull += a.T @ self.grads[part].double()
        return total / mass, mass, pull

    def pull_back(
        self, c: Tensor, updated: Tensor, mass: Tensor, pull: Tensor, grad: Tensor, *, last: bool
    ) -> Tensor:
        """Adds one update's share to ``grad``; returns dL/d(its starting centroids).

        ``updated = total / mass`` and ``pull = dL/d(updated)``, so each chunk is differentiated
        with dL/d(total) = pull / mass and dL/d(mass) = -pull . updated / mass.
        """
        to_total = pull / mass
        to_mass = -(to_total * updated).sum(1)
        before = torch.zeros_like(c)
        for part in self.chunks(c.shape[0]):
            x, start = self.rows[part].double().requires_grad_(), c.clone().requires_grad_()
            a = self.attention(x, start)
            loss = ((a.T @ x) * to_total).sum() + (a.sum(0) * to_mass).sum()
            if last:
                loss = loss + ((a @ updated) * self.grads[part].double()).sum()
            grad_x, grad_c = torch.autograd.grad(loss, (x, start))
            grad[part] += grad_x
            before += grad_c
        return before

    def output(self, c: Tensor, updated: Tensor) -> Tensor:
        out = torch.empty_like(self.rows, dtype=torch.float64)
        for part in self.chunks(c.shape[0]):
            out[part] = self.attention(self.rows[part].double(), c) @ updated
        return out
