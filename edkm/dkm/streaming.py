"""DKM a tile at a time: any float dtype, cluster vectors, a codebook a group, a scale a channel.

Contract: the values and gradients of ``dense_dkm`` for each group, to float32 accuracy (float64
for float64 weights). The attention is made tile by tile and made again in backward, as
FlashAttention does. Saved for backward: the weight (by reference), the scales, and the centroids
of each update; nothing of the weight's size. A ``torch.library`` operator with a fake kernel.
Boundary: a 16-bit weight with one scalar codebook is far cheaper in ``fused``.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from jaxtyping import Shaped
from torch import Tensor

from edkm.dkm.checks import check_centroids, check_finite, check_sizes
from edkm.dkm.dense import DEFAULT_CLUSTERS, ClusterResult
from edkm.dkm.distance import compute_dtype
from edkm.dkm.fused import updates_run
from edkm.dkm.init import initial_centroids
from edkm.dkm.points import Points
from edkm.dkm.settings import Rule, Schedule, Settings
from edkm.dkm.updates import Path, pull, run_updates, soft_output


def streaming_dkm(
    weight: Shaped[Tensor, "*shape"],
    centroids: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    **settings: Unpack[Settings],
) -> ClusterResult:
    """``dense_dkm`` without its maps. Arguments as there, and:

    ``centroids``: ``[k, d]`` for one codebook, or ``[groups, k, d]`` for one codebook for each
    of ``groups`` equal blocks of consecutive rows of the weight (``groups`` = rows: per channel).
    With groups, convergence means that no centroid of any group moves more than ``eps``.
    ``scale``: ``[rows]``, positive and constant: rows are divided by it before clustering and
    multiplied after, so that tau and centroids are in units of the scaled weight.
    The result's centroids have the given shape, in float32 (float64 for float64).
    """
    schedule = Schedule(**settings)
    if centroids is None:
        centroids = initial_centroids(weight, DEFAULT_CLUSTERS)
    grouped = centroids if centroids.ndim == 3 else centroids.unsqueeze(0)
    _check_groups(weight, grouped)
    if scale is not None:
        _check_scale(weight, scale, grouped.shape[0])
    start = grouped.detach().to(compute_dtype(weight.dtype))
    held = None if scale is None else scale.detach().to(start.dtype)
    clustered, states, _, ran = _forward(
        weight, start, held, *schedule.rule, schedule.steps, schedule.stop
    )
    last = states[-1].detach().view(centroids.shape)
    return ClusterResult(clustered, last, updates_run(schedule, ran), "streaming")


def channel_scale(weight: Shaped[Tensor, "*shape"]) -> Tensor:
    """``[rows]``: largest magnitude of each row of ``weight`` (1 where a row is all 0)."""
    largest = weight.detach().flatten(1).abs().amax(1).to(compute_dtype(weight.dtype))
    return largest.masked_fill_(largest == 0, 1.0)


def _check_groups(weight: Tensor, grouped: Tensor) -> None:
    groups, k = grouped.shape[0], grouped.shape[1]
    dim = check_centroids(grouped.flatten(0, 1), weight, finite=False)
    check_sizes(weight, groups * k, dim)
    if groups == 1:
        return
    rows = weight.shape[0]
    if rows % groups or (weight.numel() // groups) % dim:
        raise ValueError(
            f"centroids has {groups} groups and dim={dim} for a weight of shape "
            f"{tuple(weight.shape)}; the groups must cut its {rows} rows into equal blocks whose "
            "size dim divides: choose a number of groups that divides the rows"
        )


def _check_scale(weight: Tensor, scale: Tensor, groups: int) -> None:
    rows = weight.shape[0]
    if scale.shape != (rows,):
        raise ValueError(
            f"scale has shape {tuple(scale.shape)}; it must be ({rows},), one for each row of "
            "the weight: use channel_scale(weight)"
        )
    if rows % groups:
        raise ValueError(f"scale is given per row, but {groups} groups do not divide {rows} rows")


# Schemas are spelled out: inferring them fails once a type checker wraps the function.
_FORWARD = (
    "(Tensor weight, Tensor centroids, Tensor? scale, float tau, bool squared,"
    " int steps, float eps) -> (Tensor, Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "(Tensor grad, Tensor weight, Tensor? scale, Tensor states, Tensor masses, Tensor ran,"
    " float tau, bool squared) -> Tensor"
)
_REBUILD = _BACKWARD.replace("Tensor grad, ", "")


@torch.library.custom_op("edkm::streaming_dkm", mutates_args=(), schema=_FORWARD)
def _forward(
    weight: Tensor,
    centroids: Tensor,
    scale: Tensor | None,
    tau: float,
    squared: bool,
    steps: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(W~, states, masses, ran); ``eps < 0`` runs all ``steps``."""
    check_finite(weight)
    check_centroids(centroids.flatten(0, 1), weight)
    if scale is not None and not bool(((scale > 0) & scale.isfinite()).all()):
        raise ValueError("scale holds values that are not finite and above 0; use channel_scale")
    rule = Rule(tau, squared)
    points = _points(weight, scale, centroids)
    path = run_updates(points, centroids, rule, steps, None if eps < 0 else eps)
    return _output(weight, scale, path, rule), path.states, path.masses, path.ran


