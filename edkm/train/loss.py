"""The loss of a step: next tokens of the response, and what a dense teacher says and holds.

Contract: sums over the tokens that carry a label, divided by their number over the whole
optimizer step, so that gradient accumulation and sharding change nothing but rounding.
Boundary: no model is called here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edkm.evaluate.perplexity import IGNORE, token_losses


def label_count(labels: Tensor) -> int:
    """Tokens of ``[b, t]`` labels that carry loss."""
    return int((labels[:, 1:] != IGNORE).sum())


def step_loss(
    logits: Tensor, labels: Tensor, count: Tensor | int, teacher: Tensor | None, distill: float
) -> Tensor:
    """``(1 - distill) * cross entropy + distill * KL(teacher || student)``, per token.

    ``logits``, ``teacher``: ``[b, t, vocabulary]``; ``count``: tokens to divide by.
    """
    loss = token_losses(logits, labels) * (1 - distill)
    if teacher is not None:
        counted = labels[:, 1:] != IGNORE
        loss = loss + distill * divergence(logits[:, :-1][counted], teacher[:, :-1][counted])
    return loss / count


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of KL(teacher || student) over rows of logits ``[n, vocabulary]``."""
    return F.kl_div(
        student.float().log_softmax(-1),
        teacher.float().log_softmax(-1),
        log_target=True,
        reduction="sum",
    )


def hidden_distance(
    student: Sequence[Tensor], teacher: Sequence[Tensor], labels: Tensor, count: Tensor | int
) -> Tensor:
    """``|s - t|^2 / |t|^2`` of the hidden states after each layer, per token and layer.

    ``student``, ``teacher``: one ``[b, t, hidden]`` a layer. A token counts where it predicts a
    label; ``count``: tokens to divide by. No unit: 1 is as far off as zeros are.
    """
    counted = labels[:, 1:] != IGNORE
    total = torch.zeros((), device=student[0].device)
    for made, wanted in zip(student, teacher, strict=True):
        target = wanted[:, :-1][counted].float()
        error = (made[:, :-1][counted].float() - target).square().sum(-1)
        total = total + (error / target.square().sum(-1).clamp(min=1e-30)).sum()
    return total / (len(student) * count)
