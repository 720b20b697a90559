"""Clustering by coremltools: k-means after training, and DKM by its authors.

Contract: coremltools finds the values of each linear layer; its table and indices are written in
the format of ``edkm.export``, and so are embeddings at ``embedding_bits``, which are clustered by
``edkm`` (coremltools would untie the head). DKM trains as every trained method does.
Boundary: coremltools' algorithms with its defaults (DKM: temperature 1e-4, three updates a step),
but for DKM's start: the best k-means of one dimension (its option ``opt1d``), not the best of ten
k-means++, which took ten times as long and came out no better.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from edkm.baselines.job import Job, load_source, read_rows
from edkm.clustering import Clustering, cluster
from edkm.export import save
from edkm.train.config import TrainConfig


def kmeans(job: Job) -> Path:
    """k-means of each weight, no tuning (coremltools ``PostTrainingPalettizer``)."""
    from coremltools.optimize.torch.palettization import (
        PostTrainingPalettizer,
        PostTrainingPalettizerConfig,
    )

    model, tokenizer = load_source(job)
    torch.manual_seed(job.seed)
    config = PostTrainingPalettizerConfig.from_dict(
        {"module_name_configs": {name: {"n_bits": job.bits} for name in linear_names(model)}}
    )
    found = PostTrainingPalettizer(model, config).compress()
    return write_palettes(found, tokenizer, job)


def dkm(job: Job) -> Path:
    """DKM (arXiv 2108.12659) while tuning (coremltools ``DKMPalettizer``)."""
    from coremltools.optimize.torch.palettization import DKMPalettizer, DKMPalettizerConfig

    from edkm.train.trainer import ClusterTrainer

    model, tokenizer = load_source(job)
    torch.manual_seed(job.seed)
    one = {"n_bits": job.bits, "weight_threshold": 0, "kmeans_init": "opt1d"}
    config = DKMPalettizerConfig.from_dict(
        {"module_name_configs": dict.fromkeys(linear_names(model), one)}
    )
    palettizer = DKMPalettizer(model, config)
    prepared = palettizer.prepare(inplace=True)
    settings = TrainConfig(
        model=job.model,
        data=job.text_train,
        out=job.out,
        plain=True,
        max_steps=job.steps,
        batch_size=job.batch,
        sequence=job.sequence,
        learning_rate=job.learning_rate,
        dtype="float32",
        seed=job.seed,
    )
    rows = read_rows(job.text_train, tokenizer, job.sequence)
    trainer = ClusterTrainer(
        settings, prepared, rows, plan=None, steps=job.steps, callbacks=[_Step(palettizer)]
    )
    # DKMPalettizer keeps lists in its state, which no checkpoint file holds
    trainer.args.save_strategy = SaveStrategy.NO
    trainer.train()
    return write_palettes(palettizer.finalize(), tokenizer, job)


class _Step(TrainerCallback):
    """Tells coremltools that a step begins."""

    def __init__(self, palettizer: Any) -> None:
        self.palettizer = palettizer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.palettizer.step()


def linear_names(model: nn.Module) -> list[str]:
    """Linear layers but the head, which belongs to the embedding."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    ]


def write_palettes(model: Any, tokenizer: Any, job: Job) -> Path:
    """Write weights that hold at most ``2**bits`` values each as a palettized folder.

    ``ValueError`` names a weight with more values than that.
    """
    model.tie_weights()
    clustering = cluster(model, job.bits, embedding_bits=job.embedding_bits)
    adopt(clustering, job.bits)
    return save(model, job.out / "model", tokenizer=tokenizer)


@torch.no_grad()
def adopt(clustering: Clustering, bits: int) -> None:
    """Take the values that weights of ``bits`` already hold as their centroids."""
    for name, entry in clustering.weights.items():
        entry.codebook.start(entry.weight)
        if entry.codebook.config.bits != bits or "embed" in name:
            continue
        values = entry.weight.unique()
        if len(values) > 2**bits:
            raise ValueError(
                f"{name} holds {len(values)} values after palettization; {bits} bits have at most "
                f"{2**bits}: write it with more bits"
            )
        # spare entries of a table repeat the largest value
        table = torch.cat([values, values[-1:].expand(2**bits - len(values))])
        entry.codebook.centroids.copy_(table.unsqueeze(1))
