"""From settings to a model, its tokenizer and token sequences.

Contract: everything that exists before the first step but for the clustering. ``ValueError`` for
settings, ``DataError`` for data.
Boundary: reads only; clustering and teachers are ``edkm.train.start``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edkm.export.folders import check_folder
from edkm.export.kind import check_plain
from edkm.train.config import TrainConfig
from edkm.train.data import Example, Sequence, read_examples, tokenize
from edkm.train.errors import DataError
from edkm.train.written import repeats


@dataclass(frozen=True)
class Prepared:
    """Everything that exists before the first step."""

    model: Any
    tokenizer: Any
    train: list[Sequence]
    heldout: list[Sequence]
    steps: int  # optimizer steps of the whole run


def quiet_bars() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]


def prepare(config: TrainConfig, *, hollow: bool = False) -> Prepared:
    """Model, tokenizer and token sequences. Raises ``ValueError`` and ``DataError``.

    ``hollow``: as ``read_model`` has it.
    """
    check_folder("out", config.out)
    torch.manual_seed(config.seed)
    source = read_examples(config.data)
    other = read_examples(config.heldout) if config.heldout else None
    if not config.model.exists():
        raise ValueError(
            f"model {config.model} does not exist; give the folder of a transformers causal "
            "language model (config.json, model.safetensors, tokenizer)"
        )
    check_plain("model", config.model)
    tokenizer = read_tokenizer(config.model)
    dtype = "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
    model = read_model(config.model, dtype, hollow=hollow)
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and config.sequence > longest:
        raise ValueError(
            f"sequence is {config.sequence} tokens, but the model takes at most {longest}: give "
            f"--sequence {longest} or less"
        )
    if other is None:
        source, other = split(source, config.heldout_share)
    train = tokenize(source, tokenizer, config.sequence, packing=config.packing)
    heldout = tokenize(other, tokenizer, config.sequence, packing=config.packing)
    per_step = config.batch_size * config.accumulate
    extra = config.teacher_text  # what the teacher writes comes later
    rows = len(train) * repeats(len(train), extra) + extra
    steps = config.max_steps or max(1, math.ceil(config.epochs * rows / per_step))
    return Prepared(model, tokenizer, train, heldout, steps)


def read_model(folder: Path, dtype: torch.dtype | str, *, hollow: bool = False) -> Any:
    """The causal language model in ``folder``; ``hollow``: on the meta device, nothing is read."""
    from transformers import AutoModelForCausalLM

    where = "meta" if hollow else None
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=where)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in ``folder``. ``ValueError`` if transformers finds none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # of a damaged file tokenizers raises Exception itself
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"{folder} holds no tokenizer that transformers reads ({why}); copy the model's "
            "tokenizer.json and tokenizer_config.json there"
        ) from error


def split(source: list[Example] | str, share: float) -> tuple[Any, Any]:
    """(first part, last part): ``share`` of rows or characters held out, at least one row."""
    kept = len(source) - max(1, round(share * len(source)))
    if kept < 1:
        raise DataError("one example cannot be split into training and held-out data; add more")
    return source[:kept], source[kept:]
