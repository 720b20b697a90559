"""One forward of an optimizer step: the student's, the teacher's, and their loss.

Contract: the same for one process and for sharded ones; the teacher is run without gradients.
Boundary: no backward, and no checks of the loss; those are the loops'.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from edkm.train.config import TrainConfig
from edkm.train.loss import hidden_distance, step_loss


def forward_loss(
    config: TrainConfig,
    model: Any,
    teacher: Any,
    batch: dict[str, Tensor],
    count: Tensor | int,
    saving: AbstractContextManager[object] | None = None,
) -> tuple[Tensor, Any]:
    """Loss of ``batch`` and the student's outputs.

    ``batch``: ``input_ids``, ``labels``, ``position_ids``, each ``[b, t]``; ``count``: tokens with
    a label in the whole optimizer step. ``teacher``: None without distillation. ``saving``: how
    the student's forward keeps what it saves.
    """
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    how = {"use_cache": False, "output_hidden_states": config.distill_hidden > 0}
    with saving or nullcontext():
        outputs = model(**inputs, **how)
    labels = batch["labels"].to(outputs.logits.device)
    if teacher is None:
        return step_loss(outputs.logits, labels, count, None, config.distill), outputs
    with torch.no_grad():
        wanted = teacher(**inputs, **how)
    loss = step_loss(outputs.logits, labels, count, wanted.logits, config.distill)
    if config.distill_hidden:
        layers = outputs.hidden_states[1:], wanted.hidden_states[1:]  # the first: embeddings
        loss = loss + config.distill_hidden * hidden_distance(*layers, labels, count)
    return loss, outputs
