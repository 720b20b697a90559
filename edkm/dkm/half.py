"""The dense form's steps whose values leave float16's range, with their sums in float32.

Contract: each stands for the torch operations named in it, saves what those save, and takes and
gives the float16 maps of the dense form; centroids are float32. Without them squares of far
weights, logits at a small tau and sums over more than 65,504 weights are infinite, and every
result NaN.
Boundary: float16 only, whose largest value is 65,504; bfloat16 has float32's range.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from edkm.dkm.distance import row_chunks
from edkm.dkm.settings import Rule

_LARGEST = torch.finfo(torch.float16).max


def logits(distance: Float[Tensor, "n k"], rule: Rule) -> Float[Tensor, "n k"]:
    """Eq. 2's ``-D / tau``, less its largest in the row, which no softmax notices."""
    out: Tensor = _Logits.apply(distance, rule)  # type: ignore[no-untyped-call]
    return out


def mean(points: Float[Tensor, "n d"], attention: Float[Tensor, "n k"]) -> Float[Tensor, "k d"]:
    """Eq. 3: ``(A^T X) / sum A``, float32."""
    out: Tensor = _Mean.apply(points, attention)  # type: ignore[no-untyped-call]
    return out


def output(attention: Float[Tensor, "n k"], updated: Float[Tensor, "k d"]) -> Float[Tensor, "n d"]:
    """Eq. 4: ``A C'``."""
    out: Tensor = _Output.apply(attention, updated)  # type: ignore[no-untyped-call]
    return out


def _parts(rows: int, columns: int) -> list[slice]:
    starts = row_chunks(rows, columns)
    return [slice(start, start + starts.step) for start in starts]


def _inside(wide: Tensor) -> Tensor:
    """Gradients beyond float16's range at its ends: infinite ones would make the row NaN."""
    return wide.clamp_(-_LARGEST, _LARGEST)


class _Logits(torch.autograd.Function):
    """``square`` (saves the distance; none for the plain distance), ``mul``, and the shift."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, rule: Rule) -> Tensor:
        out = torch.empty_like(distance)
        for part in _parts(*distance.shape):
            wide = distance[part].float()
            wide = (wide.square_() if rule.squared else wide).mul_(-1.0 / rule.tau)
            wide.sub_(wide.amax(1, keepdim=True))
            out[part] = wide.clamp_(min=-_LARGEST)
        ctx.rule = rule
        ctx.save_for_backward(*((distance,) if rule.squared else ()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out = torch.empty_like(grad)
        for part in _parts(*grad.shape):
            wide = grad[part].float().mul_(-1.0 / ctx.rule.tau)
            if ctx.rule.squared:
                wide.mul_(ctx.saved_tensors[0][part].float().mul_(2.0))
                wide.masked_fill_(grad[part] == 0, 0.0)  # also where the distance is infinite
            out[part] = _inside(wide)
        return out, None


class _Mean(torch.autograd.Function):
    """``points.T.mm(attention).T / attention.sum(0)``: saves the points and the attention."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, attention: Tensor) -> Tensor:
        total = points.new_zeros(attention.shape[1], points.shape[1], dtype=torch.float64)
        mass = total.new_zeros(attention.shape[1], 1)
        for part in _parts(*attention.shape):
            a = attention[part].float()
            total += a.T.mm(points[part].float())
            mass += a.sum(0).unsqueeze(1)
        updated, mass = (total / mass).float(), mass.float()
        ctx.save_for_backward(points, attention, updated, mass)
        return updated

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        points, attention, updated, mass = ctx.saved_tensors
        to_total = grad / mass
        to_mass = -(to_total * updated).sum(1)
        to_points, to_attention = torch.empty_like(points), torch.empty_like(attention)
        for part in _parts(*attention.shape):
            to_points[part] = _inside(attention[part].float().mm(to_total))
            to_attention[part] = _inside(points[part].float().mm(to_total.T).add_(to_mass))
        return to_points, to_attention


class _Output(torch.autograd.Function):
    """``attention.mm(updated)``: saves both."""

    @staticmethod
    def forward(ctx: Any, attention: Tensor, updated: Tensor) -> Tensor:
        out = attention.new_empty(attention.shape[0], updated.shape[1])
        for part in _parts(*attention.shape):
            out[part] = attention[part].float().mm(updated)
        ctx.save_for_backward(attention, updated)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        attention, updated = ctx.saved_tensors
        to_attention = torch.empty_like(attention)
        to_updated = torch.zeros_like(updated, dtype=torch.float64)
        for part in _parts(*attention.shape):
            above = grad[part].float()
            to_attention[part] = _inside(above.mm(updated.T))
            to_updated += attention[part].float().T.mm(above)
        return to_attention, to_updated.to(updated.dtype)
