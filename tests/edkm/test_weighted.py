"""DKM with importance and scales against a dense graph of autograd's own, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edkm.dkm.settings import Schedule
from edkm.weighted import weighted_linear, weighted_soft

TAU = 0.02


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(
    weight: Tensor, centroids: Tensor, importance: Tensor | None, scale: Tensor | None, steps: int
) -> tuple[Tensor, Tensor]:
    """(W~, last centroids), every map kept by autograd."""
    counts = torch.ones_like(weight) if importance is None else importance.expand(weight.shape)
    by = torch.ones(len(weight), 1).double() if scale is None else scale.unsqueeze(1)
    x, counts = (weight / by).reshape(-1, 1), (counts * by.square()).reshape(-1, 1)
    c = centroids
    for _ in range(steps):
        a = torch.softmax(-(x - c.T).square() / TAU, dim=1).clamp(min=1e-7)
        before, c = c, ((counts * a).T @ x) / (counts * a).sum(0).unsqueeze(1)
    a = torch.softmax(-(x - before.T).square() / TAU, dim=1).clamp(min=1e-7)
    return (a @ c).view(weight.shape) * by, c


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("weighs", [True, False])
@pytest.mark.parametrize("scales", [True, False])
def test_values_and_gradients_are_those_of_the_dense_graph(
    weighs: bool, scales: bool, steps: int
) -> None:
    importance = drawn(12, seed=1).exp() if weighs else None
    scale = drawn(9, seed=2).mul(0.3).exp() if scales else None
    centroids = torch.linspace(-2, 2, 8, dtype=torch.float64).unsqueeze(1)
    leaves = [drawn(5, 12, seed=3), drawn(9, 12, seed=4), drawn(9, seed=5)]
    ours = [leaf.clone().requires_grad_() for leaf in leaves]
    theirs = [leaf.clone().requires_grad_() for leaf in leaves]
    schedule = Schedule(tau=TAU, iterations=steps)
    out, last = weighted_linear(*ours, centroids, importance, scale, schedule)
    clustered, expected_last = dense(theirs[1], centroids, importance, scale, steps)
    expected = theirs[0] @ clustered.T + theirs[2]
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(last, expected_last, rtol=1e-10, atol=1e-12)
    soft = weighted_soft(leaves[1], centroids, importance, scale, schedule)
    torch.testing.assert_close(soft, clustered.detach(), rtol=1e-10, atol=1e-12)
    upstream = drawn(5, 9, seed=6)
    out.backward(upstream)
    expected.backward(upstream)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighs", [True, False])
@pytest.mark.parametrize("scales", [True, False])
def test_narrower_weights_have_the_gradients_of_float64(
    dtype: torch.dtype, weighs: bool, scales: bool
) -> None:
    importance = drawn(300, seed=1).exp().float() if weighs else None
    scale = drawn(40, seed=2).mul(0.3).exp().float() if scales else None
    centroids = torch.linspace(-2, 2, 8).unsqueeze(1)
    narrow = [drawn(5, 300, seed=3).to(dtype), drawn(40, 300, seed=4).to(dtype)]
    upstream = drawn(5, 40, seed=6).to(dtype)
    found = []
    for cast in (lambda t: t, lambda t: None if t is None else t.double()):
        leaves = [cast(t).clone().requires_grad_() for t in narrow]
        given = (cast(t) for t in (None, centroids, importance, scale))
        out, last = weighted_linear(*leaves, *given, Schedule(tau=TAU, iterations=2))
        out.backward(cast(upstream))
        found.append([out.detach(), last, *(leaf.grad for leaf in leaves)])
    for one, other in zip(*found, strict=True):
        apart = (one.double() - other).norm() / other.norm()
        assert apart < 2 * torch.finfo(one.dtype).eps + 1e-5  # products and W~ are rounded too


def test_nothing_of_the_weight_s_size_is_saved_but_the_weight() -> None:
    weight = torch.randn(64, 64, requires_grad=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        weighted_linear(
            torch.randn(2, 64), weight, None, torch.linspace(-2, 2, 8).unsqueeze(1),
            torch.rand(64), torch.rand(64) + 0.5, Schedule(tau=0.02, iterations=1),
        )  # fmt: skip
    large = [tensor for tensor in saved if tensor.numel() >= weight.numel()]
    assert len(large) == 1 and large[0].data_ptr() == weight.data_ptr()
