"""What an optimizer step of a sharded run sees, and at which rate, as functions of its number.

Contract: the settings and the step determine both, so that a resumed run needs no state for them.
Boundary: numbers only; the loop is ``edkm.train.sharded``.
"""

from __future__ import annotations

import math

import torch

from edkm.train.config import TrainConfig


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
