"""Perplexity of token sequences under a causal language model.

Contract: exp of the mean negative log likelihood over all tokens that carry a label; sequences
are independent of how they are batched (to rounding). The model's mode is restored.
Boundary: one process, one pass; text becomes sequences in ``edkm.train.data``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Rows
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def collate(rows: Rows[Any], pad: int = 0) -> dict[str, Tensor]:
    """``input_ids``, ``labels``, ``position_ids`` of sequences, padded on the right: ``[b, t]``.

    Padding follows a causal model's tokens and carries no label, so it needs no mask; positions
    go on counting there, and restart where a packed example begins.
    """
    longest = max(len(row.ids) for row in rows)

    def padded(values: list[int], fill: int) -> list[int]:
        return values + [fill] * (longest - len(values))

    ids = torch.tensor([padded(row.ids, pad) for row in rows])
    labels = torch.tensor([padded(row.labels, IGNORE) for row in rows])
    positions = [row.positions + list(range(len(row.positions), longest)) for row in rows]
    return {"input_ids": ids, "labels": labels, "position_ids": torch.tensor(positions)}


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the negative log likelihoods of the labels, each given all before it."""
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        labels[:, 1:].flatten(),
        ignore_index=IGNORE,
        reduction="sum",
    )


@torch.no_grad()
def perplexity(model: Any, rows: Rows[Any], *, batch: int = 16) -> float:
    """Perplexity of ``rows`` (see ``edkm.train.data.Sequence``) under ``model`` in eval mode.

    ``ValueError`` if no token carries a label.
    """
    was_training = model.training
    model.eval()
    device = next(iter(model.state_dict().values())).device
    total, count = 0.0, 0
    try:
        for start in range(0, len(rows), batch):
            inputs = collate(rows[start : start + batch])
            labels = inputs.pop("labels").to(device)
            logits = model(**{k: v.to(device) for k, v in inputs.items()}, use_cache=False).logits
            total += float(token_losses(logits, labels))
            count += int((labels[:, 1:] != IGNORE).sum())
    finally:
        model.train(was_training)
    if count == 0:
        raise ValueError("no token carries a label, so there is nothing to measure")
    return math.exp(total / count) if total / count < 700 else math.inf
