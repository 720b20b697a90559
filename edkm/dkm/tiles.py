"""The arithmetic of one tile: attention, sums, output, and their derivatives.

Contract: a tile is ``b`` groups of ``r`` points with one codebook a group; every function takes
plain tensors and returns plain tensors, makes a few ``b x k x r`` temporaries, and keeps nothing.
Maps lie with the points innermost: a softmax over 8 clusters is 20 times faster on a CPU when
neighbours in memory are points and not clusters (0.17 against 3.4 ms for 32,768 points).
Equation numbers are those of docs/clustering.md. The forms that stream are loops over these.
Boundary: no loops over a weight, no autograd, no dtype policy: inputs come in the compute dtype.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from edkm.dkm.settings import ATTENTION_FLOOR, Rule


def distances(
    x: Float[Tensor, "b r d"], c: Float[Tensor, "b k d"], rule: Rule
) -> Float[Tensor, "b k r"]:
    """Eq. 1, without a ``b x k x r x d`` temporary."""
    if x.shape[2] == 1:
        apart = c - x.transpose(1, 2)
        return apart.square_() if rule.squared else apart.abs_()
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for axis in range(x.shape[2]):
        total = total + (c[:, :, axis, None] - x[:, None, :, axis]).square_()
    return total if rule.squared else total.sqrt_()


def probabilities(
    x: Float[Tensor, "b r d"], c: Float[Tensor, "b k d"], rule: Rule
) -> Float[Tensor, "b k r"]:
    """Eq. 2 before its clamp: softmax(-D / tau)."""
    return torch.softmax(distances(x, c, rule).mul_(-1.0 / rule.tau), dim=1)


def attention(
    x: Float[Tensor, "b r d"], c: Float[Tensor, "b k d"], rule: Rule
) -> Float[Tensor, "b k r"]:
    """Eq. 2: softmax(-D / tau), clamped from below."""
    return probabilities(x, c, rule).clamp_(min=ATTENTION_FLOOR)


def weighted(
    values: Float[Tensor, "b k r"], weights: Float[Tensor, "b r"] | None
) -> Float[Tensor, "b k r"]:
    """``values``, each point times its weight; as it is without weights."""
    return values if weights is None else values * weights.unsqueeze(1)


def sums(
    x: Float[Tensor, "b r d"],
    weights: Float[Tensor, "b r"] | None,
    c: Float[Tensor, "b k d"],
    rule: Rule,
) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k 1"]]:
    """Eq. 3's numerator A^T X and denominator sum A over the tile, points weighted."""
    a = weighted(attention(x, c, rule), weights)
    return a.bmm(x), a.sum(2, keepdim=True)


def output(
    x: Float[Tensor, "b r d"],
    c: Float[Tensor, "b k d"],
    updated: Float[Tensor, "b k d"],
    rule: Rule,
) -> Float[Tensor, "b r d"]:
    """Eq. 4: A C'."""
    return updated.transpose(1, 2).bmm(attention(x, c, rule)).transpose(1, 2)


def pull_output(
    x: Float[Tensor, "b r d"],
    grad: Float[Tensor, "b r d"],
    weights: Float[Tensor, "b r"] | None,
    c: Float[Tensor, "b k d"],
    updated: Float[Tensor, "b k d"],
    rule: Rule,
) -> tuple[Float[Tensor, "b r d"], Float[Tensor, "b k d"], Float[Tensor, "b k d"]]:
    """Eq. 5: eq. 4 backwards for ``grad`` = dL/dW~ of one point with multiplicity ``weights``.

    Returns (dL/dx of one point at fixed centroids, dL/dC, dL/dC'), the last two summed over
    the tile.
    """
    p = probabilities(x, c, rule)
    to_updated = weighted(p.clamp(min=ATTENTION_FLOOR), weights).bmm(grad)
    to_x, to_c = _pull_attention(x, c, p, updated.bmm(grad.transpose(1, 2)), weights, rule)
    return to_x, to_c, to_updated


def pull_update(
    x: Float[Tensor, "b r d"],
    weights: Float[Tensor, "b r"] | None,
    c: Float[Tensor, "b k d"],
    to_total: Float[Tensor, "b k d"],
    to_mass: Float[Tensor, "b k 1"],
    rule: Rule,
) -> tuple[Float[Tensor, "b r d"], Float[Tensor, "b k d"]]:
    """Eq. 7: eq. 3 backwards, given the gradients of its numerator and denominator.

    Returns (dL/dx of one point, dL/dC summed over the tile, points weighted).
    """
    p = probabilities(x, c, rule)
    to_a = to_total.bmm(x.transpose(1, 2)).add_(to_mass)
    direct = to_total.transpose(1, 2).bmm(p.clamp(min=ATTENTION_FLOOR)).transpose(1, 2)
    to_x, to_c = _pull_attention(x, c, p, to_a, weights, rule)
    return to_x.add_(direct), to_c


def _pull_attention(
    x: Tensor, c: Tensor, p: Tensor, to_a: Tensor, weights: Tensor | None, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Eq. 6: from dL/dA to (dL/dx, dL/dC). Overwrites ``to_a``.

    The clamp passes no gradient where the softmax lies below the floor; D = 0 passes none to a
    plain Euclidean distance.
    """
    to_a.masked_fill_(p < ATTENTION_FLOOR, 0.0)
    to_a.sub_((p * to_a).sum(1, keepdim=True)).mul_(p)
    to_d = to_a.mul_((-2.0 if rule.squared else -1.0) / rule.tau)
    if not rule.squared:
        apart = distances(x, c, rule)
        to_d.div_(apart).masked_fill_(apart == 0, 0.0)
    to_x, to_c = torch.empty_like(x), torch.empty_like(c)
    for axis in range(x.shape[2]):
        along = (c[:, :, axis, None] - x[:, None, :, axis]).mul_(to_d)
        to_x[:, :, axis] = along.sum(1).neg_()
        to_c[:, :, axis] = weighted(along, weights).sum(2)
    return to_x, to_c
