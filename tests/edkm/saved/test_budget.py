"""Budgets: what a plan keeps, and that limits hold over real steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from edkm.saved import offload
from edkm.saved.budget import Budget, Group, Key, Plan, make_plan


def groups() -> list[Group]:
    return [
        Group(0, [("a", 0)], {1: 100}, host_bytes=100),
        Group(1, [("a", 1), ("b", 0)], {2: 400, 3: 200}, host_bytes=200),  # a twin: half
        Group(2, [("b", 1)], {4: 100}, host_bytes=100),
    ]


@pytest.mark.parametrize(
    ("device", "host", "kept", "stays", "held"),
    [
        (None, None, [], 0, 400),
        (800, None, [("a", 0), ("a", 1), ("b", 0), ("b", 1)], 800, 0),
        (200, None, [("a", 0), ("b", 1)], 200, 200),  # most freed per byte moved
        (150, None, [("b", 1)], 100, 300),  # among equals the earliest
        (0, 250, [("a", 0), ("b", 1)], 200, 200),
        (0, 100, [("a", 1), ("b", 0), ("b", 1)], 700, 100),  # what does not fit is passed over
    ],
)
def test_a_plan_offloads_by_bytes_freed_per_byte_moved(
    device: int | None, host: int | None, kept: list[Key], stays: int, held: int
) -> None:
    plan = make_plan(groups(), Budget(device, host))
    assert plan == Plan(frozenset(kept), stays, held)


def test_a_device_budget_is_met_from_the_second_step_on(small: SimpleNamespace) -> None:
    model, data = small.model(torch.bfloat16), small.data(torch.bfloat16)
    wanted = small.grads(model, lambda m: m(data).float().square().mean())
    budget = 40_000
    offloaded = offload(model, device_budget=budget)
    held = []
    for _ in range(3):
        model.zero_grad()
        with offloaded:
            loss = model(data).float().square().mean()
        held.append(offloaded.ledger.host_bytes)
        loss.backward()
        small.assert_equal([p.grad for p in model.parameters()], wanted)
    assert held[1] == held[2] < held[0]
    plan = offloaded.planner.plan
    assert plan is not None and plan.device_bytes <= budget and plan.host_bytes == held[1]


def test_a_host_budget_is_never_exceeded(small: SimpleNamespace) -> None:
    model, data = small.model(), small.data()
    wanted = small.grads(model, lambda m: m(data).square().mean())
    for budget in (0, 10_000, 100_000):
        offloaded = offload(model, host_budget=budget)
        for _ in range(2):
            model.zero_grad()
            with offloaded:
                loss = model(data).square().mean()
            assert offloaded.ledger.host_bytes <= budget
            loss.backward()
            small.assert_equal([p.grad for p in model.parameters()], wanted)
        assert offloaded.ledger.host_peak_bytes <= budget


def test_budgets_that_contradict_each_other_are_said_to(small: SimpleNamespace) -> None:
    model, data = small.model(), small.data()
    offloaded = offload(model, device_budget=1000, host_budget=20_000)
    with pytest.warns(UserWarning, match="device_budget=1000 cannot be met"), offloaded:
        loss = model(data).square().mean()
    loss.backward()
