"""Codebooks for groups of rows: fitted, trained, shipped and computed with, block by block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import edkm
from edkm.codebook import Codebook
from edkm.dkm import DKMConfig, assign_hard, hard_indices, initial_centroids, streaming_dkm
from edkm.dkm.repair import repair_centroids
from edkm.dkm.settings import Schedule
from edkm.kmeans import best_kmeans, kmeans_update
from edkm.palette import Palette, palettize
from edkm.palettized import PalettizedEmbedding, PalettizedLinear
from edkm.weighted import weighted_linear

GROUPS, ROWS, WIDTH = 4, 24, 40


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def blocks(tensor: Tensor) -> list[Tensor]:
    return list(tensor.split(len(tensor) // GROUPS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighs", [False, True])
def test_every_step_is_that_of_each_block_by_itself(dtype: torch.dtype, weighs: bool) -> None:
    weight = drawn(ROWS, WIDTH, dtype=dtype)
    importance = torch.rand(ROWS, WIDTH, generator=torch.Generator().manual_seed(2))
    start = drawn(GROUPS, 8, 1, seed=1)
    given = [importance if weighs else None] * 2
    parts = list(zip(blocks(weight), start, blocks(importance), strict=True))

    def each(run: object) -> Tensor:
        return torch.stack([run(w, c, i if weighs else None) for w, c, i in parts])  # type: ignore

    moved = kmeans_update(weight, start, given[0])
    torch.testing.assert_close(moved, each(kmeans_update), rtol=1e-6, atol=1e-7)
    found = best_kmeans(weight, start, 100, given[1])
    alone = each(lambda w, c, i: best_kmeans(w, c, 100, i))
    torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-7)
    hard = torch.cat([assign_hard(w, c) for w, c, _ in parts])
    assert torch.equal(assign_hard(weight, start), hard)
    index = torch.cat([hard_indices(w, c) for w, c, _ in parts])
    assert torch.equal(hard_indices(weight, start), index)
    start[2, 3:] = 9.0  # of no use to block 2
    assert torch.equal(
        repair_centroids(weight, start), each(lambda w, c, i: repair_centroids(w, c))
    )


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("weighs", [False, True])
def test_gradients_are_those_of_each_block_by_itself(weighs: bool, steps: int) -> None:
    importance = drawn(WIDTH, seed=1, dtype=torch.float64).exp() if weighs else None
    scale = drawn(ROWS, seed=2, dtype=torch.float64).mul(0.3).exp() if weighs else None
    start = drawn(GROUPS, 8, 1, seed=3, dtype=torch.float64)
    x, weight = (drawn(n, WIDTH, seed=n, dtype=torch.float64) for n in (5, ROWS))
    ours, theirs = ([t.clone().requires_grad_() for t in (x, weight)] for _ in range(2))
    plan = Schedule(tau=0.05, iterations=steps)
    out, last = weighted_linear(ours[0], ours[1], None, start, importance, scale, plan)
    scales = [None] * GROUPS if scale is None else blocks(scale)
    pairs = [
        weighted_linear(theirs[0], w, None, c, importance, s, plan)
        for w, c, s in zip(blocks(theirs[1]), start, scales, strict=True)
    ]
    expected = torch.cat([y for y, _ in pairs], dim=1)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(last, torch.stack([c for _, c in pairs]), rtol=1e-10, atol=1e-12)
    upstream = drawn(5, ROWS, seed=9, dtype=torch.float64)
    out.backward(upstream)
    expected.backward(upstream)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-11)
    if not weighs:  # and of the form that has had groups all along
        free = weight.clone().requires_grad_()
        streamed = streaming_dkm(free, start, tau=0.05, iterations=steps)
        (x @ streamed.clustered.T).backward(upstream)
        torch.testing.assert_close(free.grad, ours[1].grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_palette_of_groups_is_the_hard_weight(bits: int, dtype: torch.dtype) -> None:
    weight = drawn(ROWS, 80, dtype=dtype)
    centroids = torch.stack([initial_centroids(w, 2**bits) for w in blocks(weight)])
    scale = (torch.rand(ROWS, generator=torch.Generator().manual_seed(1)) + 0.5).bfloat16()
    palette = palettize(weight, centroids, bits)
    assert torch.equal(palette.dense(), assign_hard(weight, centroids))
    assert torch.equal(palette.rows(5, 17), palette.dense()[5:17])
    assert palette.nbytes == ROWS * 80 * bits // 8 + GROUPS * 2**bits * dtype.itemsize
    scaled = palettize(weight, centroids, bits, scale)
    for one in (palette, scaled):
        x = drawn(3, 80, dtype=dtype)
        torch.testing.assert_close(PalettizedLinear(one)(x), x @ one.dense().T)
        rows = torch.tensor([[23, 0], [7, 7]])
        assert torch.equal(PalettizedEmbedding(one)(rows), one.dense()[rows])
    with pytest.raises(ValueError, match="5 tables for a weight"):
        Palette(palette.table[:1].expand(5, -1, -1), palette.packed, palette.shape, bits)
    with pytest.raises(ValueError, match="table has shape"):
        Palette(palette.table[:, :-1], palette.packed, palette.shape, bits)


@pytest.mark.parametrize("mode", ["soft", "straight"])
@pytest.mark.parametrize("size", [1, 8])
def test_a_model_trains_in_groups_and_eval_is_what_ships(mode: str, size: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 32), nn.Tanh(), nn.Linear(32, 8))
    x, y = torch.randn(64, 40), torch.randn(64, 8)
    clustering = edkm.cluster(model, bits=2, group_size=size)
    shapes = [tuple(e.codebook.centroids.shape) for e in clustering.weights.values()]
    assert shapes == [(32 // size, 4, 1), (8 // size, 4, 1) if size < 8 else (4, 1)]
    clustering.set_mode(mode)  # type: ignore[arg-type]
    plan = edkm.schedule(clustering, 40)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        plan.step(step)
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    metrics = clustering.metrics()
    assert 0.5 < metrics["centroids_used_min"] <= 1 and metrics["soft_hard_gap"] < 0.1
    out = model.eval()(x)
    copy = nn.Sequential(nn.Linear(40, 32), nn.Tanh(), nn.Linear(32, 8))
    edkm.cluster(copy, bits=2, group_size=size)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.eval()(x), out)
    for name, palette in clustering.palettes().items():
        assert torch.equal(palette.dense(), model.get_submodule(name[0]).hard_weight())  # type: ignore


def test_more_codebooks_fit_better_and_groups_have_their_own_scale() -> None:
    weight = drawn(64, 64) * torch.linspace(0.5, 2, 64).unsqueeze(1)

    def error(groups: int, warm: bool = True) -> float:
        codebook = Codebook(DKMConfig(bits=2), groups=groups, warm_start=warm)
        codebook.start(weight)
        return float((codebook.assign(weight) - weight).square().mean())

    assert error(64) < error(8) < error(1)
    assert error(8, warm=False) < 2 * error(8)


def test_what_groups_cannot_be() -> None:
    def layer() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 30))

    with pytest.raises(ValueError, match=r"'0' has 30 rows, which group_size=4 does not divide"):
        edkm.cluster(layer(), group_size=4)
    with pytest.raises(ValueError, match="'0' has 4 weights in a group"):
        edkm.cluster(layer(), group_size=1)
    with pytest.raises(ValueError, match="group_size is 0"):
        edkm.cluster(layer(), group_size=0)
    with pytest.raises(ValueError, match="use dim=1"):
        Codebook(DKMConfig(dim=2), groups=2)
    with pytest.raises(ValueError, match="5 groups for a weight"):
        assign_hard(torch.zeros(8, 4), torch.zeros(5, 2, 1))
