"""Our own rows: eDKM, and the dense model tuned as long, both by ``edkm.train``.

Contract: ``steps`` x ``batch`` sequences of the training text, as every trained method sees.
The eDKM row uses the preset that the job names, with the job's bits, steps,
batch, rate and seed. The dense model tuned with a seed is made once for all rows that need it.
Boundary: recipes are ``edkm.train``'s.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edkm.baselines.job import Job
from edkm.baselines.shared import once
from edkm.train.config import TrainConfig, with_preset
from edkm.train.job import run


def dense(job: Job) -> Path:
    """The model tuned without clustering."""
    return tuned(job)


def tuned(job: Job) -> Path:
    """The folder of the dense model tuned as long as trained methods are."""

    def make(folder: Path) -> None:
        settings = {**_shared(job), "out": folder, "plain": True}
        _tune(with_preset("default", settings))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    return once(job.common / f"tuned-{job.seed}", make) / "model"


def edkm(job: Job) -> Path:
    """eDKM (arXiv 2309.00964)."""
    settings = {**_shared(job), "bits": job.bits, "embedding_bits": job.embedding_bits}
    settings["learning_rate"] = job.learning_rate
    return _tune(with_preset(job.preset, settings))


def _shared(job: Job) -> dict[str, Any]:
    return {
        "model": job.model,
        "data": job.text_train,
        "heldout": job.text_heldout,
        "out": job.out,
        "max_steps": job.steps,
        "batch_size": job.batch,
        "accumulate": 1,
        "sequence": job.sequence,
        "learning_rate": job.dense_rate,
        "dtype": "float32",
        "save_every": job.steps,
        "seed": job.seed,
    }


def _tune(config: TrainConfig) -> Path:
    run(config, resume=True)  # a row that was cut off goes on
    return config.out / "model"
