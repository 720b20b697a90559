"""Training sharded over processes with torch's own FSDP2: ``torchrun ... -m edkm.train --fsdp``.

Contract: weights, gradients and optimizer state are split over the processes; every process sees
the same gathered weight in a layer's forward, so codebooks are identical on all of them without
being sent. N processes compute what one does, but for the order in which gradients are added. A
checkpoint written by N resumes on M. What autograd saves alike on all processes, which is what
clustering saves, is shared out over them if asked (``shard_saved``).
Boundary: the loop; the shared preparation and the artefact are ``edkm.train.job``. What happens
before the first step, and after the last, is rank 0's work, and its result or error every one's.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from edkm.annealing import Schedule
from edkm.evaluate import collate
from edkm.saved import ShardedSaves, offload
from edkm.train import job
from edkm.train.checkpoint import go_on_from, step_of
from edkm.train.config import TrainConfig
from edkm.train.errors import DivergedError
from edkm.train.forward import forward_loss
from edkm.train.fsdp import make_optimizer, shard
from edkm.train.listeners import Listeners
from edkm.train.loss import label_count
from edkm.train.measure import Measure
from edkm.train.order import learning_rate, step_rows
from edkm.train.peers import gather_on_first, losses_told, on_first, together
from edkm.train.prepare import Prepared, prepare, quiet_bars, read_model
from edkm.train.sharded_state import bytes_held, load_state, peak_resident, save_state
from edkm.train.start import find_allocation, find_teacher, fixed, make_plan, start
from edkm.train.teacher import next_pass
from edkm.train.traffic import Traffic

# How long a process waits where one may work alone for long: rank 0 before the first step (it
# measures and compensates) and after the last, and any at its disk. In a step it is ``patience``.
# A process that is gone is noticed at once, by its connection and by torchrun.
_ALONE = timedelta(hours=4)


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
    ``run``, ``ValueError`` if the batch cannot be dealt out evenly, and ``PeerLostError`` if a
    process ends before the others. To be called on the main thread.
    """
    if "RANK" not in os.environ:
        raise ValueError(
            "--fsdp runs under torchrun; start it with: torchrun --nproc-per-node N -m edkm.train"
        )
    backend = "gloo"
    if torch.cuda.is_available():  # not yet run on a GPU
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"  # numbers and what is not yet sharded are the CPU's
    with losses_told(config.checkpoints):
        dist.init_process_group(backend, timeout=timedelta(minutes=config.patience))
        alone = dist.new_group(timeout=_ALONE, backend="gloo")
        heard = say if dist.get_rank() == 0 else lambda text: None
        try:
            while (tuning := on_first(lambda: next_pass(config), alone)) is not None:
                heard(f"tuning a dense teacher: {tuning.out.name}")
                _Sharded(tuning, (), lambda text: None, alone).go(resume=True)
            return _Sharded(config, callbacks, heard, alone).go(resume)
        finally:
            dist.destroy_process_group()


