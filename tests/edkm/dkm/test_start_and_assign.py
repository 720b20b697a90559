"""Initial centroids, temperature, hard assignment."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edkm.dkm import (
    TauSchedule,
    assign_hard,
    default_tau,
    dense_dkm,
    hard_indices,
    initial_centroids,
    repair_centroids,
    soft_hard_gap,
)
from edkm.dkm.histogram import occupied
from edkm.dkm.patterns import PATTERNS, pattern_counts, pattern_values


def make(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * 0.02).to(dtype)


@settings(deadline=None, max_examples=50)
@given(
    clusters=st.integers(1, 32),
    dim=st.sampled_from([1, 2, 4]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 50),
)
def test_assign_hard_is_the_nearest(clusters: int, dim: int, dtype: torch.dtype, seed: int) -> None:
    weight = make(16, 32, dtype=dtype, seed=seed)
    centroids = initial_centroids(weight, clusters, dim, seed=seed)
    rows = weight.double().view(-1, dim)
    away = (rows.unsqueeze(1) - centroids.double()).square().sum(-1)
    index = hard_indices(weight, centroids)
    chosen = away.gather(1, index.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chosen, away.amin(1), rtol=1e-4, atol=1e-12)
    expected = centroids.to(dtype)[index].view(weight.shape)
    assert torch.equal(assign_hard(weight, centroids), expected)


def test_assign_hard_breaks_ties_towards_the_smaller_centroid() -> None:
    weight, centroids = torch.tensor([0.5, 0.4, 0.6]), torch.tensor([[1.0], [0.0]])
    assert assign_hard(weight, centroids).tolist() == [0.0, 0.0, 1.0]
    assert hard_indices(weight, centroids).tolist() == [1, 1, 0]


def test_assign_hard_of_a_transposed_weight() -> None:
    weight = make(10, 6)
    centroids = initial_centroids(weight, 4)
    assert torch.equal(assign_hard(weight.T, centroids), assign_hard(weight, centroids).T)


@pytest.mark.parametrize("method", ["kmeans++", "quantile"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_initial_centroids_are_sorted_weights_and_deterministic(
    method: str, dtype: torch.dtype
) -> None:
    weight = make(64, 64, dtype=dtype)
    first = initial_centroids(weight, 16, method=method, seed=3)
    assert torch.equal(first, initial_centroids(weight, 16, method=method, seed=3))
    assert first.shape == (16, 1) and first.dtype == torch.float32
    assert torch.equal(first, first.sort(0).values) and len(first.unique()) == 16
    assert torch.isin(first, weight.float()).all()


def test_kmeans_plus_plus_depends_on_the_seed_and_spreads() -> None:
    weight = torch.cat([torch.zeros(1000), torch.ones(10), 2 * torch.ones(1)])
    spread = initial_centroids(weight, 3, seed=1)
    assert spread.flatten().tolist() == [0.0, 1.0, 2.0]
    wide = make(50, 50)
    assert not torch.equal(initial_centroids(wide, 8, seed=1), initial_centroids(wide, 8, seed=2))


def test_quantiles_hold_equal_shares() -> None:
    start = initial_centroids(torch.arange(100.0), 4, method="quantile")
    assert start.flatten().tolist() == [12.0, 37.0, 62.0, 87.0]


def test_fewer_distinct_values_than_clusters_repeat() -> None:
    start = initial_centroids(torch.tensor([1.0, 1.0, 1.0, 2.0]), 4)
    assert sorted(set(start.flatten().tolist())) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clusters": 0}, "clusters is 0"),
        ({"clusters": 2, "dim": 0}, "dim is 0"),
        ({"clusters": 2, "method": "quantile", "dim": 2}, "quantiles need dim=1"),
        ({"clusters": 9}, "fewer than the 9 clusters"),
        ({"clusters": 2, "dim": 3}, "dim=3 does not divide"),
    ],
)
def test_initial_centroids_refuse(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        initial_centroids(torch.ones(8), **arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_default_tau_is_variance_over_clusters_squared(dtype: torch.dtype) -> None:
    weight = make(100, 100, dtype=dtype)
    variance = float(weight.double().var(correction=0))
    assert default_tau(weight, 8) == pytest.approx(variance / 64, rel=1e-9)
    assert default_tau(weight, 8, multiple=2.0) == pytest.approx(variance / 32, rel=1e-9)
    assert default_tau(weight, 16, 2) == pytest.approx(2 * variance / 16, rel=1e-9)
    euclidean = default_tau(weight, 8, distance="euclidean")
    assert euclidean == pytest.approx(math.sqrt(variance) / 8, rel=1e-9)


def test_default_tau_of_equal_weights_clusters_them_exactly() -> None:
    weight = torch.full((16,), 0.25)
    tau = default_tau(weight, 2)
    out = dense_dkm(weight, torch.tensor([[0.25], [0.5]]), tau=tau, iterations=1).clustered
    torch.testing.assert_close(out, weight, rtol=1e-5, atol=0)


@pytest.mark.parametrize("weight", [torch.empty(0), torch.tensor([1.0, float("nan")])])
def test_default_tau_refuses(weight: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="no variance to scale tau"):
        default_tau(weight, 2)


def test_default_tau_keeps_the_gap_moderate_at_any_scale() -> None:
    gaps = []
    for scale in (1.0, 1e-3):
        weight = make(200, 200).double() * scale
        start = initial_centroids(weight, 8, method="quantile")
        result = dense_dkm(weight, start, tau=default_tau(weight, 8), iterations=10)
        gaps.append(soft_hard_gap(result.clustered, weight, result.centroids))
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-3)
    assert 0.01 < gaps[0] < 0.12


def test_schedule_is_geometric_and_clamped() -> None:
    schedule = TauSchedule(start=4.0, end=0.25)
    assert [schedule(p) for p in (-1.0, 0.0, 0.5, 1.0, 2.0)] == pytest.approx([4, 4, 1, 0.25, 0.25])
    with pytest.raises(ValueError, match="end is 0"):
        TauSchedule(end=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_histogram_counts_every_pattern(dtype: torch.dtype) -> None:
    values = pattern_values(dtype)
    weight = torch.cat([values, values[:1000], torch.tensor([-0.0, 0.0], dtype=dtype)])
    expected = torch.ones(PATTERNS, dtype=torch.int64)
    expected[:1000] += 1
    expected[0] += 1
    expected[0x8000] += 1  # -0.0 is a pattern of its own
    assert torch.equal(pattern_counts(weight), expected)
    small = make(30, 30, dtype=dtype)
    values, counts = occupied(small)
    assert int(counts.sum()) == 900
    assert set(values.tolist()) == set(small.float().flatten().tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_repair_moves_empty_and_duplicate_centroids(dtype: torch.dtype) -> None:
    weight = torch.cat([torch.zeros(90), torch.ones(9), torch.full((1,), 4.0)]).to(dtype)
    broken = torch.tensor([[0.0], [0.0], [-50.0]])
    fixed = repair_centroids(weight, broken)
    assert fixed.flatten().tolist() == [0.0, 4.0, 1.0]  # 1 * 16 counts for more than 9 * 1
    assert broken.flatten().tolist() == [0.0, 0.0, -50.0]
    assert torch.equal(repair_centroids(weight, fixed), fixed)


def test_repair_of_vectors() -> None:
    weight = torch.tensor([[0.0, 0.0], [0.0, 0.1], [5.0, 5.0], [9.0, 0.0]])
    fixed = repair_centroids(weight, torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]]))
    assert fixed.tolist() == [[0.0, 0.0], [5.0, 5.0], [9.0, 0.0]]


def test_repair_leaves_a_surplus_alone() -> None:
    same = torch.full((3, 1), 0.5)
    assert torch.equal(repair_centroids(torch.full((8,), 0.5), same), same)


def test_without_repair_duplicates_stay_together() -> None:
    weight = make(40, 40, dtype=torch.bfloat16)
    twins = torch.tensor([[0.0], [0.0], [0.02], [-0.02]])
    tau = default_tau(weight, 4)
    stuck = dense_dkm(weight, twins, tau=tau, iterations=5).centroids
    assert stuck[0] == stuck[1]
    freed = dense_dkm(weight, repair_centroids(weight, twins), tau=tau, iterations=5).centroids
    assert len(freed.unique()) == 4
