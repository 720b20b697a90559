"""Hard k-means: converged, and with columns that count more than others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edkm.codebook import Codebook
from edkm.dkm import assign_hard
from edkm.kmeans import best_kmeans, kmeans_update
from edkm.palette import Palette, palettize


def gaussian(rows: int, columns: int, seed: int = 4) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_warm_start_is_converged_and_no_worse_than_its_start(dtype: torch.dtype) -> None:
    weight = gaussian(64, 64).to(dtype)
    first = torch.linspace(-1, 1, 8).unsqueeze(1)
    found = best_kmeans(weight, first, 200)
    torch.testing.assert_close(kmeans_update(weight, found), found, atol=2e-3, rtol=0)

    def error(centroids: Tensor) -> float:
        return float((assign_hard(weight, centroids).float() - weight.float()).square().mean())

    assert error(found) < error(first)
    codebook = Codebook()
    codebook.start(weight)
    assert error(codebook.centroids) <= 0.0375  # the optimum of 8 levels for a Gaussian is 0.0345


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_column_of_importance_three_is_three_columns(dtype: torch.dtype) -> None:
    weight = gaussian(32, 16).to(dtype)
    importance = torch.tensor([1.0, 3.0, 2.0, 1.0]).repeat(4)
    repeated = weight.repeat_interleave(importance.long(), dim=1)
    first = torch.linspace(-2, 2, 8).unsqueeze(1)
    one, other = kmeans_update(weight, first, importance[None]), kmeans_update(repeated, first)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
    one = best_kmeans(weight, first, 200, importance[None])
    torch.testing.assert_close(one, best_kmeans(repeated, first, 200), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(one, best_kmeans(weight, first, 200))


def test_centroids_of_columns_without_importance_stay() -> None:
    weight = torch.tensor([[0.0, 5.0], [1.0, 7.0]])
    first = torch.tensor([[0.4], [6.0]])
    moved = kmeans_update(weight, first, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(moved, torch.tensor([[0.5], [6.0]]))


def test_a_codebook_that_weighs_fits_the_columns_that_matter() -> None:
    weight, importance = gaussian(64, 32), torch.full((32,), 0.01)
    importance[5] = 100.0
    weight[:, 5] *= 4
    plain, weighed = Codebook(), Codebook(inputs=32)
    plain.start(weight)
    weighed.start(weight)
    assert torch.equal(plain.centroids, weighed.centroids)  # all columns count 1 until measured
    weighed.weigh(weight, importance)

    def error(codebook: Codebook) -> float:
        apart = (assign_hard(weight, codebook.centroids) - weight).square()
        return float((apart * importance).sum())

    assert error(weighed) < 0.7 * error(plain)
    assert "importance" in weighed.state_dict() and "importance" not in plain.state_dict()
    with pytest.raises(ValueError, match="weighs no columns"):
        plain.weigh(weight, importance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_any_size_share_a_codebook_by_their_scales(dtype: torch.dtype) -> None:
    weight = (gaussian(24, 64) * torch.logspace(-3, 1, 24).unsqueeze(1)).to(dtype)
    plain, scaled = Codebook(), Codebook(rows=24)
    for codebook in (plain, scaled):
        codebook.start(weight)

    def worst(codebook: Codebook) -> float:
        apart = (codebook.assign(weight) - weight).float().norm(dim=1) / weight.float().norm(dim=1)
        return float(apart.max())

    assert worst(scaled) < 0.3 < 0.9 < worst(plain)
    assert torch.equal(scaled.scale, scaled.scale.bfloat16().float())  # type: ignore[union-attr]
    stored = palettize(weight, scaled.centroids, 3, scaled.scale)
    assert torch.equal(stored.dense(), scaled.assign(weight))
    assert torch.equal(stored.rows(3, 9), stored.dense()[3:9])
    assert stored.nbytes == palettize(weight, plain.centroids, 3).nbytes + 2 * 24
    with pytest.raises(ValueError, match="one value for each row"):
        Palette(stored.table, stored.packed, stored.shape, 3, torch.ones(23))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_by_its_values(dtype: torch.dtype) -> None:
    weight, codebook = gaussian(300, 256).to(dtype), Codebook()
    codebook.start(weight)
    first = torch.linspace(-2, 2, 8).unsqueeze(1)
    one, other = kmeans_update(weight, first), kmeans_update(weight.float(), first)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert torch.equal(codebook.assign(weight), assign_hard(weight, codebook.centroids))
    weight[3, 4] = torch.nan  # must not pass for a weight: the loss has to tell
    assert codebook.assign(weight).isnan().sum() == 1
