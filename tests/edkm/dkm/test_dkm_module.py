"""The module around DKM: soft in training, hard in eval, warm-started, saved and loaded."""

from __future__ import annotations

import io

import pytest
import torch

from edkm.dkm import DKM, DKMConfig, assign_hard


def make_weight(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(32, 24, generator=generator).mul(0.02).bfloat16()


@pytest.mark.parametrize("bits", range(1, 9))
def test_eval_gives_at_most_two_to_the_bits_values(bits: int) -> None:
    weight = make_weight()
    module = DKM(DKMConfig(bits=bits)).eval()
    out = module(weight)
    assert out.dtype == weight.dtype and out.shape == weight.shape
    assert len(out.unique()) <= 2**bits
    assert torch.equal(out, assign_hard(weight, module.centroids))


def test_training_is_soft_differentiable_and_moves_the_centroids() -> None:
    weight = make_weight().requires_grad_()
    module = DKM(DKMConfig(bits=2, iterations=1))
    module.start(weight)
    before = module.centroids.clone()
    out = module(weight)
    out.float().square().sum().backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    assert len(out.unique()) > 4
    assert not torch.equal(before, module.centroids)


def test_centroids_advance_once_per_change_of_the_weight() -> None:
    weight = torch.nn.Parameter(make_weight())
    module = DKM(DKMConfig(bits=2, iterations=1))
    first = module(weight)
    after = module.centroids.clone()
    assert torch.equal(module(weight), first)  # recomputation sees the same values
    assert torch.equal(module.centroids, after)
    with torch.no_grad():
        weight.mul_(1.01)
    module(weight)
    assert not torch.equal(module.centroids, after)


def test_warm_start_settles_to_a_fixed_point() -> None:
    weight = torch.nn.Parameter(make_weight())
    module = DKM(DKMConfig(bits=2, iterations=1))
    for _ in range(60):
        with torch.no_grad():
            weight.add_(0)  # a step that changes nothing but the version
        module(weight)
    before = module.centroids.clone()
    with torch.no_grad():
        weight.add_(0)
    module(weight)
    torch.testing.assert_close(module.centroids, before, rtol=0, atol=2e-4)


def test_state_dict_round_trip() -> None:
    weight = make_weight()
    module = DKM(DKMConfig(bits=3))
    module(weight)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    twin = DKM(DKMConfig(bits=3))
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(twin.centroids, module.centroids) and twin.tau == module.tau
    later = weight * 1.01
    assert torch.equal(twin(later), module(later))
    assert torch.equal(twin.eval()(weight), module.eval()(weight))


def test_tau_factor_hardens() -> None:
    weight = make_weight()
    gaps = []
    for factor in (4.0, 1.0, 0.1):
        module = DKM(DKMConfig(bits=2, iterations=60))
        module.tau_factor = factor
        out = module(weight)
        gaps.append(float((out - assign_hard(weight, module.centroids)).float().norm()))
    assert gaps == sorted(gaps, reverse=True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("bits", 0, r"bits is 0; it must be from 1 to 8"),
        ("bits", 9, r"bits is 9; it must be from 1 to 8"),
        ("dim", 0, r"dim is 0; it must be at least 1"),
        ("tau", 0.0, r"tau is 0.0"),
        ("tau_multiple", float("inf"), r"tau_multiple is inf"),
        ("iterations", 0, r"iterations is 0"),
        ("max_iter", 0, r"max_iter is 0"),
        ("eps", float("nan"), r"eps is nan"),
        ("distance", "cosine", r"distance is 'cosine'; it must be one of squared, euclidean"),
        ("init", "random", r"init is 'random'; it must be one of kmeans\+\+, quantile"),
        ("seed", -1, r"seed is -1"),
    ],
)
def test_config_refuses(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DKMConfig(**{field: value})


def test_config_refuses_quantiles_of_vectors() -> None:
    with pytest.raises(ValueError, match="init is 'quantile' with dim=2"):
        DKMConfig(dim=2, init="quantile")


def test_a_used_module_can_be_pickled_whole() -> None:
    weight = make_weight()
    module = DKM(DKMConfig(bits=2))
    module(weight)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    later = weight * 1.01
    assert torch.equal(twin(later), module(later))


def test_loading_forgets_the_temperature_of_before() -> None:
    one, other = DKM(DKMConfig(bits=2)), DKM(DKMConfig(bits=2))
    one(make_weight())
    other(make_weight() * 2)
    one.load_state_dict(other.state_dict())
    assert one.temperature == float(other.tau)
