"""Random programs over a pool of tensors: what an autograd graph may hold, in any order.

Contract: `perform` runs the drawn steps on a pool and leaves there what they made. The same steps
on equal pools compute the same, so that two runs can be compared; a step that makes no sense for
its operands is passed over, in every run alike.
Boundary: knows nothing of offloading; contexts to enter on the way are handed in.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Step = tuple[int, int, int, int]  # which operation, and what chooses its operands
Op = Callable[["Pool", Tensor, Tensor, int], Tensor | Sequence[Tensor] | None]
MOST = 4096  # elements: what would be larger is passed over


class SavesOthers(torch.autograd.Function):
    """Saves its input, its output and a tensor that is neither, and sets odd attributes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = x.detach() * 0.5
        out = x.cos()
        ctx.save_for_backward(x, inner.t() if inner.dim() == 2 else inner, out)
        ctx.name, ctx.variable = "layer", inner
        return out, x * 3

    @staticmethod
    def backward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        x, inner, out = ctx.saved_tensors
        inner = inner.t() if inner.dim() == 2 else inner
        grad: Tensor = -one * x.sin() + 3 * other + 0 * inner.sum() + 0 * out.sum() + inner * 0.1
        return grad


class InPlace(torch.autograd.Function):
    """Writes to its input, says so, and saves it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.mul_(0.5)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * 0.5 + 0 * x


class Careless(torch.autograd.Function):
    """Its backward writes to what it saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, x.clone())
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, _ = ctx.saved_tensors
        return grad * 2 + x * 0.25


@dataclass
class Pool:
    """The tensors a program works on, and the model whose parameters it uses."""

    tensors: list[Tensor]
    model: nn.Module
    inner: Callable[[int], contextlib.AbstractContextManager[Any]]


