"""The fused form: exact against float64, saves next to nothing, a well-behaved operator."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from edkm.dkm import (
    default_tau,
    dense_dkm,
    fused_dkm,
    gradient_reference,
    initial_centroids,
)
from edkm.dkm import fused as fused_module
from edkm.dkm.patterns import PATTERNS, pattern_counts, pattern_index
from edkm.dkm.settings import Rule
from edkm.dkm.table import occupied_points, table_backward, table_forward

EPS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # half of one last bit, relative


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    size = float(expected.double().norm())
    return float((got.double() - expected.double()).norm()) / (size or 1.0)


def weights_of(kind: str, shape: tuple[int, int], dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator) * 0.02
    if kind == "repeated":
        normal = normal[:1, :1] * torch.randint(-2, 3, shape, generator=generator)
    elif kind == "single":
        normal = torch.full(shape, 0.03)
    elif kind == "zeros":
        normal = normal * torch.randint(0, 2, shape, generator=generator)
        normal[0] = -0.0
    elif kind == "subnormal":
        normal = normal * torch.finfo(dtype).tiny
        normal[0, 0] = 1e-3
    return normal.to(dtype)


kinds = st.sampled_from(["normal", "repeated", "single", "zeros", "subnormal"])


@settings(max_examples=80)
@given(
    kind=kinds,
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    bits=st.integers(1, 8),
    softness=st.sampled_from([1e-2, 1.0, 1e2]),
    iterations=st.sampled_from([1, 2, 4]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    distance=st.sampled_from(["squared", "euclidean"]),
    seed=st.integers(0, 99),
)
def test_float64_tables_equal_the_dense_gradient(
    kind: str,
    rows: int,
    columns: int,
    bits: int,
    softness: float,
    iterations: int,
    dtype: torch.dtype,
    distance: str,
    seed: int,
) -> None:
    weight = weights_of(kind, (rows, columns), dtype, seed)
    clusters = min(2**bits, weight.numel())
    tau = softness * default_tau(weight, clusters, distance=distance)
    start = initial_centroids(weight, clusters, seed=seed).double()
    grad = weights_of("normal", (rows, columns), dtype, seed + 1).double()

    counts = pattern_counts(weight)
    rule = Rule(tau, distance == "squared")
    table, path = table_forward(counts, dtype, start, rule, iterations, None)
    index = pattern_index(weight.view(-1))
    sums = torch.bincount(index, weights=grad.view(-1), minlength=PATTERNS)
    slope, shift = table_backward(occupied_points(counts, dtype), sums, path, rule)
    pulled = grad * slope[index].view(rows, columns) + shift[index].view(rows, columns)

    wide = weight.double().requires_grad_()
    dense = dense_dkm(wide, start, tau=tau, iterations=iterations, distance=distance)
    (expected,) = torch.autograd.grad(dense.clustered, wide, grad)
    # against the size of what is averaged: symmetric weights may average to almost nothing. A
    # hard tau multiplies the last bits from one update to the next: 2e-12 seen after four
    size = float(weight.double().abs().max()) * 1e-10
    soft = dense.clustered.detach()
    torch.testing.assert_close(table[index].view(rows, columns), soft, rtol=1e-10, atol=size)
    torch.testing.assert_close(path.states[-1, 0], dense.centroids, rtol=1e-10, atol=size)
    if kind == "single" and distance == "euclidean":
        return  # centroids meet the weight but for rounding: at the kink of |x - c|
    # likewise: the gradient's terms of a single-valued weight cancel to nothing
    scale = max(float(expected.norm()), 1e-4 * float(grad.norm()))
    assert float((pulled - expected).norm()) < 1e-6 * scale


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_at_the_rounding_of_the_dtype(dtype: torch.dtype, iterations: int) -> None:
    weight = weights_of("normal", (300, 200), dtype, 0).requires_grad_()
    grad = weights_of("normal", (300, 200), dtype, 1)
    tau, start = default_tau(weight, 8), initial_centroids(weight, 8)
    result = fused_dkm(weight, start, tau=tau, iterations=iterations)
    (pulled,) = torch.autograd.grad(result.clustered, weight, grad)
    reference = gradient_reference(
        weight, start, grad, tau=tau, iterations=iterations, with_clustered=True
    )
    assert result.form == "fused" and result.iterations == iterations
    # correctly rounded, element by element
    assert torch.equal(result.clustered, reference.clustered.to(dtype))
    assert relative(pulled, reference.grad_weight) < EPS[dtype]
    torch.testing.assert_close(result.centroids, reference.centroids, rtol=1e-12, atol=0)


@pytest.mark.parametrize("eps", [0.0, 1e-3, 1.0])
def test_convergence_stops_where_dense_does(eps: float) -> None:
    weight = weights_of("normal", (200, 100), torch.bfloat16, 0).requires_grad_()
    grad = weights_of("normal", (200, 100), torch.bfloat16, 1)
    start, tau = initial_centroids(weight, 8).double(), default_tau(weight, 8)
    result = fused_dkm(weight, start, tau=tau, max_iter=7, eps=eps)
    wide = weight.detach().double().requires_grad_()
    dense = dense_dkm(wide, start, tau=tau, max_iter=7, eps=eps)
    assert result.iterations == dense.iterations
    (pulled,) = torch.autograd.grad(result.clustered, weight, grad)
    (expected,) = torch.autograd.grad(dense.clustered, wide, grad.double())
    assert relative(pulled, expected) < EPS[torch.bfloat16]


def saved_by(weight: torch.Tensor, iterations: int) -> list[torch.Tensor]:
    saves: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saves.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fused_dkm(weight, initial_centroids(weight, 8), tau=1e-5, iterations=iterations)
    return saves


@pytest.mark.parametrize("iterations", [1, 10])
def test_saves_the_weight_by_reference_and_under_a_mebibyte(iterations: int) -> None:
    weight = weights_of("normal", (512, 2048), torch.bfloat16, 0).requires_grad_()
    saves = saved_by(weight, iterations)
    storage = weight.untyped_storage().data_ptr()
    others = [s for s in saves if s.untyped_storage().data_ptr() != storage]
    assert len(others) == len(saves) - 1
    assert sum(save.nbytes for save in others) < 1 << 20


def test_transposed_weight_gets_its_own_gradient() -> None:
    base = weights_of("normal", (60, 80), torch.bfloat16, 0)
    grad = weights_of("normal", (80, 60), torch.bfloat16, 1)
    start, results = initial_centroids(base, 8), []
    for weight in (base.T.requires_grad_(), base.T.contiguous().requires_grad_()):
        out = fused_dkm(weight, start, tau=1e-5, iterations=2).clustered
        results.append((out, *torch.autograd.grad(out, weight, grad)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_mutation_between_forward_and_backward_raises() -> None:
    weight = weights_of("normal", (40, 40), torch.bfloat16, 0).requires_grad_()
    out = fused_dkm(weight, initial_centroids(weight, 4), tau=1e-5, iterations=1).clustered
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def arguments(steps: int = 2) -> tuple[object, ...]:
    weight = weights_of("normal", (24, 40), torch.bfloat16, 0).requires_grad_()
    return weight, initial_centroids(weight, 4).double(), 1e-5, True, steps, -1.0


@pytest.mark.parametrize("steps", [1, 3])
def test_opcheck(steps: int) -> None:
    torch.library.opcheck(fused_module._forward, arguments(steps))


def test_fake_tensors_pass_through() -> None:
    with FakeTensorMode():
        weight = torch.empty(128, 256, dtype=torch.bfloat16, requires_grad=True)
        result = fused_dkm(weight, torch.empty(8, 1), tau=1e-5)
        result.clustered.sum().backward()
        assert result.clustered.shape == weight.shape and weight.grad.shape == weight.shape
        assert result.centroids.shape == (8, 1)


COMPILED = """
import torch
from edkm.dkm import fused_dkm, initial_centroids, streaming_dkm

