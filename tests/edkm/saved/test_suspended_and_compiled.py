"""Contexts that are left suspended by a generator, compiled around or inside, or under a budget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edkm.saved import offload

INPUT = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4))


def gradients(model: nn.Module, loss: Callable[[], Tensor]) -> list[Tensor]:
    model.zero_grad()
    loss().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def plain() -> list[Tensor]:
    model = make()
    return gradients(model, lambda: model(INPUT).square().sum())


def assert_equal(found: list[Tensor]) -> None:
    expected = plain()
    assert len(found) == len(expected) == 6
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def in_two_parts(model: nn.Sequential) -> Iterator[Tensor]:
    with offload(model, min_bytes=0):
        hidden = model[0](INPUT)
        yield hidden.detach()
        yield model[1:](hidden).square().sum()


def test_what_is_saved_while_a_generator_is_suspended_is_right_too() -> None:
    model = make()
    parts = in_two_parts(model)
    next(parts)
    weight = torch.ones(3, requires_grad=True)
    other = weight.exp().square().sum()  # inside the suspended context
    loss = next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    assert_equal(gradients(model, lambda: loss))
    other.backward()
    expected = torch.ones(3, requires_grad=True)
    expected.exp().square().sum().backward()
    assert weight.grad is not None and expected.grad is not None
    assert torch.equal(weight.grad, expected.grad)


def test_generators_that_end_in_the_order_they_began() -> None:
    models = make(), make()
    parts = [in_two_parts(model) for model in models]
    for part in parts:
        next(part)
    losses = []
    for part in parts:
        losses.append(next(part))
        assert next(part, None) is None  # leaves its context while the other's is inside it
    for model, loss in zip(models, losses, strict=True):
        assert_equal(gradients(model, lambda loss=loss: loss))  # type: ignore[misc]
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None


def test_a_generator_that_is_dropped_takes_its_context_along() -> None:
    parts = in_two_parts(make())
    next(parts)
    del parts
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    assert_equal(plain())


@pytest.mark.filterwarnings(
    "ignore:Dynamo does not know how to trace", "ignore:The .grad attribute"
)
@pytest.mark.slow
@pytest.mark.parametrize("around", [False, True])
def test_compiled_inside_and_around(around: bool) -> None:
    torch._dynamo.reset()
    model = make()
    call = model if around else torch.compile(model, backend="aot_eager")

    def loss(x: Tensor) -> Tensor:
        with offload(model, min_bytes=0):
            return call(x).square().sum()

    whole = torch.compile(loss, backend="aot_eager") if around else loss
    assert_equal(gradients(model, lambda: whole(INPUT)))
    torch._dynamo.reset()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("budget", [{"device_budget": 600}, {"host_budget": 600}])
def test_a_budget_with_checkpointed_blocks(budget: dict[str, int], reentrant: bool) -> None:
    model = make()
    x = INPUT.clone().requires_grad_()
    context = offload(model, min_bytes=0, **budget)  # type: ignore[arg-type]

    def loss(within: contextlib.AbstractContextManager[object]) -> Tensor:
        with within:
            hidden = checkpoint(model[:3], x, use_reentrant=reentrant)
            out: Tensor = model[3](hidden).square().sum()
        return out

    for _ in range(4):  # the plan is made after the first step
        assert_equal(gradients(model, lambda: loss(context)))