def _strided(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor | None:
    if t.numel() < 12 or not t.is_contiguous():
        return None
    return t.as_strided((3, 4), (n % 3 + 1, (n // 3) % 3), t.storage_offset() + n % 2)


def _reshape(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor:
    width = (1, 2, 3, 4, 8)[n % 5]
    return t.reshape(-1, width) if t.numel() % width == 0 else t.reshape(-1)


def _sliced(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor:
    dim = n % t.dim()
    return t.narrow(dim, min(n % 3, t.shape[dim] - 1), max(1, t.shape[dim] // 2 - n % 2))


def _matmul(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor:
    if t.is_complex():
        return t @ t.mH if t.dim() > 1 else t * t
    a = t.reshape(-1, t.shape[-1])
    return torch.tanh(a @ a.t() if n % 2 else a.t() @ a) * 0.5


def _linear(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor | None:
    layer = pool.model.layers[n % 2]
    if t.shape[-1] != layer.in_features or t.is_complex():
        return None
    with torch.autocast("cpu", torch.bfloat16, enabled=n % 3 == 0):
        x = t if n % 3 == 0 else t.to(layer.weight.dtype)
        return layer(x) if n % 5 else x @ layer.weight[: 4 + n % 4].t()


def _norm(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor | None:
    if t.shape[-1] != 8 or t.is_complex():
        return None
    wide = t.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-3)
    return (wide.to(t.dtype) * pool.model.scale if n % 2 else wide * pool.model.table) * 0.7


def _weights(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor:
    """Something cheap of a parameter, times something."""
    weight: Tensor = pool.model.layers[n % 2].weight
    found = (
        weight.bfloat16(), weight.double().t(), weight.clamp(min=-0.05), weight.t().contiguous(),
        weight.half().float(), weight.clone(), weight.detach().bfloat16(), weight[2:5].half(),
    )[n % 8]  # fmt: skip
    return found * found.sin()


def _broadcast(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor] | None:
    try:
        shape = torch.broadcast_shapes(one.shape, other.shape)
    except RuntimeError:
        return None
    return None if shape.numel() > MOST else (one, other)


def _multiplied(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor | None:
    pair = _broadcast(t, u)
    return None if pair is None else (pair[0] * pair[1] if n % 2 else pair[0] + pair[1].sin())


def _joined(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor:
    return torch.cat([t.reshape(-1)[:40], u.reshape(-1)[:40].to(t.dtype)])


def _masked(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor | None:
    if t.is_complex() or t.dtype.itemsize not in (2, 4):
        return None
    bits = t.detach().contiguous().view(torch.int16 if t.dtype.itemsize == 2 else torch.int32)
    return t * (bits % 2 == 0) if n % 2 else torch.where(bits > 0, t, t.sin())


def _other_type(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor | None:
    """The bytes of `t` as numbers of another type, as a factor that gets no gradient."""
    if t.is_complex() or not t.is_contiguous() or t.dtype.itemsize not in (2, 4):
        return None
    other = t.detach().view(torch.int16).view(t.dtype)
    return other * t * 0.5


def _complex(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor:
    if t.is_complex():
        conj = t.conj()
        return (conj, conj.imag, t.real, torch.view_as_real(t.clone()), conj * t, t.abs())[n % 6]
    wide = t.float() if t.dtype in (torch.bfloat16, torch.float16) else t
    return torch.complex(wide, wide.sin())


def _written(pool: Pool, t: Tensor, u: Tensor, n: int) -> None:
    """In place: recorded or not, whole or in part, or through an alias."""
    if t.is_leaf and t.requires_grad:
        return
    if n % 6 == 0:
        t.mul_(1.25)
    elif n % 6 == 1:
        with torch.no_grad():
            t.add_(0.5)
    elif n % 6 == 2:
        t.detach().mul_(0.75)
    elif n % 6 == 3 and t.dim():
        t[0] = 0.25
    elif n % 6 == 4 and not t.is_complex():
        t.clamp_(-0.5, 0.5)
    elif not t.is_complex():
        torch.relu_(t)


def _checkpointed(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor | None:
    if t.is_complex() or not t.requires_grad:
        return None

    def inside(x: Tensor) -> Tensor:
        with pool.inner(n) if n % 3 == 0 else contextlib.nullcontext():
            y = x.sin()
            return y * y.t().contiguous().t() if y.dim() == 2 else y.square()

    out: Tensor = checkpoint(inside, t, use_reentrant=bool(n % 2))
    return out


def _nested(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor:
    with pool.inner(n):
        y = t.sin()
        return y * y + t.cos() * y


def _forgotten(pool: Pool, t: Tensor, u: Tensor, n: int) -> None:
    if len(pool.tensors) > 4:
        del pool.tensors[4 + n % (len(pool.tensors) - 4)]
    if n % 16 == 0:
        gc.collect()


def _cast(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.bfloat16)
    if t.is_complex():
        return t.to(torch.complex128)
    if n % 7 == 0:
        return t.to(t.dtype, copy=True)
    return t.to(dtypes[n % 5], memory_format=torch.contiguous_format) if n % 3 else t.to(dtypes[n % 5])  # fmt: skip # noqa: E501


def _clamped(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor | None:
    if t.is_complex():
        return None
    return (t.clamp(min=-0.25), t.clamp(-0.5, 0.5), t.clamp(max=0.25), t.relu())[n % 4]


def _copied(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor:
    return (t.contiguous(), t.clone(), t.t().contiguous() if t.dim() == 2 else t.clone())[n % 3]


def _smooth(pool: Pool, t: Tensor, u: Tensor, n: int) -> Tensor:
    if t.is_complex():
        return t * t
    return (t.sin(), t.tanh(), t.sigmoid(), t.square() * 0.5, t.softmax(-1), t.exp().rsqrt())[n % 6]


OPERATIONS: tuple[Op, ...] = (
    _smooth,
    _smooth,
    _multiplied,
    _multiplied,
    _copied,
    _cast,
    _cast,
    _clamped,
    _matmul,
    _linear,
    _norm,
    _weights,
    _joined,
    _masked,
    _other_type,
    _complex,
    _written,
    _checkpointed,
    _nested,
    _forgotten,
    _strided,
    _reshape,
    _sliced,
    lambda pool, t, u, n: t.transpose(n % t.dim(), (n // 2) % t.dim()),
    lambda pool, t, u, n: t.unsqueeze(n % (t.dim() + 1)) if t.dim() < 4 else t.squeeze(),
    lambda pool, t, u, n: t.unsqueeze(0).expand(2, *t.shape),
    lambda pool, t, u, n: t.select(n % t.dim(), 0),
    lambda pool, t, u, n: t.chunk(2, n % t.dim()),
    lambda pool, t, u, n: t.split([1, t.shape[-1] - 1], -1) if t.shape[-1] > 1 else None,
    lambda pool, t, u, n: t[..., :: 1 + n % 3],
    lambda pool, t, u, n: t.flip(0),
    lambda pool, t, u, n: SavesOthers.apply(t) if not t.is_complex() else None,
    lambda pool, t, u, n: InPlace.apply(t * 1) if n % 2 else Careless.apply(t),
    lambda pool, t, u, n: F.dropout(t, 0.5) if not t.is_complex() else None,
    lambda pool, t, u, n: t.detach(),
    lambda pool, t, u, n: torch.stack(torch.unbind(t)[::-1]) if t.dim() > 1 else None,
)


def perform(steps: Sequence[Step], pool: Pool) -> list[int]:
    """Run the steps on the pool; which of them torch refused."""
    refused = []
    for place, (operation, first, second, number) in enumerate(steps):
        op = OPERATIONS[operation % len(OPERATIONS)]
        t = pool.tensors[-1 - first % min(len(pool.tensors), 6)]
        u = pool.tensors[second % len(pool.tensors)]
        if not t.dim() or not t.numel():
            continue
        try:
            made = op(pool, t, u, number)
        except (RuntimeError, NotImplementedError):
            refused.append(place)
            continue
        finally:
            del t, u
        for tensor in (made,) if isinstance(made, Tensor) else made or ():
            if 0 < tensor.numel() <= MOST:
                pool.tensors.append(tensor)
        del made
    return refused


def total(tensors: Sequence[Tensor]) -> Tensor:
    """A sum that weighs every element, and is finite enough to compare."""
    found = torch.zeros((), dtype=torch.float64)
    for tensor in tensors:
        real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        found = found + (real * real.sin()).double().sum()
    return found
