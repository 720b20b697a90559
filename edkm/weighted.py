"""A linear layer whose DKM lets columns count, divides rows by a scale, or has groups of rows.

Contract: ``x @ W~.T + bias`` with W~ of DKM (arXiv 2108.12659, eq. 1-3), in which point i counts
``importance[column] * scale[row]**2`` times in the means, and is ``w / scale[row]`` where it is
compared. Exact gradients. Saved for backward: input, weight (by reference), the two vectors and
the centroids of each update; W~ is made again.
Boundary: scalar codebooks, one or one for each of equal blocks of rows (``[groups, k, 1]``); with
one codebook and neither importance nor scale use ``edkm.nn``, which is cheaper.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from edkm.dkm.distance import compute_dtype
from edkm.dkm.points import Points
from edkm.dkm.settings import Rule, Schedule
from edkm.dkm.updates import Path, pull, run_updates, soft_output


def weighted_linear(
    x: Float[Tensor, "*batch columns"],
    weight: Float[Tensor, "rows columns"],
    bias: Tensor | None,
    centroids: Float[Tensor, "*groups k 1"],
    importance: Float[Tensor, " columns"] | None,
    scale: Float[Tensor, " rows"] | None,
    schedule: Schedule,
) -> tuple[Float[Tensor, "*batch rows"], Float[Tensor, "*groups k 1"]]:
    """(``x @ W~.T + bias``, the centroids of the last update)."""
    out: tuple[Tensor, Tensor] = _WeightedLinear.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, centroids, importance, scale, schedule
    )
    return out


@torch.no_grad()
def weighted_soft(
    weight: Float[Tensor, "rows columns"],
    centroids: Float[Tensor, "*groups k 1"],
    importance: Float[Tensor, " columns"] | None,
    scale: Float[Tensor, " rows"] | None,
    schedule: Schedule,
) -> Float[Tensor, "rows columns"]:
    """W~ alone, without a gradient."""
    points = _points(weight, importance, scale, _groups(centroids))
    return _soft(weight, points, _path(points, centroids, schedule), schedule.rule)[0]


class _WeightedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        centroids: Tensor,
        importance: Tensor | None,
        scale: Tensor | None,
        schedule: Schedule,
    ) -> tuple[Tensor, Tensor]:
        points = _points(weight, importance, scale, _groups(centroids))
        path = _path(points, centroids, schedule)
        clustered, _ = _soft(weight, points, path, schedule.rule)
        ctx.rule = schedule.rule
        ctx.save_for_backward(x, weight, importance, scale, path.states, path.masses, path.ran)
        last = path.states[-1].view(centroids.shape).clone()
        ctx.mark_non_differentiable(last)
        return F.linear(x, clustered, bias), last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, importance, scale, states, masses, ran = ctx.saved_tensors
        points = _points(weight, importance, scale, states.shape[1])
        path = Path(states, masses, ran)
        to_x = to_weight = to_bias = None
        upstream = grad.reshape(-1, grad.shape[-1]).to(weight.dtype)
        if ctx.needs_input_grad[1]:  # dL/dW~, then dL/dW in its place
            to_weight = upstream.T.mm(x.reshape(-1, x.shape[-1]).to(weight.dtype))
        to_updated = None
        if ctx.needs_input_grad[0]:
            clustered, to_updated = _soft(weight, points, path, ctx.rule, to_weight)
            to_x = upstream.mm(clustered).view(x.shape).to(x.dtype)
            del clustered
        if to_weight is not None:
            above = to_weight.view(points.rows.shape)
            pull(points, path, ctx.rule, above, above, to_updated)
        if ctx.needs_input_grad[2]:
            to_bias = upstream.sum(0)
        return to_x, to_weight, to_bias, None, None, None, None


def _groups(centroids: Tensor) -> int:
    return len(centroids) if centroids.ndim == 3 else 1


def _points(weight: Tensor, importance: Tensor | None, scale: Tensor | None, groups: int) -> Points:
    work = compute_dtype(weight.dtype)
    rows = weight.detach().contiguous().view(groups, -1, 1)
    columns = None if importance is None else importance.to(work)
    by = None if scale is None else scale.to(work).view(groups, -1)
    return Points(rows, work, None, by, None if by is None else by.square(), columns)


def _path(points: Points, centroids: Tensor, schedule: Schedule) -> Path:
    start = centroids.to(points.work).view(len(points.rows), -1, 1)
    stop = None if schedule.stop < 0 else schedule.stop
    return run_updates(points, start, schedule.rule, schedule.steps, stop)


def _soft(
    weight: Tensor, points: Points, path: Path, rule: Rule, grad: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """W~, and what ``soft_output`` returns for ``grad``."""
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    above = None if grad is None else grad.view(points.rows.shape)
    return out, soft_output(points, path, rule, out.view(points.rows.shape), above)
