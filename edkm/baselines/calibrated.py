"""Post-training quantization by llmcompressor: RTN, SmoothQuant, GPTQ, AWQ.

Contract: weights of linear layers in asymmetric integers with a scale and a zero point for each
group of a row; embeddings and a tied head in integers of ``embedding_bits`` by rounding, in every
method. Activations stay as they are: SmoothQuant's home is W8A8, weight-only is what a table of
weight bits can hold.
Boundary: the algorithms are llmcompressor's, with its defaults (GPTQ: blocks of 128, damping
0.01, static activation order; SmoothQuant: strength 0.5; AWQ: 20 grid points, duo scaling).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from edkm.baselines.job import Job, calibration_rows, load_source
from edkm.baselines.packed import halve_scales

LINEAR = r"re:.*\.layers\..*proj$"
EMBEDDING = ("Embedding", r"re:.*lm_head$")


def rtn(job: Job) -> Path:
    """Round to nearest: each group's range, split evenly."""
    return _oneshot(job, [_rounding(job, both=True)], calibrate=False)


def smoothquant(job: Job) -> Path:
    """SmoothQuant (arXiv 2211.10438), then rounding."""
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    return _oneshot(job, [SmoothQuantModifier(smoothing_strength=0.5), _rounding(job, both=True)])


def gptq(job: Job) -> Path:
    """GPTQ (arXiv 2210.17323)."""
    from llmcompressor.modifiers.gptq import GPTQModifier

    modifier = GPTQModifier(config_groups={"linear": _group(job, job.bits, [LINEAR])})
    return _oneshot(job, [modifier, _rounding(job, both=False)])


def awq(job: Job) -> Path:
    """AWQ (arXiv 2306.00978), then rounding."""
    from llmcompressor.modifiers.transform.awq import AWQModifier

    return _oneshot(job, [AWQModifier(), _rounding(job, both=True)])


def _rounding(job: Job, *, both: bool) -> Any:
    """Rounding of the embeddings, and of linear layers too if ``both``."""
    from llmcompressor.modifiers.quantization import QuantizationModifier

    groups = {"embedding": _group(job, job.embedding_bits, list(EMBEDDING))}
    if both:
        groups["linear"] = _group(job, job.bits, [LINEAR])
    return QuantizationModifier(config_groups=groups)


def _group(job: Job, bits: int, targets: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": False,
        "strategy": "group",
        "group_size": job.group_size,
    }
    return {"targets": targets, "weights": weights}


def _oneshot(job: Job, recipe: list[Any], *, calibrate: bool = True) -> Path:
    from datasets import Dataset
    from llmcompressor.entrypoints.oneshot import oneshot

    model, tokenizer = load_source(job)
    check_groups(model, job.group_size)
    rows = calibration_rows(job, tokenizer) if calibrate else []
    columns = [{"input_ids": row.ids, "attention_mask": [1] * len(row.ids)} for row in rows]
    torch.manual_seed(job.seed)
    with _offline(), _no_pinning():
        oneshot(
            model=model,
            processor=tokenizer,
            recipe=recipe,
            dataset=Dataset.from_list(columns) if rows else None,
            num_calibration_samples=max(1, len(rows)),
            max_seq_length=job.sequence,
            shuffle_calibration_samples=False,
            log_dir=None,
        )
        folder = job.out / "model"
        model.save_pretrained(folder, save_compressed=True)
    tokenizer.save_pretrained(folder)
    halve_scales(folder)
    return folder


def check_groups(model: Any, size: int) -> None:
    """``ValueError`` names the first weight whose rows ``size`` does not divide."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            columns = module.weight.shape[1]
            if columns % size:
                raise ValueError(
                    f"group_size is {size}, but {name} has rows of {columns} weights; a group "
                    f"must divide them: use a divisor of {columns}"
                )


@contextlib.contextmanager
def _no_pinning() -> Iterator[None]:
    """AWQ pins its cache in page-locked memory, which fails where there is no accelerator."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.accelerator.is_available():
        yield
        return
    with mock.patch.object(IntermediatesCache, "pin_memory", lambda *_: None):
        yield


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Nothing is fetched: model, tokenizer and rows are local."""
    with mock.patch.dict(os.environ, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1"):
        yield