class _Sharded:
    def __init__(
        self,
        config: TrainConfig,
        callbacks: Sequence[Any],
        say: job.Say,
        alone: dist.ProcessGroup | None,
    ) -> None:
        self.config, self.say, self.alone = config, say, alone
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        if config.batch_size % self.world:
            raise ValueError(
                f"batch_size is {config.batch_size}, which {self.world} processes cannot share "
                "evenly; give a multiple of the number of processes"
            )
        quiet_bars()
        self.hollow = self.rank > 0  # rank 0 alone reads weights
        self.ready = together(lambda: prepare(config, hollow=self.hollow), alone)
        self.measure = Measure(self.ready, config)
        self.taught_by = together(lambda: find_teacher(config, self.ready.model), alone)
        self.teacher: Any = None
        self.hears = Listeners(config, self.ready, callbacks)
        self.received = 0  # bytes, in the first step
        self.saving: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        self.shared: ShardedSaves | None = None

    def go(self, resume: bool) -> dict[str, Any]:
        config, ready = self.config, self.ready
        checkpoint: Path | None = on_first(lambda: go_on_from(config, resume), self.alone)
        plan = self._plan(checkpoint is None)
        shard(ready.model, self.world)
        if self.taught_by is not None:  # read only now, when the model is whole nowhere
            self.teacher = together(self._read_teacher, self.alone)
            shard(self.teacher, self.world, reshard=True)
        self._save_as_asked()
        optimizer = make_optimizer(config, ready.model)
        first = 0
        if checkpoint is not None:
            first = step_of(checkpoint)
            load_state(ready.model, optimizer, checkpoint, self.alone)
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
        del optimizer
        self.teacher = None
        return self._finish(history, seconds, held)

    def _plan(self, begins: bool) -> Schedule | None:
        """The clustering, begun by rank 0 for all unless a checkpoint has what it begins with."""
        config, ready = self.config, self.ready
        if begins:
            on_first(lambda: self.measure.add("dense", "dense", None), self.alone)
        if config.allocate and not config.plain:
            # and keeps it for all
            on_first(lambda: find_allocation(config, ready) and None, self.alone)
        plan = make_plan(config, ready)
        if plan is not None and begins:
            on_first(lambda: start(config, ready, plan, self.measure), self.alone)
        return plan

    def _read_teacher(self) -> Any:
        assert self.taught_by is not None
        return fixed(read_model(self.taught_by, self.ready.model.dtype, hollow=self.hollow))

    def _save_as_asked(self) -> None:
        """Who takes charge of what autograd saves."""
        rest = offload(self.ready.model) if self.config.offload else None
        if self.config.shard_saved:
            self.shared = ShardedSaves(self.ready.model, rest=rest)
        self.saving = self.shared or rest or self.saving

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
            total += loss.detach().cpu()
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
            save_state(model, optimizer, config, done, self.alone)
        return {"step": done, "loss": loss_now}

    def _loss(self, batch: dict[str, Tensor], count: Tensor) -> Tensor:
        given = self.config, self.ready.model, self.teacher, batch, count
        return forward_loss(*given, self.saving)[0]

    def _finish(self, history: list[dict[str, float]], seconds: float, held: int) -> dict[str, Any]:
        """Gather the model on rank 0, measure it and write it."""
        whole, plan = together(lambda: (None, None) if self.rank else self._whole(), self.alone)
        gather_on_first(self.ready.model, whole)
        peaks = [0] * self.world
        dist.all_gather_object(peaks, peak_resident())
        sizes = torch.tensor([held, self.shared.ledger.host_peak_bytes if self.shared else 0])
        most, added = sizes.clone(), _total(sizes)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        files: dict[str, Any] = {
            "processes": self.world,
            "state_bytes_per_rank_max": int(most[0]),
            "received_bytes_per_step": self.received,
            "peak_resident_bytes_per_rank": peaks,
        }
        if self.shared is not None:
            files["shared_saved_bytes"] = int(added[1])
            files["shared_saved_bytes_per_rank_max"] = int(most[1])
        ready = replace(self.ready, model=whole)
        metrics = on_first(lambda: self._write(ready, plan, files, seconds, history), self.alone)
        return metrics if self.rank == 0 else {}

    def _whole(self) -> tuple[Any, Schedule | None]:
        """A model for the weights of all processes, clustered as theirs."""
        model = read_model(self.config.model, self.ready.model.dtype)
        return model, make_plan(self.config, replace(self.ready, model=model))

    def _write(
        self,
        ready: Prepared,
        plan: Schedule | None,
        files: dict[str, Any],
        seconds: float,
        history: list[dict[str, float]],
    ) -> dict[str, Any]:
        """The artefact of the whole model, and the metrics."""
        config = self.config
        self.measure.model = ready.model
        if plan is not None:
            plan.step(ready.steps - 1)
            self.measure.add("after_soft", "soft", plan.clustering)
            self.measure.add("after_hard", "hard", plan.clustering)
        else:
            self.measure.add("after", "dense", None)
        written = {**job.write(config, ready, plan), **files}
        return job.write_metrics(config, ready, self.measure, plan, written, seconds, history)


def _total(value: Tensor) -> Tensor:
    """Sum over all processes."""
    total = value.clone()
    dist.all_reduce(total)
    return total
