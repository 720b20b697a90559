"""What clustering one weight keeps for backward, under each of eDKM's optimizations.

Contract: one real forward and backward of `edkm.dkm` per row, on one bfloat16 weight, 3 bits and
one update; bytes are those that `edkm.saved` holds on the host between the two.
Boundary: weights of a few MiB; other CPU memory stands for the host, other learners are
simulated. No page and no run. Source: eDKM (arXiv 2309.00964) Table 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edkm.dkm import (
    ClusterResult,
    default_tau,
    dense_dkm,
    fused_dkm,
    gradient_reference,
    initial_centroids,
)
from edkm.saved import SavedTensorPolicy

CLUSTERS = 8
LEARNERS = 8
SPREAD = 0.02
Form = Callable[..., ClusterResult]
# The fused form saves the weight by reference, and a parameter is in memory anyway.
ROWS: dict[str, tuple[Form, dict[str, Any]]] = {
    "none": (dense_dkm, {"marshal": False}),
    "M": (dense_dkm, {}),
    "M+S": (dense_dkm, {"shard": LEARNERS}),
    "M+U": (dense_dkm, {"uniquify": True}),
    "M+U+S": (dense_dkm, {"uniquify": True, "shard": LEARNERS}),
    "fused": (fused_dkm, {"skip_parameters": True}),
}


@dataclass(frozen=True)
class Held:
    """What one row held between forward and backward."""

    name: str
    host_bytes: int
    exact: bool  # whether the gradient is bit-equal to that of the row without optimizations
    gradient_error: float  # relative L2, against the dense gradient in float64


@dataclass(frozen=True)
class Comparison:
    """Every row for one weight."""

    side: int
    weight_bytes: int
    distinct: int  # 16-bit values that occur in the weight
    rows: list[Held]

    def held(self, name: str) -> int:
        """Bytes of one row."""
        return next(row.host_bytes for row in self.rows if row.name == name)


def held_for_backward(
    form: Form, weight: nn.Parameter, start: Tensor, tau: float, policy: SavedTensorPolicy
) -> tuple[int, Tensor]:
    with policy:
        found = form(weight, start, tau=tau, iterations=1)
    held = policy.ledger.host_bytes
    (gradient,) = torch.autograd.grad(found.clustered.sum(), weight)
    return held, gradient


def sample(side: int) -> nn.Parameter:
    """A square weight, equal at every call."""
    drawn = torch.randn(side, side, generator=torch.Generator().manual_seed(0))
    return nn.Parameter((SPREAD * drawn).bfloat16())


def compare(side: int) -> Comparison:
    """Clusters a weight of `side` x `side` once per row."""
    weight = sample(side)
    start, tau = initial_centroids(weight, CLUSTERS), default_tau(weight, CLUSTERS)
    rows: list[Held] = []
    plain: Tensor | None = None
    ones = torch.ones_like(weight)
    wanted = gradient_reference(weight, start, ones, tau=tau).grad_weight
    for name, (form, settings) in ROWS.items():
        policy = SavedTensorPolicy(**settings)
        held, gradient = held_for_backward(form, weight, start, tau, policy)
        plain = gradient if plain is None else plain
        error = float((gradient.double() - wanted).norm() / wanted.norm())
        rows.append(Held(name, held, torch.equal(gradient, plain), error))
    distinct = len(weight.detach().view(torch.int16).unique())
    return Comparison(side, 2 * side * side, distinct, rows)
