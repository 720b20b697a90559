"""More to tune on: text that the dense teacher writes.

Contract: a written sequence begins as one of the training data does and goes on as the teacher
would; loss falls on every token but the first. Which ones is determined by the data, the seed
and the teacher; they are kept in ``out``, so that a resumed run reads the same.
Where they are many, the data itself is repeated, so that it stays a quarter of an epoch.
Boundary: the model itself is not looked at.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from edkm.export.disk import disk_told
from edkm.train.config import TrainConfig
from edkm.train.data import IGNORE, Sequence

FILE = "written.safetensors"  # int64 ids, [sequences, tokens]
BEGINNING = 12  # tokens of the training data that a written sequence begins with
TEMPERATURE = 0.9  # below 1: the tail of a small model's distribution is noise
OWN_SHARE = 0.25  # of the data itself in an epoch, about, where it would be less
_AT_ONCE = 64  # sequences that are written together


def written(config: TrainConfig, train: list[Sequence], teacher: Any) -> list[Sequence]:
    """The ``config.teacher_text`` sequences of this run: kept ones, or new ones, then kept."""
    path = config.out / FILE
    settings = config.fingerprint()
    if path.is_file():
        with safe_open(path, "pt") as kept:
            if (kept.metadata() or {}).get("settings") == settings:
                return [as_sequence(row) for row in kept.get_tensor("ids").tolist()]
    ids = write(teacher, train, config.teacher_text, config.sequence, config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with disk_told():
        save_file({"ids": ids}, partial, metadata={"settings": settings})
    os.replace(partial, path)
    return [as_sequence(row) for row in ids.tolist()]


def repeats(own: int, extra: int) -> int:
    """How often each of ``own`` sequences is in an epoch with ``extra`` written ones."""
    return max(1, round(extra * OWN_SHARE / (1 - OWN_SHARE) / own))


def as_sequence(ids: list[int]) -> Sequence:
    """Loss on every token but the first, which nothing predicts."""
    return Sequence(ids, [IGNORE, *ids[1:]], list(range(len(ids))))


@torch.no_grad()
def write(teacher: Any, train: list[Sequence], count: int, length: int, seed: int) -> Tensor:
    """``count`` sequences of ``length`` tokens, int64 ``[count, length]``.

    Training sequences too short to begin with are passed over; ``ValueError`` if all are.
    """
    begun = min(BEGINNING, length - 1)
    usable = [row.ids[:begun] for row in train if len(row.ids) >= begun]
    if not usable:
        raise ValueError(
            f"teacher_text is {count}, but no training sequence has {begun} tokens for the teacher "
            "to go on from; give longer data, or teacher_text 0"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        chosen = torch.randint(len(usable), (count,)).tolist()
        made = []
        for first in range(0, count, _AT_ONCE):
            ids = torch.tensor([usable[i] for i in chosen[first : first + _AT_ONCE]])
            made.append(extend(teacher, ids, length - begun, temperature=TEMPERATURE))
    return torch.cat(made)


def extend(teacher: Any, ids: Tensor, count: int, temperature: float | None) -> Tensor:
    """``ids`` ``[b, t]`` with ``count`` more tokens; the end of a text does not end a sequence.

    Sampled from the whole distribution at ``temperature``; None: the likeliest token each time.
    """
    if count < 1:
        return ids
    how: dict[str, Any] = {"do_sample": False}
    if temperature is not None:  # top_k 0 and top_p 1: the whole distribution
        how = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": temperature}
    longer: Tensor = teacher.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        min_new_tokens=count,
        max_new_tokens=count,
        pad_token_id=0,
        **how,
    )
    return longer
