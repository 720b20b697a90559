"""What follows from a parameter is rebuilt from it: autocast's 16-bit weights, mostly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edkm.saved import Offload, marshal, offload
from edkm.saved.replay import KINDS

WEIGHTS = 2 * 64 * 64  # elements of the two layers that need the gradient of their input
WITHOUT = tuple(kind for kind in KINDS if kind != "downcast")


@pytest.fixture(params=[True, False], ids=["compared", "trusted"])
def compared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, where what is rebuilt is compared at once, and as on CUDA, where it is not."""
    if not request.param:
        monkeypatch.setattr(marshal, "_agrees", lambda recipe, tensor: True)


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))


DATA = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))


def loss_of(model: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model(DATA).float().square().mean()


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def assert_equal(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.usefixtures("compared")
def test_autocast_weights_cost_nothing_on_the_host() -> None:
    model = model_of()
    wanted = gradients(model, loss_of(model))
    held = {}
    for kinds in (WITHOUT, KINDS):
        for _ in range(2):
            offloaded = offload(model, rebuild=kinds, min_bytes=0)
            with offloaded:
                loss = loss_of(model)
            held[kinds] = offloaded.ledger.host_bytes
            assert_equal(gradients(model, loss), wanted)
            with torch.no_grad():  # versions above zero, as after an optimizer's step
                for parameter in model.parameters():
                    parameter.mul_(1)
    assert held[WITHOUT] - held[KINDS] == 2 * WEIGHTS
    told = offloaded.ledger.rebuilt["downcast"]
    assert (told.saves, told.bytes_spared) == (2, 2 * WEIGHTS) and told.rebuild_ns > 0


@pytest.mark.usefixtures("compared")
def test_a_step_between_forward_and_backward_raises() -> None:
    model = model_of()
    offloaded = offload(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model).backward()
    with offloaded:
        loss = loss_of(model)
    optimizer.step()
    with pytest.raises(
        RuntimeError,
        match=r"by AddmmBackward0 in module '2' is rebuilt from a parameter, \[64, 64\] "
        r"torch\.float32, that was at version 1 .* version 2 now.*leave 'downcast' out of",
    ):
        loss.backward()


@pytest.mark.usefixtures("compared")
def test_the_remedy_keeps_the_old_weights_as_autograd_does() -> None:
    def run(kinds: tuple[str, ...] | None) -> list[Tensor]:
        model = model_of()
        if kinds is None:
            loss = loss_of(model)
        else:
            with offload(model, rebuild=kinds):
                loss = loss_of(model)
        with torch.no_grad():
            model[1].weight.add_(1)
        return gradients(model, loss)

    assert_equal(run(WITHOUT), run(None))


def cast_before(model: nn.Sequential, enter: Callable[[], Offload]) -> Tensor:
    """The cast is older than the context, and the weight was written to in between."""
    weight = model[1].weight
    old = weight.bfloat16()
    with torch.no_grad():
        weight.mul_(3)
    with enter():
        return (DATA.bfloat16().requires_grad_() @ old).float().square().sum()


def cached_cast(model: nn.Sequential, enter: Callable[[], Offload]) -> Tensor:
    """Autocast keeps its copy of a weight that is written to."""
    x = DATA.clone().requires_grad_()
    with enter(), torch.autocast("cpu", torch.bfloat16):
        first = model[1](DATA)  # casts the weight, and needs no gradient that would save it
        with torch.no_grad():
            model[1].weight.mul_(3)
        return (first + model[1](x)).float().square().sum()


def other_memory(model: nn.Sequential, enter: Callable[[], Offload]) -> Tensor:
    """The weight lies elsewhere than when the context was entered, as with some sharding."""
    with enter():
        cast = model[1].weight.bfloat16()
        model[1].weight.data = torch.ones(64, 64)
        return (DATA.bfloat16().requires_grad_() @ cast).float().square().sum()


@pytest.mark.usefixtures("compared")
@pytest.mark.parametrize("case", [cast_before, cached_cast, other_memory])
def test_a_copy_of_what_a_parameter_was_is_never_taken_for_what_it_is(
    case: Callable[..., Tensor],
) -> None:
    def run(plain: bool) -> tuple[Tensor, Offload]:
        model = model_of()
        context = offload(model, min_bytes=0)
        if plain:
            loss = case(model, lambda: torch.autograd.graph.saved_tensors_hooks(_same, _same))
        else:
            loss = case(model, lambda: context)
        return gradients(model[1], loss + 0 * model[1].bias.sum())[0], context

    (found, context), (wanted, _) = run(plain=False), run(plain=True)
    assert torch.equal(found, wanted)
    assert "downcast" not in context.ledger.rebuilt


def _same(tensor: Tensor) -> Tensor:
    return tensor


def test_memory_exchanged_before_backward_raises() -> None:
    model = model_of()
    with offload(model):
        loss = loss_of(model)
    model[1].weight.data = torch.zeros(64, 64)
    with pytest.raises(RuntimeError, match="lies in other memory now than when it was read"):
        loss.backward()


@pytest.mark.usefixtures("compared")
@pytest.mark.parametrize("reentrant", [False, True])
def test_with_checkpoints_that_cast_again(reentrant: bool) -> None:
    model = model_of()
    x = DATA.clone().requires_grad_()

    def forward() -> Tensor:
        hidden = x
        for layer in model:
            hidden = checkpoint(layer, hidden, use_reentrant=reentrant)
        return hidden

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return (model(forward().float()) + forward()).float().square().mean()

    loss().backward()
    leaves = [x, *model.parameters()]
    wanted = [leaf.grad for leaf in leaves if leaf.grad is not None]
    for leaf in leaves:
        leaf.grad = None
    offloaded = offload(model, min_bytes=0)
    with offloaded:
        again = loss()
    assert offloaded.ledger.rebuilt["downcast"].saves
    again.backward()
    assert_equal([leaf.grad for leaf in leaves if leaf.grad is not None], wanted)


@pytest.mark.usefixtures("compared")
def test_whatever_is_cheap_of_a_parameter() -> None:
    model = model_of()
    weight = model[0].weight

    def loss() -> Tensor:
        turned, low = weight.t().contiguous(), weight.clamp(min=0)
        wide, part = weight[:32].double(), weight.half().t()
        return sum((t.sin() * t).float().sum() for t in (turned, low, wide, part))  # type: ignore[return-value]

    wanted = torch.autograd.grad(loss(), weight)
    offloaded = offload(model)
    with offloaded:
        found = loss()
    assert {"contiguous", "clamp", "upcast", "downcast"} <= set(offloaded.ledger.rebuilt)
    assert torch.equal(torch.autograd.grad(found, weight)[0], wanted[0])
