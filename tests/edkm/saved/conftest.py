"""A small LLaMA-like model, a step of it, and exact comparison of gradients."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn


class Norm(nn.Module):
    """RMS norm in fp32, as Hugging Face's LLaMA computes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.heads = heads
        self.register_buffer("scale", torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        split = lambda t: t.view(*t.shape[:2], self.heads, -1).transpose(1, 2)  # noqa: E731
        q, k, v = split(self.q(x) * self.scale), split(self.k(x)), split(self.v(x))
        scores = (q @ k.transpose(2, 3)).float().softmax(-1).to(x.dtype)
        mixed = (scores @ v).transpose(1, 2).contiguous().view(x.shape)
        return self.o(mixed)


class Block(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.before, self.after = Norm(width), Norm(width)
        self.attention = Attention(width, 4)
        self.mlp = nn.Sequential(nn.Linear(width, 128), nn.SiLU(), nn.Linear(128, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.mlp(self.after(x))


def model_of(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block()).to(dtype)


def data_of(dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 32, 64).to(dtype)


def grads(model: nn.Module, step: Callable[[nn.Module], Tensor]) -> list[Tensor | None]:
    model.zero_grad()
    step(model).backward()
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def assert_equal(found: list[Tensor | None], wanted: list[Tensor | None]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)


@pytest.fixture
def small() -> SimpleNamespace:
    """`model(dtype)`, `data(dtype)`, `grads(model, step)` and `assert_equal(found, wanted)`."""
    return SimpleNamespace(model=model_of, data=data_of, grads=grads, assert_equal=assert_equal)
