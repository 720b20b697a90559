"""What is rebuilt instead of copied: twins, copies, clamps, few values; exact, or not done."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edkm.saved import offload
from edkm.saved.replay import KINDS


@pytest.mark.parametrize("distinct", [2, 16, 17, 256, 257])
@pytest.mark.parametrize("count", [4096, 5001])
def test_few_values_travel_as_codes(distinct: int, count: int) -> None:
    torch.manual_seed(0)
    patterns = torch.randperm(1 << 16)[:distinct].to(torch.int16)
    chosen = torch.cat([torch.arange(distinct), torch.randint(0, distinct, (count - distinct,))])
    tensor = patterns[chosen].view(torch.bfloat16)  # any patterns: NaN payloads, minus zero
    offloaded = offload(uniquify=True, shard=3)
    handle = offloaded.pack(tensor)
    total = offloaded.ledger.host_bytes + offloaded.ledger.peer_bytes
    codes = (count + 1) // 2 if distinct <= 16 else count
    assert total == (2 * distinct + codes if distinct <= 256 else 2 * count)
    assert handle.action == ("table" if distinct <= 256 else "shard")
    back = offloaded.unpack(handle)
    assert torch.equal(back.view(torch.int16), tensor.view(torch.int16))


def test_hidden_writes_do_not_reach_a_wide_twin() -> None:
    """A write through `.data` cannot be seen, but what is copied is what is there."""
    x = torch.randn(64, 64).bfloat16().requires_grad_()
    w = torch.randn(64, 64, requires_grad=True)
    with offload() as offloaded:
        wide = x.float()
        wide.data.mul_(1.001)
        loss = (wide * w).sum()
    assert "upcast" not in offloaded.ledger.rebuilt
    loss.backward()
    assert w.grad is not None and torch.equal(w.grad, wide.detach())


def test_a_copy_in_another_layout_and_its_source_share_bytes() -> None:
    x = torch.randn(4, 8, 64, 16, requires_grad=True)

    def forward() -> Tensor:
        y = x * 2
        flat = y.transpose(1, 2).reshape(4, 64, 128)
        return y.square().sum() + flat.square().sum()

    wanted = torch.autograd.grad(forward(), x)[0]
    with offload() as offloaded:
        loss = forward()
    assert offloaded.ledger.host_bytes == x.nbytes
    assert offloaded.ledger.rebuilt["contiguous"].saves == 1
    assert torch.equal(torch.autograd.grad(loss, x)[0], wanted)


def test_histories_through_custom_functions() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, one, other):  # type: ignore[no-untyped-def]
            return one * 2 + other * 3

    def forward(x: Tensor) -> Tensor:
        first, second = Twice.apply(x)
        turned = first.t().contiguous()
        kept = first.square() + turned.square() + second.sin() + turned.clamp(min=0).square()
        return (kept.float() + second.float().square()).sum()

    x = torch.randn(64, 64).bfloat16().requires_grad_()
    wanted = torch.autograd.grad(forward(x), x)[0]
    with offload() as offloaded:
        loss = forward(x)
    assert offloaded.ledger.host_bytes == 2 * x.nbytes  # both outputs, nothing else
    assert {"upcast", "contiguous", "clamp"} <= set(offloaded.ledger.rebuilt)
    assert torch.equal(torch.autograd.grad(loss, x)[0], wanted)


def test_a_value_that_no_one_saved_may_have_been_written_to_on_the_way() -> None:
    """x is on the host, z is a copy of y, and y is not (any more) the clamp of x."""
    x = torch.randn(64, 64, requires_grad=True)
    w = torch.randn(64, 64, requires_grad=True)
    with offload():
        y = x.clamp(min=0)  # saves x
        with torch.no_grad():
            y.add_(1)
        z = y.clone()
        loss = (z * w).sum()
    loss.backward()
    assert w.grad is not None and torch.equal(w.grad, x.detach().clamp(min=0) + 1)


@pytest.mark.parametrize("kinds", [KINDS, ("view",), ("upcast",), ("contiguous", "downcast")])
def test_random_chains_of_cheap_operations(kinds: tuple[str, ...]) -> None:
    """Views, copies, conversions and clamps in any order, each saved or not."""
    steps: list[Callable[[Tensor], Tensor]] = [
        lambda t: t.t(),
        lambda t: t.contiguous(),
        lambda t: t.clone(),
        lambda t: t.float(),
        lambda t: t.bfloat16(),
        lambda t: t.half(),
        lambda t: t.double(),
        lambda t: t.clamp(min=-0.5),
        lambda t: t.clamp(-0.7, 0.7),
        lambda t: t[: t.shape[0] - 1],
        lambda t: t[:, ::2] if t.shape[1] > 8 else t,
        lambda t: t.reshape(-1, 4) if t.numel() % 4 == 0 else t,
        lambda t: t.unsqueeze(0).expand(2, *t.shape).reshape(-1, t.shape[-1]),
        lambda t: t * 1.5,
        lambda t: t.to(t.dtype, copy=True, memory_format=torch.contiguous_format),
    ]

    def forward(x: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        total = x.new_zeros((), dtype=torch.float64)
        for _ in range(int(torch.randint(3, 10, (), generator=generator))):
            x = steps[int(torch.randint(0, len(steps), (), generator=generator))](x)
            if x.numel() > 1 << 14:
                break
            if torch.rand((), generator=generator) < 0.6:
                total = total + x.square().sum().double() + x.sin().sum().double()
        return total + x.square().sum().double()

    for seed in range(80):
        torch.manual_seed(seed)
        x = torch.randn(16, 20).requires_grad_()
        wanted = torch.autograd.grad(forward(x, seed), x)[0]
        offloaded = offload(rebuild=kinds, min_bytes=0, hops=seed % 6, uniquify=seed % 2 == 0)
        with offloaded:
            loss = forward(x, seed)
        assert torch.equal(torch.autograd.grad(loss, x)[0], wanted), seed
        del loss
        assert offloaded.ledger.host_bytes == 0
