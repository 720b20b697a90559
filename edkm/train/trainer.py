"""``transformers.Trainer`` that clusters: the schedule, the loss, whole checkpoints, NaN.

Contract: a run that is killed and resumed ends with the weights of one that was not, bit for
bit. A loss that is not finite stops the run and leaves the last checkpoint.
Boundary: one process (or a plain data-parallel launch); sharded runs are ``edkm.train.sharded``.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from edkm.annealing import Schedule
from edkm.evaluate import collate
from edkm.export.disk import disk_told
from edkm.saved import offload
from edkm.train.checkpoint import mark
from edkm.train.config import TrainConfig
from edkm.train.errors import DivergedError
from edkm.train.forward import forward_loss

WEIGHTS = "model.safetensors"


class ClusterTrainer(Trainer):
    """``Trainer`` for a model that ``edkm.cluster`` has changed (or a plain one)."""

    def __init__(
        self,
        config: TrainConfig,
        model: Any,
        rows: list[Any],
        *,
        plan: Schedule | None,
        teacher: Any = None,
        steps: int,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.settings, self.plan, self.teacher = config, plan, teacher
        self.saving: AbstractContextManager[object] = nullcontext()
        if config.offload:
            self.saving = offload(model)
        super().__init__(
            model=model,
            args=arguments(config, steps),
            train_dataset=rows,
            data_collator=collate,
            callbacks=[_Plan(plan), *callbacks] if plan else callbacks,
        )
        self.remove_callback(PrinterCallback)  # printing is the command's
        self.model_accepts_loss_kwargs = True  # the loss below divides by the step's tokens

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Loss of one forward of an optimizer step with ``num_items_in_batch`` labels in all."""
        labels = inputs["labels"]
        count = num_items_in_batch if num_items_in_batch is not None else labels.numel()
        given = self.settings, model, self.teacher, inputs, count
        loss, outputs = forward_loss(*given, self.saving)
        if not bool(torch.isfinite(loss)):
            raise DivergedError(
                f"the loss became {float(loss.detach())} at step {self.state.global_step + 1}; "
                f"the last good checkpoint is kept in {self.settings.checkpoints}: resume from it "
                "with a smaller learning rate, or use dtype float32"
            )
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the clustering's numbers to every log entry."""
        if self.plan is not None and "loss" in logs:
            logs.update(self.plan.clustering.metrics())
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))  # type: ignore[arg-type]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with disk_told():
            super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        mark(folder, self.settings.fingerprint())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_weights(Path(resume_from_checkpoint))

    def load_weights(self, checkpoint: Path) -> None:
        """Weights and codebooks of a checkpoint."""
        load_model(self.model, str(checkpoint / WEIGHTS))  # type: ignore[arg-type]


class _Plan(TrainerCallback):
    """Sets the clustering before each optimizer step."""

    def __init__(self, plan: Schedule) -> None:
        self.plan = plan

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.plan.step(state.global_step)


def arguments(config: TrainConfig, steps: int) -> TrainingArguments:
    """The settings in transformers' words."""
    if config.tensorboard and find_spec("tensorboard") is None:
        raise ValueError("tensorboard is asked for but not installed; pip install tensorboard")
    logging.getLogger("transformers.trainer").setLevel(logging.WARNING)
    return TrainingArguments(
        output_dir=str(config.checkpoints),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta1=config.beta1,
        adam_beta2=config.beta2,
        max_grad_norm=config.clip,
        lr_scheduler_type="cosine",
        warmup_steps=min(config.warmup, steps),
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        report_to=["tensorboard"] if config.tensorboard else [],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
    )
