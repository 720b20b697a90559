"""The dense reference: its gradient, what it saves, when it stops, what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edkm.dkm import dense_dkm, gradient_reference, initial_centroids
from edkm.dkm.distance import euclidean_distance


def weight_of(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.02).to(dtype)


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("dim", [1, 2, 4])
def test_gradcheck(dim: int, iterations: int, distance: str) -> None:
    weight = (weight_of(3, 8) * 50).requires_grad_()  # unit scale: finite differences need it
    centroids = initial_centroids(weight, 3, dim) + 0.01
    assert torch.autograd.gradcheck(
        lambda w: (
            dense_dkm(w, centroids, tau=0.7, iterations=iterations, distance=distance).clustered
        ),
        weight,
    )


@pytest.mark.parametrize("dim", [1, 3])
def test_distance_gradcheck_in_both_arguments(dim: int) -> None:
    points, centroids = weight_of(7, dim) * 50, weight_of(4, dim, seed=1) * 50
    assert torch.autograd.gradcheck(
        euclidean_distance, (points.requires_grad_(), centroids.requires_grad_())
    )


def test_distance_zero_has_subgradient_zero() -> None:
    points = torch.tensor([[0.5], [2.0]], requires_grad=True)
    euclidean_distance(points, torch.tensor([[0.5], [1.0]]))[0, 0].backward()
    assert torch.equal(points.grad, torch.zeros(2, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_distance_is_the_rounded_exact_one(dtype: torch.dtype) -> None:
    points, centroids = weight_of(300, 2, dtype=dtype), weight_of(5, 2, dtype=dtype, seed=1)
    exact = torch.cdist(points.double(), centroids.double())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        euclidean_distance(points, centroids).double(), exact, rtol=2 * eps, atol=eps * 1e-4
    )


def test_distance_refuses_double_backward() -> None:
    points = weight_of(4, 1).requires_grad_()
    distance = euclidean_distance(points, weight_of(2, 1, seed=1))
    (grad,) = torch.autograd.grad(distance.square().sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def saves_of(weight: torch.Tensor, **settings: object) -> list[torch.Tensor]:
    saves: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saves.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        dense_dkm(weight, initial_centroids(weight, 8), tau=1e-5, **settings)
    return saves


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_iteration_saves_six_maps_and_two_weights(dtype: torch.dtype) -> None:
    weight = weight_of(64, 48, dtype=dtype).requires_grad_()
    n = weight.numel()
    saves = saves_of(weight, iterations=1)
    big = [tuple(save.shape) for save in saves if save.numel() >= n]
    assert big == [(n, 1), *[(n, 8)] * 5, (1, n), (n, 8)]
    assert sum(save.nbytes for save in saves if save.numel() < n) < 1024
    pointers = {save.data_ptr() for save in saves if save.numel() == n}
    assert pointers == {weight.data_ptr()}  # both are the weight itself, not copies of it


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
def test_float16_saves_what_bfloat16_does(distance: str) -> None:
    shapes = []
    for dtype in (torch.bfloat16, torch.float16):
        weight = weight_of(64, 48, dtype=dtype).requires_grad_()
        saves = saves_of(weight, iterations=2, distance=distance)
        shapes.append(sorted(save.numel() for save in saves if save.numel() >= weight.numel()))
    assert shapes[0] == shapes[1]


def test_each_further_iteration_saves_as_much_again_less_one_map() -> None:
    weight = weight_of(64, 48).requires_grad_()
    maps = [
        sum(save.numel() == 8 * weight.numel() for save in saves_of(weight, iterations=steps))
        for steps in (1, 2, 3)
    ]
    assert maps == [6, 11, 16]  # the second use of A, W~ = A C, happens once


@settings(deadline=None, max_examples=40)
@given(
    bits=st.integers(1, 5),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    dim=st.sampled_from([1, 2]),
    iterations=st.integers(1, 3),
    distance=st.sampled_from(["squared", "euclidean"]),
    scale=st.sampled_from([1e-3, 1.0]),
    seed=st.integers(0, 99),
)
def test_streamed_reference_equals_autograd(
    bits: int,
    rows: int,
    columns: int,
    dim: int,
    iterations: int,
    distance: str,
    scale: float,
    seed: int,
) -> None:
    clusters = min(2**bits, rows * columns)
    weight = (weight_of(rows, columns * dim, seed=seed) * 50 * scale).requires_grad_()
    grad = weight_of(rows, columns * dim, seed=seed + 1)
    centroids = initial_centroids(weight, clusters, dim) + 0.1 * scale
    tau = 0.3 * (scale**2 if distance == "squared" else scale)
    result = dense_dkm(weight, centroids, tau=tau, iterations=iterations, distance=distance)
    (expected,) = torch.autograd.grad(result.clustered, weight, grad)
    got = gradient_reference(
        weight,
        centroids,
        grad,
        tau=tau,
        iterations=iterations,
        distance=distance,
        with_clustered=True,
    )
    torch.testing.assert_close(got.grad_weight, expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(got.clustered, result.clustered.detach(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(got.centroids, result.centroids, rtol=1e-12, atol=1e-15)


def test_streamed_reference_joins_its_chunks() -> None:
    weight = weight_of(257, 300).requires_grad_()  # several tiles, the last one ragged
    grad = weight_of(257, 300, seed=1)
    centroids = initial_centroids(weight, 4)
    result = dense_dkm(weight, centroids, tau=1e-5, iterations=2)
    (expected,) = torch.autograd.grad(result.clustered, weight, grad)
    got = gradient_reference(weight, centroids, grad, tau=1e-5, iterations=2)
    assert (got.grad_weight - expected).norm() / expected.norm() < 1e-12


def test_transposed_and_strided_weights_get_their_own_gradient() -> None:
    base = weight_of(12, 10)
    grad = weight_of(10, 6, seed=1)
    picked = base.T[:, ::2]
    assert not picked.is_contiguous()
    centroids = initial_centroids(picked, 4, 2)
    results = []
    for weight in (picked.requires_grad_(), picked.detach().contiguous().requires_grad_()):
        out = dense_dkm(weight, centroids, tau=1e-4, iterations=2).clustered
        assert out.shape == weight.shape
        results.append((out, *torch.autograd.grad(out, weight, grad)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_convergence_stops_at_eps_and_at_max_iter() -> None:
    weight = weight_of(40, 40)
    far = initial_centroids(weight, 4) * 3
    run = [
        dense_dkm(weight, far, tau=1e-5, max_iter=most, eps=eps).iterations
        for most, eps in ((5, 1e9), (5, 0.0), (50, 1e-4))
    ]
    assert run[0] == 1 and run[1] == 5 and 1 < run[2] < 50
    settled = dense_dkm(weight, far, tau=1e-5, iterations=200).centroids
    again = dense_dkm(weight, settled, tau=1e-5, iterations=1).centroids
    torch.testing.assert_close(again, settled, rtol=0, atol=1e-6)


def test_result_keeps_shape_and_dtype_and_detaches_centroids() -> None:
    weight = weight_of(6, 8, dtype=torch.bfloat16).requires_grad_()
    result = dense_dkm(weight, None, tau=1e-5, iterations=2)
    assert result.clustered.shape == weight.shape and result.clustered.dtype == weight.dtype
    assert result.centroids.shape == (8, 1) and not result.centroids.requires_grad
    assert result.iterations == 2


def test_hard_limit_is_the_nearest_centroid() -> None:
    weight = torch.tensor([0.0, 0.1, 0.9, 1.0], dtype=torch.float64)
    result = dense_dkm(weight, torch.tensor([[0.0], [1.0]]).double(), tau=1e-4, iterations=1)
    expected = torch.tensor([0.05, 0.05, 0.95, 0.95], dtype=torch.float64)
    torch.testing.assert_close(result.clustered, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
@pytest.mark.parametrize("far", [0.02, 3.0, 60_000.0])
@pytest.mark.parametrize("iterations", [1, 3])
def test_float16_stays_in_range(distance: str, far: float, iterations: int) -> None:
    weight = weight_of(400, 300, dtype=torch.float16)  # 120,000: more than float16 counts to
    weight[0, 0], weight[7, 7] = far, -far
    tau = 2e-5 if distance == "squared" else 5e-3
    start = torch.linspace(-0.04, 0.04, 2).view(-1, 1)
    grad = weight_of(400, 300, dtype=torch.float16, seed=1)
    got = dense_dkm(
        weight.requires_grad_(), start, tau=tau, iterations=iterations, distance=distance
    )
    (pulled,) = torch.autograd.grad(got.clustered, weight, grad)
    exact = gradient_reference(
        weight,
        start,
        grad,
        tau=tau,
        iterations=iterations,
        distance=distance,
        with_clustered=True,
    )
    assert bool(pulled.isfinite().all())
    if far == 60_000.0:
        return  # where float16 steps by 32, no centroid is the nearest
    # 11 bits in each map, and logits up to some dozens
    for ours, expected in (
        (got.centroids, exact.centroids),
        (got.clustered.detach(), exact.clustered),
        (pulled, exact.grad_weight),
    ):
        assert float((ours.double() - expected).norm() / expected.norm()) < 0.02


REFUSED = [
    (torch.tensor([1.0, float("nan"), 2.0]), {}, r"weight holds 1 NaN or infinite values"),
    (torch.tensor([1.0, float("-inf"), 2.0]), {}, r"weight holds 1 NaN or infinite values"),
    (torch.tensor([1.0]), {}, r"weight gives 1 vectors of dim=1, fewer than the 2 clusters"),
    (torch.empty(0, 3), {}, r"weight has shape \(0, 3\), which holds no element"),
    (torch.arange(4), {}, r"weight has dtype torch.int64; clustering is defined for float64"),
    (torch.ones(4, dtype=torch.complex64), {}, r"weight has dtype torch.complex64"),
    (torch.ones(4), {"tau": 0.0}, r"tau is 0.0; .* above 0: use default_tau"),
    (torch.ones(4), {"tau": -1.0}, r"tau is -1.0"),
    (torch.ones(4), {"tau": float("nan")}, r"tau is nan"),
    (torch.ones(4), {"iterations": 0}, r"iterations is 0; it must be at least 1"),
    (torch.ones(4), {"max_iter": 0}, r"max_iter is 0"),
    (torch.ones(4), {"eps": -1.0}, r"eps is -1.0"),
]


@pytest.mark.parametrize(("weight", "settings", "message"), REFUSED)
def test_refuses(weight: torch.Tensor, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_dkm(weight, torch.tensor([[0.0], [1.0]]), **{"tau": 0.1, **settings})


@pytest.mark.parametrize(
    ("centroids", "message"),
    [
        (torch.ones(3), r"centroids has shape \(3,\); it must be \[clusters, dim\]"),
        (torch.ones(0, 1), r"centroids has shape \(0, 1\)"),
        (torch.ones(2, 3), r"weight has 4 elements, which dim=3 does not divide"),
        (torch.ones(2, 1, dtype=torch.int64), r"centroids has dtype torch.int64"),
        (torch.tensor([[float("nan")]]), r"centroids holds NaN or infinite values"),
    ],
)
def test_refuses_centroids(centroids: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_dkm(torch.ones(4), centroids, tau=0.1)
