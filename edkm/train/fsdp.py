"""A model and its optimizer as torch's FSDP2 has them.

Contract: weights, gradients and optimizer state are split evenly over all processes; a layer's
weights are whole only while it is dealt out and while it computes.
Boundary: no steps and no files; the loop is ``edkm.train.sharded``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from edkm.train.config import TrainConfig
from edkm.train.peers import copy_from_first


def shard(model: Any, world: int, *, reshard: bool | None = None) -> None:
    """Rank 0's ``model`` over all processes by FSDP2: one group a decoder layer, one for the rest.

    Theirs may be on the meta device. Group by group it is sent and split, so that they never hold
    more of it than their shares and one group. ``reshard``: whether the rest is split again after a
    forward; None: not before backward.
    """
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (world,))
    for layer in _layers(model):
        _fill(layer)
        copy_from_first(layer.parameters())
        fully_shard(layer, mesh=mesh)
    _fill(model)
    copy_from_first(p for p in model.parameters() if not isinstance(p, DTensor))
    copy_from_first(model.buffers())
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard)
    if kind == "cpu":  # gloo has no mean
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)


def _fill(module: torch.nn.Module) -> None:
    """Give what is on the meta device memory; what is tied stays tied."""
    made: dict[Tensor, Tensor] = {}
    for part in module.modules():
        own = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        for name, tensor in own:
            if not tensor.is_meta:
                continue
            if tensor not in made:
                made[tensor] = torch.empty_like(tensor, device="cpu")
                if isinstance(tensor, torch.nn.Parameter):
                    made[tensor] = torch.nn.Parameter(made[tensor], tensor.requires_grad)
            setattr(part, name, made[tensor])


def _layers(model: Any) -> list[Any]:
    """The repeated blocks of a transformers model: its longest ModuleList."""
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    return max((list(blocks) for blocks in lists), key=len, default=[])


def make_optimizer(config: TrainConfig, model: Any) -> torch.optim.AdamW:
    """AdamW with its state in place, so that a checkpoint can be read into it."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
