"""`offload` under DDP and FSDP2: two gloo processes, gradients equal to no offloading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from edkm.saved import offload
from tests.processes import in_processes


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


def train(kind: str) -> dict[str, Any]:
    torch.manual_seed(dist.get_rank())
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
    return {"equal": equal, "held": held, "after": after}


def both() -> dict[str, Any]:
    return {kind: train(kind) for kind in ("ddp", "fsdp2")}


def test_two_processes_train_as_without_offloading(tmp_path: Path) -> None:
    for rank in in_processes(both, 2, tmp_path):
        for found in rank.values():
            assert found["equal"] and found["after"] == 0
            # Inputs and outputs of the layers, none of the weights, gathered or not.
            assert 0 < found["held"] <= 16 * 4 * (3 * (64 + 96 + 96) + 64)