@_forward.register_fake
def _(
    weight: Tensor,
    centroids: Tensor,
    scale: Tensor | None,
    tau: float,
    squared: bool,
    steps: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    groups, k, dim = centroids.shape
    return (
        torch.empty_like(weight, memory_format=torch.contiguous_format),
        centroids.new_empty(steps + 1, groups, k, dim),
        centroids.new_empty(steps, groups, k, 1),
        weight.new_empty((), dtype=torch.int64),
    )


@torch.library.custom_op("edkm::streaming_dkm_rebuild", mutates_args=(), schema=_REBUILD)
def _rebuild(
    weight: Tensor,
    scale: Tensor | None,
    states: Tensor,
    masses: Tensor,
    ran: Tensor,
    tau: float,
    squared: bool,
) -> Tensor:
    """W~ again, from what backward has."""
    return _output(weight, scale, Path(states, masses, ran), Rule(tau, squared))


@_rebuild.register_fake
def _(weight: Tensor, *others: object) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


@torch.library.custom_op("edkm::streaming_dkm_backward", mutates_args=(), schema=_BACKWARD)
def _backward(
    grad: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    states: Tensor,
    masses: Tensor,
    ran: Tensor,
    tau: float,
    squared: bool,
) -> Tensor:
    """dL/dW from dL/dW~ (docs/clustering.md eq. 5-8), the attention made again."""
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    points = _points(weight, scale, states[0])
    above, into = (one.view(points.rows.shape) for one in (grad.contiguous(), out))
    pull(points, Path(states, masses, ran), Rule(tau, squared), above, into)
    return out


@_backward.register_fake
def _(grad: Tensor, weight: Tensor, *others: object) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _output(weight: Tensor, scale: Tensor | None, path: Path, rule: Rule) -> Tensor:
    points = _points(weight, scale, path.states[0])
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    soft_output(points, path, rule, out.view(points.rows.shape))
    return out


def _points(weight: Tensor, scale: Tensor | None, centroids: Tensor) -> Points:
    groups, _, dim = centroids.shape
    rows = weight.detach().contiguous().view(groups, -1, dim)
    per_group = None if scale is None else scale.view(groups, -1)
    return Points(rows, centroids.dtype, scale=per_group)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    weight, _, scale, ctx.tau, ctx.squared, _, _ = inputs
    _, states, masses, ran = output
    # Saved: the weight by reference, scales, centroids. Recomputed: every map.
    ctx.save_for_backward(weight, scale, states, masses, ran)


def _pull_back(ctx: Any, grad: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
    weight, scale, states, masses, ran = ctx.saved_tensors
    pulled = _backward(grad, weight, scale, states, masses, ran, ctx.tau, ctx.squared)
    return pulled, None, None, None, None, None, None


_forward.register_autograd(_pull_back, setup_context=_setup)
