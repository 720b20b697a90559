"""The fused form in parts: together they are the fused form, and well-behaved operators."""

from __future__ import annotations

import pytest
import torch

from edkm.dkm import fused_dkm, initial_centroids, layer_ops


def make(seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(48, 40, generator=generator).mul(0.02).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_parts_make_the_fused_form(dtype: torch.dtype) -> None:
    weight, grad = make(0, dtype), make(1, dtype)
    start = initial_centroids(weight, 8)
    whole = fused_dkm(weight.requires_grad_(), start, tau=1e-5, iterations=3)
    (expected,) = torch.autograd.grad(whole.clustered, weight, grad)

    weight = weight.detach()
    table, *path = layer_ops.clustering_table(weight, start.double(), 1e-5, True, 3, -1.0)
    out = torch.empty_like(weight)
    for rows in (slice(0, 7), slice(7, 48)):
        layer_ops.look_up_(weight[rows], table, out[rows])
    layer_ops.pull_(grad, weight, *path, 1e-5, True)
    assert torch.equal(out, whole.clustered.detach())
    assert torch.equal(grad, expected)


def test_opcheck() -> None:
    weight, grad = make(0), make(1)
    start = initial_centroids(weight, 4).double()
    arguments = (weight, start, 1e-5, True, 2, -1.0)
    torch.library.opcheck(layer_ops.clustering_table, arguments)
    table, *path = layer_ops.clustering_table(*arguments)
    torch.library.opcheck(layer_ops.look_up_, (weight, table, torch.empty_like(weight)))
    torch.library.opcheck(layer_ops.pull_, (grad, weight, *path, 1e-5, True))


def test_autograd_can_tell_that_they_wrote() -> None:
    weight, grad = make(0), make(1)
    start = initial_centroids(weight, 4).double()
    table, *path = layer_ops.clustering_table(weight, start, 1e-5, True, 2, -1.0)
    out = torch.empty_like(weight)
    layer_ops.look_up_(weight, table, out)
    layer_ops.pull_(grad, weight, *path, 1e-5, True)
    assert (weight._version, out._version, grad._version) == (0, 1, 1)
