"""The state of a sharded run: on the disk, and how much of it a process holds.

Contract: a checkpoint written by N processes is read by M; it counts once it is marked whole
(``edkm.train.checkpoint``), and all but the newest ones are dropped. Where a disk refuses one
process, all raise its ``OSError``.
Boundary: the loop that makes the state is ``edkm.train.sharded``.
"""

from __future__ import annotations

import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from edkm.export.disk import disk_refusal
from edkm.train.checkpoint import mark, step_of
from edkm.train.config import TrainConfig
from edkm.train.peers import on_first

_KEPT = 2  # checkpoints


def state_of(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything a run goes on from, flat: weights, codebooks, moments. Sharded stays sharded."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        state[f"weight.{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            state[f"{key}.{name}"] = value
    state |= {f"buffer.{name}": buffer for name, buffer in model.named_buffers()}
    return state


def save_state(
    model: Any,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Write ``checkpoint-STEP``, mark it whole, drop all but the newest ones.

    Processes wait for the slowest disk as long as ``group`` lets them.
    """
    folder = config.checkpoints / f"checkpoint-{step}"
    try:
        save(state_of(model, optimizer), checkpoint_id=str(folder), process_group=group)
    except CheckpointException as error:  # every process's, whichever failed
        causes = [cause for cause, _ in error.failures.values()]
        refused = next(filter(None, map(disk_refusal, causes)), None)
        raise refused or RuntimeError(str(error)) from error
    on_first(lambda: _count(config, folder), group)


def _count(config: TrainConfig, folder: Path) -> None:
    """Let ``folder`` count, and drop those before it that are too old."""
    mark(folder, config.fingerprint())
    for old in sorted(config.checkpoints.glob("checkpoint-*"), key=step_of)[:-_KEPT]:
        shutil.rmtree(old)


def load_state(
    model: Any,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Read what any number of processes wrote."""
    state = state_of(model, optimizer)
    load(state, checkpoint_id=str(folder), process_group=group)
    for module in model.modules():  # codebooks remember their temperature
        if hasattr(module, "_known_tau"):
            module._known_tau = None


def peak_resident() -> int:
    """The most bytes that were resident of this process, code and files it has mapped included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def bytes_held(model: Any, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of this process's part of weights and optimizer state."""
    tensors = [value for name, value in state_of(model, optimizer).items() if "buffer." not in name]
    local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    return sum(t.numel() * t.element_size() for t in local)
