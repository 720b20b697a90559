"""What ranks save alike in training is shared out over them, and no gradient changes by a bit."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import edkm
from edkm.dkm import DKMConfig
from edkm.saved import ShardedSaves, offload
from tests.processes import in_processes

pytestmark = pytest.mark.slow

WIDTH, ROWS = 128, 48  # of a weight; of a rank's input


def model_of(form: str) -> tuple[nn.Module, edkm.clustering.Clustering]:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(2)]
    model = nn.Sequential(*blocks).bfloat16()
    clustering = edkm.cluster(model, 3, config=DKMConfig(form=form, iterations=1))
    clustering.start()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh).set_force_sum_reduction_for_comms(True)
    fully_shard(model, mesh=mesh).set_force_sum_reduction_for_comms(True)
    return model.train(), clustering


def train(form: str, kind: str) -> dict[str, Any]:
    """Weights after three steps of two forwards each, and bytes: held after the first forward,
    on the host at all, and left when all is done."""
    model, clustering = model_of(form)
    rest = offload(model) if kind == "with offload" else None
    saves = ShardedSaves(model, rest=rest, uniquify=kind != "not uniquified")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(1 + dist.get_rank())
    held = offloaded = 0
    for step in range(3):
        clustering.new_step(step)
        for _ in range(2):
            batch = torch.randn(ROWS + dist.get_rank(), WIDTH).bfloat16()  # sizes differ, too
            with contextlib.nullcontext() if kind == "plain" else saves:
                loss = model(batch).float().square().mean()
            held = held or saves.ledger.host_bytes
            offloaded = 0 if rest is None else rest.ledger.host_bytes
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    left = saves.ledger.host_bytes
    weights = [local(p.detach()).flatten().tolist() for p in model.parameters()]
    return {"weights": weights, "held": held, "offloaded": offloaded, "left": left}


def local(tensor: Tensor) -> Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).float()


KINDS = ("plain", "sharded", "not uniquified", "with offload")
FORMS = ("fused", "dense")


def all_cases() -> dict[str, Any]:
    return {f"{form} {kind}": train(form, kind) for form in FORMS for kind in KINDS}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    folders = {count: tmp_path_factory.mktemp(f"of{count}") for count in (2, 4)}
    return {count: in_processes(all_cases, count, folder) for count, folder in folders.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [2, 4])
def test_training_is_equal_bit_by_bit(
    found: dict[int, list[dict[str, Any]]], count: int, form: str
) -> None:
    for rank in found[count]:
        plain = rank[f"{form} plain"]["weights"]
        for kind in KINDS[1:]:
            assert rank[f"{form} {kind}"]["weights"] == plain, kind
            assert rank[f"{form} {kind}"]["left"] == 0, kind


def bytes_held(found: dict[int, list[dict[str, Any]]], count: int, case: str) -> set[int]:
    return {rank[case]["held"] for rank in found[count]}


@pytest.mark.parametrize("count", [2, 4])
def test_each_rank_holds_its_share_of_what_clustering_saves(
    found: dict[int, list[dict[str, Any]]], count: int
) -> None:
    tables = 2 * (8 + 2) * 65_536  # two layers' counts (int64) and values (bfloat16)
    for kind in ("sharded", "with offload"):
        assert bytes_held(found, count, f"fused {kind}") == {tables // count}
    (maps,) = bytes_held(found, count, "dense not uniquified")
    # In bfloat16: two maps a layer (M has the others), and the second layer's clustered weight,
    # which the gradient of its input takes.
    assert maps * count == 2 * WIDTH * WIDTH * (2 * 2 * 8 + 1)
    (listed,) = bytes_held(found, count, "dense sharded")
    assert listed < 0.6 * maps


def test_maps_and_lists_fall_with_the_ranks_and_tables_stay(
    found: dict[int, list[dict[str, Any]]],
) -> None:
    two, four = (bytes_held(found, n, "dense not uniquified") for n in (2, 4))
    assert {2 * held for held in two} == {4 * held for held in four}
    (half,), (quarter,) = (bytes_held(found, n, "dense sharded") for n in (2, 4))
    shared = 2 * WIDTH * WIDTH * (2 * 2 + 1)  # a list of 2 bytes a weight in place of a map
    assert half - quarter == shared // 2 - shared // 4 and half > shared // 2


def test_what_differs_between_ranks_is_the_rests(found: dict[int, list[dict[str, Any]]]) -> None:
    for rank, case in enumerate(r["fused with offload"] for r in found[2]):
        inputs = (ROWS + rank) * WIDTH * 2  # bytes: of two layers, and of GELU between them
        assert case["offloaded"] >= 3 * inputs
