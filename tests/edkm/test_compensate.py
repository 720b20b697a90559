"""Compensated rounding: closer outputs than rounding alone, and nearest centroids that give it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import edkm
from edkm.codebook import Codebook
from edkm.compensate import compensate, compensated
from edkm.dkm import assign_hard


def correlated(rows: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    mix = torch.randn(width, width, generator=generator) + 2 * torch.ones(width, width)
    return torch.randn(rows, width, generator=generator) @ mix


def test_outputs_come_closer_than_by_rounding_alone() -> None:
    x, weight = correlated(200, 24), torch.randn(16, 24)
    codebook = Codebook()
    codebook.start(weight)
    moved = compensated(weight, (x.T @ x).double(), codebook.centroids)

    def error(candidate: Tensor) -> float:
        return float((x @ (assign_hard(candidate, codebook.centroids) - weight).T).norm())

    assert error(moved) < 0.6 * error(weight)


def test_inputs_without_correlation_leave_rounding_as_it_is() -> None:
    weight = torch.randn(16, 24, generator=torch.Generator().manual_seed(1))
    codebook = Codebook()
    codebook.start(weight)
    moved = compensated(weight, torch.eye(24, dtype=torch.float64), codebook.centroids)
    assert torch.equal(moved, weight)


def test_a_model_is_done_layer_by_layer() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 8))
    x = correlated(300, 24)
    wanted = model(x)
    clustering = edkm.cluster(model, bits=2)
    clustering.start()
    plain = float((model.eval()(x) - wanted).norm().detach())
    model.train()
    assert compensate(clustering, [{"input": x[:200]}]) == ["0.weight", "2.weight"]
    assert model.training
    assert float((model.eval()(x) - wanted).norm().detach()) < 0.8 * plain
    with pytest.raises(ValueError, match="no batches"):
        compensate(clustering, [])


def test_codebooks_that_weigh_are_fitted_to_the_inputs_first() -> None:
    torch.manual_seed(3)
    x = torch.randn(256, 24)
    x[:, 3] *= 30  # one input matters more than all others: its weights need centroids
    plain, weighed = nn.Sequential(nn.Linear(24, 32)), nn.Sequential(nn.Linear(24, 32))
    with torch.no_grad():
        plain[0].weight[:, 3] *= 3
    weighed.load_state_dict(plain.state_dict())
    wanted = plain(x).detach()

    def error(model: nn.Module, importance: bool) -> float:
        clustering = edkm.cluster(model, bits=2, importance=importance)
        clustering.start()
        compensate(clustering, [{"input": x}])
        return float((model.eval()(x) - wanted).norm().detach())

    assert error(weighed, True) < 0.7 * error(plain, False)


def test_layers_of_one_input_share_its_statistics() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(4)
            self.one, self.two, self.after = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 8)

        def forward(self, input: Tensor) -> Tensor:
            out: Tensor = self.after(self.one(input) * self.two(input))
            return out

    model, x, passes = Parallel(), correlated(100, 24), []
    clustering = edkm.cluster(model, bits=2, importance=True)
    clustering.start()
    model.register_forward_pre_hook(lambda module, inputs: passes.append(1))
    names = ["one.weight", "two.weight", "after.weight"]
    assert compensate(clustering, [{"input": x}]) == names
    assert len(passes) == 1 + 2  # the order, then one for both layers of x, one for the third
    one, two = (clustering.weights[name].codebook.importance for name in names[:2])
    assert one is not None and two is not None and torch.equal(one, two)