def losses(form, dtype):
    values = (torch.randn(32, 64, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
    start = initial_centroids(values, 8)

    def loss(weight):
        clustered = form(weight * 1.5, start, tau=1e-5, iterations=2).clustered
        return (clustered.float() ** 2).sum()

    for run in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        weight = values.clone().requires_grad_()
        run(weight).backward()
        yield weight.grad

assert torch.equal(*losses(fused_dkm, torch.bfloat16))
assert torch.equal(*losses(streaming_dkm, torch.float32))
"""


def test_compiled_equals_eager() -> None:
    # In a process of its own: the compiler cannot trace the tests' run-time type checks.
    run = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_refuses_weights_that_are_not_finite(value: str) -> None:
    weight = torch.ones(30, 30, dtype=torch.bfloat16)
    weight[3, 4] = float(value)
    with pytest.raises(ValueError, match="weight holds 1 NaN or infinite values"):
        fused_dkm(weight, torch.tensor([[0.0], [1.0]]), tau=0.1)


@pytest.mark.parametrize(
    ("weight", "centroids", "message"),
    [
        (torch.ones(9), torch.ones(2, 1), "weight has dtype torch.float32; the fused form needs"),
        (torch.ones(8).half(), torch.ones(2, 2), r"centroids has shape \(2, 2\)"),
        (torch.ones(1).half(), torch.ones(2, 1), "fewer than the 2 clusters"),
        (torch.ones(8).half(), torch.full((2, 1), float("nan")), "centroids holds NaN"),
    ],
)
def test_refuses(weight: torch.Tensor, centroids: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fused_dkm(weight, centroids, tau=0.1)
