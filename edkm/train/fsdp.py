"""A model and its optimizer as torch's FSDP2 has them.

Contract: weights, gradients and optimizer state are split evenly over all processes; a layer's
weights are whole only while it computes.
Boundary: no steps and no files; the loop is ``edkm.train.sharded``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from edkm.train.config import TrainConfig


def shard(model: Any, world: int, *, reshard: bool | None = None) -> None:
    """FSDP2 over all processes: one group a decoder layer, one for the rest.

    ``reshard``: whether the rest is split again after a forward; None: not before backward.
    """
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (world,))
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard)
    if kind == "cpu":  # gloo has no mean
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)


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
