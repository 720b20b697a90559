"""`offload` under DDP and FSDP2: two gloo processes, gradients equal to no offloading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from edkm.saved import offload


def build() -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64)) for _ in range(3)]
    return nn.Sequential(*blocks)


def wrapped(kind: str) -> nn.Module:
    model = build()
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for block in model.children():
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh)
    return model


def local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def worker(rank: int, kind: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(rank)
    data = [torch.randn(16, 64) for _ in range(3)]
    weights = []
    held = after = 0
    for offloaded in (False, True):
        model = wrapped(kind)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        context = offload(model, min_bytes=0)
        for batch in data:
            if offloaded:
                with context:
                    loss = model(batch).square().mean()
                held = context.ledger.host_bytes
            else:
                loss = model(batch).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        after = context.ledger.host_bytes
        weights.append([local(p.detach()).clone() for p in model.parameters()])
    equal = all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    found = {"equal": equal, "held": held, "after": after}
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_as_without_offloading(kind: str, tmp_path: Path) -> None:
    mp.spawn(worker, args=(kind, str(tmp_path)), nprocs=2)
    for rank in range(2):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert found["equal"] and found["after"] == 0
        # Inputs and outputs of the layers, none of the weights, gathered or not.
        assert 0 < found["held"] <= 16 * 4 * (3 * (64 + 96 + 96) + 64)
