"""The streaming form: dense autograd for each group, saving nothing of the weight's size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edkm.dkm import (
    channel_scale,
    choose_form,
    cluster_weight,
    default_tau,
    dense_dkm,
    initial_centroids,
    streaming_dkm,
)
from edkm.dkm import points as points_module
from edkm.dkm import streaming as streaming_module


def make(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.02).to(dtype)


@settings(max_examples=60)
@given(
    groups=st.sampled_from([1, 2, 6]),
    dim=st.sampled_from([1, 2, 3, 4]),
    columns=st.sampled_from([12, 24]),
    clusters=st.integers(1, 20),
    iterations=st.integers(1, 3),
    distance=st.sampled_from(["squared", "euclidean"]),
    scaled=st.booleans(),
    tile=st.sampled_from([1, 40, 1 << 18]),
    seed=st.integers(0, 50),
)
def test_equals_dense_autograd_group_by_group(
    groups: int,
    dim: int,
    columns: int,
    clusters: int,
    iterations: int,
    distance: str,
    scaled: bool,
    tile: int,
    seed: int,
) -> None:
    weight = make(6, columns, seed=seed).requires_grad_()
    grad = make(6, columns, seed=seed + 1)
    scale = channel_scale(weight) if scaled else torch.ones(6, dtype=torch.float64)
    clusters = min(clusters, 6 * columns // (groups * dim))
    inner = (weight.detach() / scale.unsqueeze(1)).view(groups, -1)
    start = torch.stack([initial_centroids(block, clusters, dim, seed=seed) for block in inner])
    tau = 3 * default_tau(inner, clusters, dim, distance=distance)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points_module, "CHUNK_ELEMENTS", tile)
        result = streaming_dkm(
            weight,
            start,
            tau=tau,
            iterations=iterations,
            distance=distance,
            scale=scale if scaled else None,
        )
        (pulled,) = torch.autograd.grad(result.clustered, weight, grad)

    blocks, factors = weight.view(groups, -1, columns), scale.view(groups, -1, 1)
    parts = [
        dense_dkm(w / s, c, tau=tau, iterations=iterations, distance=distance)
        for w, s, c in zip(blocks, factors, start, strict=True)
    ]
    dense = torch.stack([p.clustered * s for p, s in zip(parts, factors, strict=True)])
    (expected,) = torch.autograd.grad(dense.view(weight.shape), weight, grad)
    torch.testing.assert_close(result.clustered, dense.view(weight.shape), rtol=1e-9, atol=1e-12)
    assert float((pulled - expected).norm()) < 1e-9 * float(expected.norm() + grad.norm())
    torch.testing.assert_close(
        result.centroids, torch.stack([p.centroids for p in parts]), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_at_the_rounding_of_the_dtype(dtype: torch.dtype, dim: int) -> None:
    weight = make(120, 90, dtype=dtype).requires_grad_()
    grad = make(120, 90, seed=1, dtype=dtype)
    tau, start = default_tau(weight, 8, dim), initial_centroids(weight, 8, dim)
    result = streaming_dkm(weight, start, tau=tau, iterations=2)
    (pulled,) = torch.autograd.grad(result.clustered, weight, grad)
    wide = weight.detach().double().requires_grad_()
    dense = dense_dkm(wide, start.double(), tau=tau, iterations=2)
    (expected,) = torch.autograd.grad(dense.clustered, wide, grad.double())
    assert result.clustered.dtype == pulled.dtype == dtype
    soft = dense.clustered.detach()
    # nothing beyond the rounding of the result and what float32 attention itself costs
    narrow = weight.detach().float().requires_grad_()
    single = dense_dkm(narrow, start.float(), tau=tau, iterations=2)
    (roughly,) = torch.autograd.grad(single.clustered, narrow, grad.float())
    half = torch.finfo(dtype).eps / 2
    for got, rough, exact in (
        (result.clustered.detach(), single.clustered.detach(), soft),
        (pulled, roughly, expected),
    ):
        inherent = float((rough - exact).norm() / exact.norm())
        assert float((got - exact).norm() / exact.norm()) < half + 2 * inherent


def test_converges_like_dense() -> None:
    weight = make(50, 40)
    start = initial_centroids(weight, 8)
    for eps in (0.0, 1e-3, 1.0):
        ours = streaming_dkm(weight, start, tau=1e-5, max_iter=6, eps=eps)
        dense = dense_dkm(weight, start, tau=1e-5, max_iter=6, eps=eps)
        assert ours.iterations == dense.iterations
        torch.testing.assert_close(ours.clustered, dense.clustered, rtol=1e-10, atol=0)


def test_saves_the_weight_by_reference_and_centroids() -> None:
    weight = make(256, 256, dtype=torch.float32).requires_grad_()
    saves: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saves.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        streaming_dkm(weight, initial_centroids(weight, 8, 2), tau=1e-5, iterations=3)
    big = [s for s in saves if s.numel() >= weight.numel()]
    assert [s.data_ptr() for s in big] == [weight.data_ptr()]
    assert sum(s.nbytes for s in saves) - weight.nbytes < 2048


@pytest.mark.parametrize("groups", [1, 3])
def test_opcheck(groups: int) -> None:
    weight = make(6, 8).requires_grad_()
    start = torch.stack([initial_centroids(w, 2) for w in weight.detach().view(groups, -1)])
    for scale in (None, channel_scale(weight)):
        torch.library.opcheck(
            streaming_module._forward, (weight, start, scale, 1e-4, True, 2, -1.0)
        )


def test_zero_rows_have_scale_one() -> None:
    weight = torch.tensor([[0.0, -0.0], [-3.0, 2.0]])
    assert channel_scale(weight).tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("shape", "centroids", "scale", "message"),
    [
        ((6, 8), torch.ones(4, 2, 1), None, r"4 groups .* equal blocks"),
        ((6, 8), torch.ones(6, 1, 3), None, r"6 groups and dim=3"),
        ((6, 8), torch.ones(2, 1), torch.ones(8), r"scale has shape \(8,\); it must be \(6,\)"),
        ((6, 8), torch.ones(2, 1), torch.zeros(6), r"scale holds values that are not finite"),
        ((6, 8), torch.ones(6, 9, 1), None, r"fewer than the 54 clusters"),
        ((6, 8), torch.ones(2, 1, 1, 1), None, r"centroids has shape"),
    ],
)
def test_refuses(
    shape: tuple[int, int], centroids: torch.Tensor, scale: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        streaming_dkm(torch.ones(shape), centroids, tau=0.1, scale=scale)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_refuses_weights_that_are_not_finite(value: str) -> None:
    weight = torch.ones(4, 4)
    weight[1, 1] = float(value)
    with pytest.raises(ValueError, match="weight holds 1 NaN or infinite values"):
        streaming_dkm(weight, torch.ones(2, 1), tau=0.1)


BF16, F32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("numel", "clusters", "dim", "dtype", "others", "form"),
    [
        (1 << 24, 8, 1, BF16, {}, "fused"),
        (1 << 24, 256, 1, torch.float16, {}, "fused"),
        (1 << 24, 8, 2, BF16, {}, "streaming"),
        (1 << 24, 8, 1, BF16, {"groups": 16}, "streaming"),
        (1 << 24, 8, 1, BF16, {"scaled": True}, "streaming"),
        (1 << 24, 8, 1, F32, {}, "streaming"),
        (256, 8, 1, BF16, {}, "streaming"),  # dense would round its maps to 16 bits
        (256, 8, 1, F32, {}, "dense"),
    ],
)
def test_choice(
    numel: int, clusters: int, dim: int, dtype: torch.dtype, others: dict[str, int], form: str
) -> None:
    assert choose_form(numel, clusters, dim, dtype, **others) == form


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_door_says_what_it_picked_and_all_forms_agree(dtype: torch.dtype) -> None:
    weight = make(160, 128, dtype=dtype)
    start, tau = initial_centroids(weight, 8), default_tau(weight, 8)
    auto = cluster_weight(weight, start, tau=tau, iterations=2)
    assert auto.form == ("fused" if dtype == torch.bfloat16 else "streaming")
    for form in ("streaming", "dense") + (("fused",) if dtype == torch.bfloat16 else ()):
        other = cluster_weight(weight, start, tau=tau, iterations=2, form=form)
        assert other.form == form
        # the dense maps of a 16-bit weight are themselves rounded to 16 bits
        bound = 8 * torch.finfo(dtype).eps if form == "dense" else 2 * torch.finfo(dtype).eps
        bound = max(bound, 1e-5)  # float32 attention
        apart = (other.clustered.double() - auto.clustered.double()).norm()
        assert float(apart / auto.clustered.double().norm()) < bound


def test_the_door_takes_one_group_as_no_group_and_insists_on_a_form() -> None:
    weight = make(160, 128, dtype=torch.bfloat16)
    start = initial_centroids(weight, 8).unsqueeze(0)
    result = cluster_weight(weight, start, tau=1e-5, iterations=1)
    assert result.form == "fused" and result.centroids.shape == (1, 8, 1)
    with pytest.raises(ValueError, match="form is 'fused' with 2 groups; only form='streaming'"):
        cluster_weight(weight, start.expand(2, 8, 1), tau=1e-5, form="fused")
    with pytest.raises(ValueError, match="form is 'fast'; it must be one of auto, dense"):
        cluster_weight(weight, start, tau=1e-5, form="fast")
