"""Euclidean distances between weight vectors and centroids, as one differentiable operation.

Contract: it saves what ``torch.cdist`` saves (both inputs and the result), works for every
floating dtype and any dimension, and never makes an ``n x k x d`` temporary: rows are worked in
chunks, and 16-bit inputs are subtracted and accumulated in float32.
Boundary: distances only. ``torch.cdist`` itself is not used: it has no bfloat16 kernel under
autograd on the CPU, and above 25 rows it takes the matrix-product expansion, whose 16-bit error
is as large as the distance to the nearest centroid.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 1 << 18  # elements of one n x k tile: 1 MiB in float32, stays in cache


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are accumulated in: float64 for float64, float32 for all the others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row_chunks(rows: int, columns: int, elements: int = CHUNK_ELEMENTS) -> range:
    """Starts of row chunks whose tile of ``columns`` columns holds about ``elements`` values.

    The step of the returned range is the height of a chunk.
    """
    return range(0, rows, max(1, elements // max(1, columns)))


def euclidean_distance(
    points: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"]
) -> Float[Tensor, "n k"]:
    """``||points_i - centroids_j||`` in the dtype of ``points``, differentiable in both.

    Where a distance is exactly zero its subgradient is taken as 0. Saves (points, centroids,
    result) for backward, as ``torch.cdist`` does; it is not twice differentiable.
    """
    out: Tensor = _Euclidean.apply(points, centroids)  # type: ignore[no-untyped-call]
    return out


def _forward(points: Tensor, centroids: Tensor) -> Tensor:
    n, k = points.shape[0], centroids.shape[0]
    work = compute_dtype(points.dtype)
    columns = centroids.to(work)
    out = points.new_empty(n, k)
    chunks = row_chunks(n, k)
    for start in chunks:
        rows = points[start : start + chunks.step].to(work)
        if rows.shape[1] == 1:
            tile = (rows - columns.T).abs_()
        else:
            tile = torch.zeros(rows.shape[0], k, dtype=work, device=rows.device)
            for axis in range(rows.shape[1]):
                tile.add_((rows[:, axis : axis + 1] - columns[:, axis]).square_())
            tile.sqrt_()
        out[start : start + chunks.step] = tile
    return out


def _backward(
    grad: Tensor, points: Tensor, centroids: Tensor, distance: Tensor
) -> tuple[Tensor, Tensor]:
    work = compute_dtype(points.dtype)
    columns = centroids.to(work)
    grad_points = torch.empty_like(points)
    grad_centroids = torch.zeros_like(columns)
    chunks = row_chunks(points.shape[0], centroids.shape[0])
    for start in chunks:
        part = slice(start, start + chunks.step)
        away = distance[part].to(work)
        # grad / distance, and 0 where the distance is 0
        ratio = grad[part].to(work).div(away).masked_fill_(away == 0, 0.0)
        rows = points[part].to(work)
        for axis in range(rows.shape[1]):
            pull = (rows[:, axis : axis + 1] - columns[:, axis]).mul_(ratio)
            grad_points[part, axis] = pull.sum(1).to(points.dtype)
            grad_centroids[:, axis] -= pull.sum(0)
    return grad_points, grad_centroids.to(centroids.dtype)


class _Euclidean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, centroids: Tensor) -> Tensor:
        distance = _forward(points, centroids)
        ctx.save_for_backward(points, centroids, distance)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        grad_points, grad_centroids = _backward(grad, *ctx.saved_tensors)
        need_points, need_centroids = ctx.needs_input_grad
        return grad_points if need_points else None, grad_centroids if need_centroids else None
