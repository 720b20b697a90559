"""The loss of a step: next tokens of the response, and a dense teacher's soft targets.

Contract: sums over the tokens that carry a label, divided by their number over the whole
optimizer step, so that gradient accumulation and sharding change nothing but rounding.
Boundary: no model is called here.
"""

from __future__ import annotations

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
