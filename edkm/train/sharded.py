"""Training sharded over processes with torch's own FSDP2: ``torchrun ... -m edkm.train --fsdp``.

Contract: weights, gradients and optimizer state are split over the processes; every process sees
the same gathered weight in a layer's forward, so codebooks are identical on all of them without
being sent. N processes compute what one does, but for the order in which gradients are added. A
checkpoint written by N resumes on M.
Boundary: the loop; the shared preparation and the artefact are ``edkm.train.job``. What autograd
saves differs between processes, which see other sequences, so it is moved to the host (``offload``)
but not sharded; clustered layers save no map that could be.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from edkm.annealing import Schedule
from edkm.evaluate import collate
from edkm.saved import offload
from edkm.train import job
from edkm.train.checkpoint import latest, step_of
from edkm.train.config import TrainConfig
from edkm.train.errors import DivergedError
from edkm.train.listeners import Listeners
from edkm.train.loss import label_count, step_loss
from edkm.train.measure import Measure
from edkm.train.prepare import prepare, quiet_bars
from edkm.train.sharded_state import bytes_held, load_state, save_state
from edkm.train.start import make_plan, make_teacher, start
from edkm.train.traffic import Traffic


def run_sharded(
    config: TrainConfig,
    *,
    resume: bool = False,
    callbacks: Sequence[Any] = (),
    say: job.Say = lambda text: None,
) -> dict[str, Any]:
    """Do ``config`` over the processes of ``torchrun``; rank 0 returns the metrics, others {}.

    ``callbacks``: ``TrainerCallback``s, told of the beginning, each step and the end, on every
    process, with its rank in ``args.process_index``; what is logged is told on rank 0. Raises as
    ``run``, and ``ValueError`` if the batch cannot be dealt out evenly.
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" not in os.environ:
        raise ValueError(
            "--fsdp runs under torchrun; start it with: torchrun --nproc-per-node N -m edkm.train"
        )
    dist.init_process_group(backend)
    try:
        heard = say if dist.get_rank() == 0 else lambda text: None
        return _Sharded(config, callbacks, heard).go(resume)
    finally:
        dist.destroy_process_group()


