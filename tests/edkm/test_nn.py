"""Clustered layers: the gradients of clustering then multiplying, without keeping W~."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from edkm.dkm import DKM, DKMConfig, assign_hard
from edkm.nn import ClusteredLinear, cluster_linears


def layer_of(dtype: torch.dtype, dim: int = 1, **settings: object) -> ClusteredLinear:
    torch.manual_seed(0)
    linear = nn.Linear(160, 144, dtype=dtype)
    return ClusteredLinear.from_linear(linear, DKMConfig(dim=dim, iterations=2, **settings))


@pytest.mark.parametrize(
    ("dtype", "dim"),
    [(torch.bfloat16, 1), (torch.float16, 1), (torch.float64, 1), (torch.bfloat16, 2)],
)
@pytest.mark.parametrize("shape", [(5, 160), (2, 3, 160), (160,)])
def test_equals_clustering_then_multiplying(
    dtype: torch.dtype, dim: int, shape: tuple[int, ...]
) -> None:
    layer = layer_of(dtype, dim)
    twin = copy.deepcopy(layer.dkm)
    x = torch.randn(shape, dtype=torch.float64).to(dtype)
    results = []
    for run in (
        lambda x: layer(x),
        lambda x: F.linear(x, twin(layer.weight), layer.bias),
    ):
        held = x.clone().requires_grad_()
        out = run(held)
        grads = torch.autograd.grad(out.square().sum(), (held, layer.weight, layer.bias))
        results.append((out.detach(), *grads))
    assert torch.equal(layer.dkm.centroids, twin.centroids)
    for got, expected in zip(*results, strict=True):
        apart = (got.double() - expected.double()).norm() / expected.double().norm()
        assert float(apart) <= 2 * torch.finfo(dtype).eps


def saved_by(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    saves: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saves.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return saves


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_keeps_no_second_weight(dtype: torch.dtype) -> None:
    layer = layer_of(dtype)
    x = torch.randn(7, 160).to(dtype).requires_grad_()
    known = {t.untyped_storage().data_ptr() for t in (x, layer.weight)}
    saves = saved_by(layer, x)
    others = [s for s in saves if s.untyped_storage().data_ptr() not in known]
    assert len(saves) - len(others) == 2
    assert sum(s.nbytes for s in others) < 1 << 20
    assert all(s.shape != layer.weight.shape for s in others)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 160), (0, 160), (160,)])
def test_what_it_gives_may_be_written_to_and_follows_autocast(
    bias: bool, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(160, 144, bias=bias, dtype=torch.bfloat16)
    layer = ClusteredLinear.from_linear(linear, DKMConfig(form="fused"))
    weight = copy.deepcopy(layer.dkm)(linear.weight).detach()
    x = torch.randn(shape)
    plain = F.linear(x.bfloat16(), weight, linear.bias)
    assert torch.equal(layer(x.bfloat16()).relu_(), plain.relu())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), plain)
    with pytest.raises(RuntimeError, match="dtype"):
        layer(x)


def test_eval_multiplies_by_the_nearest_centroids() -> None:
    layer = layer_of(torch.bfloat16, bits=2)
    x = torch.randn(3, 160).bfloat16()
    layer(x)
    layer.eval()
    hard = layer.hard_weight()
    assert torch.equal(hard, assign_hard(layer.weight, layer.dkm.centroids))
    assert len(hard.unique()) <= 4
    assert torch.equal(layer(x), F.linear(x, hard, layer.bias))


def test_from_linear_shares_parameters() -> None:
    linear = nn.Linear(8, 8, bias=False)
    layer = ClusteredLinear.from_linear(linear.eval(), DKMConfig(bits=2))
    assert layer.weight is linear.weight and layer.bias is None and not layer.training
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_only_what_needs_a_gradient_gets_one() -> None:
    layer = layer_of(torch.bfloat16)
    layer.weight.requires_grad_(False)
    x = torch.randn(3, 160).bfloat16().requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias.grad is not None


def test_state_dict_round_trip() -> None:
    layer = layer_of(torch.bfloat16)
    x = torch.randn(3, 160).bfloat16()
    layer(x)
    twin = ClusteredLinear(160, 144, config=layer.dkm.config, dtype=torch.bfloat16)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin.eval()(x), layer.eval()(x))


def test_training_lowers_the_loss_and_the_gap() -> None:
    torch.manual_seed(0)
    layer = ClusteredLinear(32, 32, bias=False, config=DKMConfig(bits=3), dtype=torch.float32)
    x, target = torch.randn(64, 32), torch.randn(64, 32)
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        layer.dkm.tau_factor = 1.0 - step / 50
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    hard = float((layer.eval()(x) - target).square().mean().detach())
    assert hard < losses[0]


def test_replaces_linears_by_name() -> None:
    model = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
    )
    names = cluster_linears(model, DKMConfig(bits=1), where=lambda name, layer: name != "0")
    assert names == ["2.0", "2.1"]
    assert type(model[0]) is nn.Linear and type(model[2][1]) is ClusteredLinear
    model(torch.randn(2, 8)).sum().backward()
    with pytest.raises(ValueError, match=r"model Sequential has no nn.Linear submodule"):
        cluster_linears(nn.Sequential(nn.ReLU()))


def test_dkm_is_a_parametrization() -> None:
    embedding = nn.Embedding(64, 48, dtype=torch.bfloat16)
    parametrize.register_parametrization(embedding, "weight", DKM(DKMConfig(bits=2)))
    embedding(torch.tensor([1, 5])).sum().backward()
    original = embedding.parametrizations.weight.original
    assert original.grad is not None and bool(original.grad.abs().sum() > 0)
    assert len(embedding.eval().weight.unique()) <= 4
