"""Random programs under offloading, whatever is switched on: autograd's gradients, or its error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edkm.saved import few_values, marshal, narrow, offload
from edkm.saved.replay import KINDS
from tests.edkm.saved.programs import OPERATIONS, Pool, Step, perform, total

STEPS = st.lists(
    st.tuples(
        st.integers(0, len(OPERATIONS) - 1),
        st.integers(0, 5),
        st.integers(0, 30),
        st.integers(0, 59),
    ),
    min_size=1,
    max_size=24,
)
SETTINGS = st.fixed_dictionaries(
    {
        "min_bytes": st.sampled_from([0, 0, 64, 300]),
        "uniquify": st.booleans(),
        "shard": st.sampled_from([None, None, 2, 3]),
        "rebuild": st.sampled_from([KINDS, KINDS, ("view",), (), ("upcast",), ("contiguous",)]),
        "hops": st.sampled_from([4, 4, 0, 1, 7]),
        "hold": st.booleans(),
        "host_budget": st.sampled_from([None, None, 2000]),
        "device_budget": st.sampled_from([None, None, 0, 3000]),
    }
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(12, 8)])
        self.scale = nn.Parameter(torch.rand(8))
        self.register_buffer("table", torch.randn(8))


@dataclass
class Outcome:
    """Gradients by every leaf and parameter, or the error of backward; what torch refused."""

    gradients: list[Tensor | None]
    error: RuntimeError | None
    refused: list[int]


def run(steps: list[Step], chosen: dict[str, Any] | None, mode: str, seed: int) -> Outcome:
    """Forward under the settings (None: plain autograd) and backward outside."""
    torch.manual_seed(seed)
    model = Model()
    leaves = [
        torch.randn(12, 8, requires_grad=True),
        torch.randn(8, 8).bfloat16().requires_grad_(),
        torch.randn(4, 8, dtype=torch.complex64, requires_grad=True),
    ]

    def context() -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if chosen is None else offload(model, **chosen)

    outer = context()

    def inner(number: int) -> AbstractContextManager[Any]:
        kinds: tuple[Callable[[], AbstractContextManager[Any]], ...]
        kinds = (context, lambda: outer, torch.autograd.graph.save_on_cpu)
        return kinds[number % 3]()

    twins = [torch.randn(12, 8), leaves[0] * 1.5, leaves[1].float() * 0.5]
    pool = Pool([*leaves, *twins], model, inner)
    wanted = [*leaves, *model.parameters()]
    outcome = Outcome([], None, [])
    try:
        with outer:
            outcome.refused = perform(steps, pool)
            loss = total(pool.tensors)
        if mode == "again":
            outcome.gradients += grads(loss, wanted, retain_graph=True)
        if mode == "partial":
            middle = [t for t in pool.tensors[6:8] if t.requires_grad]
            outcome.gradients += grads(loss, middle, retain_graph=True) if middle else []
        if mode == "double":
            first = grads(loss, wanted, create_graph=True)
            outcome.gradients += first
            loss = total([g for g in first if g is not None])
        if loss.requires_grad:
            outcome.gradients += grads(loss, wanted)
    except RuntimeError as error:
        outcome.error = error
    return outcome


def grads(loss: Tensor, wanted: list[Tensor], **settings: bool) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, wanted, allow_unused=True, **settings))


def same(one: Tensor | None, other: Tensor | None) -> bool:
    """Equal, NaN to NaN."""
    if one is None or other is None:
        return one is other
    one, other = (
        torch.view_as_real(t.detach().resolve_conj()) if t.is_complex() else t.detach()
        for t in (one, other)
    )
    nan = one.isnan()
    equal = torch.equal(one.masked_fill(nan, 0), other.masked_fill(nan, 0))
    return torch.equal(nan, other.isnan()) and equal


@pytest.mark.filterwarnings("ignore")  # what random programs do, torch may warn of
@pytest.mark.parametrize("trusted", [False, True])
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=STEPS,
    chosen=SETTINGS,
    mode=st.sampled_from(["once", "again", "partial", "double"]),
    seed=st.integers(0, 99),
)
def test_the_gradients_are_those_of_autograd(
    trusted: bool, steps: list[Step], chosen: dict[str, Any], mode: str, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few_values, "_SAMPLE", 16)
        if trusted:  # as on CUDA, where nothing that is rebuilt is compared first
            patch.setattr(marshal, "_agrees", lambda recipe, tensor: True)
            patch.setattr(narrow, "same_bits", lambda one, other: True)
        plain, ours = run(steps, None, mode, seed), run(steps, chosen, mode, seed)
    assert plain.refused == ours.refused
    assert (plain.error is None) == (ours.error is None), (plain.error, ours.error)
    if plain.error is None:
        assert all(map(same, plain.gradients, ours.gradients))
        assert len(plain.gradients) == len(ours.gradients)