class _Sharded:
    def __init__(self, config: TrainConfig, callbacks: Sequence[Any], say: job.Say) -> None:
        self.config, self.say = config, say
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        if config.batch_size % self.world:
            raise ValueError(
                f"batch_size is {config.batch_size}, which {self.world} processes cannot share "
                "evenly; give a multiple of the number of processes"
            )
        quiet_bars()
        self.ready = prepare(config)
        self.measure = Measure(self.ready, config)
        self.teacher = make_teacher(config, self.ready.model)
        self.hears = Listeners(config, self.ready, callbacks)
        self.received = 0  # bytes, in the first step
        self.saving: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

    def go(self, resume: bool) -> dict[str, Any]:
        config, ready = self.config, self.ready
        checkpoint = self._checkpoint(resume)
        if checkpoint is None and self.rank == 0:
            self.measure.add("dense", "dense", None)
        plan = make_plan(config, ready)
        if plan is not None:
            first_time = checkpoint is None and self.rank == 0
            start(config, ready, plan, self.measure if first_time else None)
        shard(ready.model, self.world)
        if config.offload:
            self.saving = offload(ready.model)
        optimizer = make_optimizer(config, ready.model)
        first = 0
        if checkpoint is not None:
            first = step_of(checkpoint)
            load_state(ready.model, optimizer, checkpoint)
        self.say(f"tuning for {ready.steps} steps on {self.world} processes")
        begun = time.perf_counter()
        self.hears.begin(first)
        history = []
        for step in range(first, ready.steps):
            self.hears.step_begins()
            with Traffic() if step == first else contextlib.nullcontext() as traffic:
                entry = self._step(step, plan, optimizer)
            if traffic is not None:
                self.received = traffic.received
            history.append(entry)
            self.hears.step_ends(step + 1)
            if (step + 1) % config.log_every == 0:
                self.hears.logged(entry)
        self.hears.end()
        seconds = time.perf_counter() - begun
        held = bytes_held(ready.model, optimizer)
        return self._finish(plan, history, seconds, held)

    def _checkpoint(self, resume: bool) -> Path | None:
        found: list[Any] = [None]
        if self.rank == 0:  # one process tidies up, all learn of it, errors included
            try:
                folder = self.config.checkpoints
                if not resume and folder.is_dir() and any(folder.iterdir()):
                    raise ValueError(f"{folder} holds checkpoints; go on with --resume")
                found = [latest(folder, self.config.fingerprint()) if resume else None]
            except ValueError as error:
                found = [error]
        dist.broadcast_object_list(found)
        if isinstance(found[0], ValueError):
            raise found[0]
        answer: Path | None = found[0]
        return answer

    def _step(
        self, step: int, plan: Schedule | None, optimizer: torch.optim.Optimizer
    ) -> dict[str, float]:
        config, model = self.config, self.ready.model
        if plan is not None:
            plan.step(step)
        rows = step_rows(len(self.ready.train), step, config)
        parts = [rows[i :: config.accumulate] for i in range(config.accumulate)]
        batches = [
            collate([self.ready.train[r] for r in p[self.rank :: self.world]]) for p in parts
        ]
        count = _total(torch.tensor(sum(label_count(b["labels"]) for b in batches)))
        total = torch.zeros(())
        model.train()
        for index, batch in enumerate(batches):
            model.set_requires_gradient_sync(index == len(batches) - 1)
            loss = self._loss(batch, count)
            total += loss.detach()
            # FSDP2 divides by the number of processes; the loss is already a share of the sum
            (loss * self.world).backward()
        loss_now = float(_total(total))
        if not math.isfinite(loss_now):
            raise DivergedError(
                f"the loss became {loss_now} at step {step + 1}; the last good checkpoint is kept "
                f"in {config.checkpoints}: resume from it with a smaller learning rate"
            )
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, self.ready.steps)
        optimizer.step()
        optimizer.zero_grad()
        done = step + 1
        if done % config.save_every == 0 or done == self.ready.steps:
            save_state(model, optimizer, config, done)
        return {"step": done, "loss": loss_now}

    def _loss(self, batch: dict[str, Tensor], count: Tensor) -> Tensor:
        inputs = dict(batch)
        labels = inputs.pop("labels")
        with self.saving:
            logits = self.ready.model(**inputs, use_cache=False).logits
        teacher = None
        if self.teacher is not None:
            with torch.no_grad():
                teacher = self.teacher(**inputs, use_cache=False).logits
        return step_loss(logits, labels, count, teacher, self.config.distill)

    def _finish(
        self, plan: Schedule | None, history: list[dict[str, float]], seconds: float, held: int
    ) -> dict[str, Any]:
        """Gather the model on rank 0, measure it and write it."""
        state = {
            name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in self.ready.model.state_dict().items()
        }
        heads = [torch.zeros((), dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(heads, torch.tensor(held))
        metrics: dict[str, Any] = {}
        if self.rank == 0:
            ready = prepare(self.config)
            fresh = make_plan(self.config, ready)
            ready.model.load_state_dict(state)
            self.measure.model = ready.model
            if fresh is not None:
                fresh.step(ready.steps - 1)
                self.measure.add("after_soft", "soft", fresh.clustering)
                self.measure.add("after_hard", "hard", fresh.clustering)
            else:
                self.measure.add("after", "dense", None)
            files = job.write(self.config, ready, fresh)
            files["processes"] = self.world
            files["state_bytes_per_rank_max"] = int(max(heads))
            files["received_bytes_per_step"] = self.received
            metrics = job.write_metrics(
                self.config, ready, self.measure, fresh, files, seconds, history
            )
        dist.barrier()
        return metrics


def shard(model: Any, world: int) -> None:
    """FSDP2 over all processes: one group a decoder layer, one for the rest."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (world,))
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
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


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Linear warm-up, then cosine to 0, as ``transformers.Trainer`` has it."""
    warm = min(config.warmup, steps)
    if step < warm:
        return config.learning_rate * step / max(1, warm)
    progress = (step - warm) / max(1, steps - warm)
    return config.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def step_rows(rows: int, step: int, config: TrainConfig) -> list[int]:
    """Which sequences optimizer step ``step`` sees: a new order each pass, set by the seed."""
    wanted = config.batch_size * config.accumulate
    start = step * wanted
    found: list[int] = []
    while len(found) < wanted:
        epoch, at = divmod(start + len(found), rows)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        order = torch.randperm(rows, generator=generator).tolist()
        found += order[at : at + wanted - len(found)]
    return found


def _total(value: Tensor) -> Tensor:
    """Sum over all processes."""
    total = value.clone()
    dist.all_reduce(total)
    return total
