"""Our own rows: eDKM, and the dense model tuned as long, both by ``edkm.train``.

Contract: ``steps`` x ``batch`` sequences of the training text, as every trained method sees.
The eDKM rows use the preset that the job names, with the job's bits, steps, batch and seed; with
bits allocated, its rate too. The chosen row is tuned whole by each of ``RECIPES``, and keeps the
best on rows of the training text that were held back from it; the time of all counts. The dense
model tuned with a seed is made once for all rows that need it.
Boundary: recipes are ``edkm.train``'s.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from edkm.baselines.job import Job
from edkm.baselines.shared import once
from edkm.export.disk import write_whole
from edkm.train.config import TrainConfig, with_preset
from edkm.train.job import run, tune_teacher
from edkm.train.teacher import teacher_folder

# What the chosen row may differ in from its preset, whose rate suits one model and not another.
RECIPES: dict[str, dict[str, Any]] = {
    "preset": {},
    "fast": {"learning_rate": 3e-4},
    "fast-alone": {"learning_rate": 3e-4, "distill": 0.0, "teacher_epochs": 0.0},
}


def dense(job: Job) -> Path:
    """The model tuned without clustering."""
    return tuned(job)


def tuned(job: Job) -> Path:
    """The folder of the dense model tuned as long as trained methods are."""

    def make(folder: Path) -> None:
        settings = {**_shared(job), "out": folder, "plain": True}
        settings["learning_rate"] = job.dense_rate
        _tune(with_preset("default", settings))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    return once(job.common / f"tuned-{job.seed}", make) / "model"


def edkm(job: Job) -> Path:
    """eDKM (arXiv 2309.00964): every linear layer at the job's bits and rate."""
    return _cluster(job, {"allocate": 0, "learning_rate": job.learning_rate})


def edkm_allocated(job: Job) -> Path:
    """eDKM with bits where they save most, in the bytes of the job's bits; the preset's rate."""
    return _cluster(job, {})


def edkm_chosen(job: Job) -> Path:
    """The allocated row by the recipe that is best on the last rows of its training text.

    Every recipe is tuned for all steps on the other rows; none sees the held-out text.
    """
    found = {}
    for name, recipe in RECIPES.items():
        metrics = job.out / name / "metrics.json"  # written last
        if not metrics.is_file():
            _cluster(job, {**recipe, "heldout": None, "out": metrics.parent})
        shutil.rmtree(metrics.parent / "checkpoints", ignore_errors=True)
        found[name] = json.loads(metrics.read_text(encoding="utf-8"))["perplexity"]["after_hard"]
    write_whole(job.out / "chosen.json", json.dumps(found, indent=1))
    best = min(found, key=lambda name: found[name])
    shutil.copytree(job.out / best / "model", job.out / "model", dirs_exist_ok=True)
    return job.out / "model"


def _cluster(job: Job, more: dict[str, Any]) -> Path:
    """Tune clustered; a teacher that the preset tunes first is tuned once a seed."""
    settings = {**_shared(job), "bits": job.bits, "embedding_bits": job.embedding_bits, **more}
    config = with_preset(job.preset, settings)
    if config.own_teacher is not None:

        def make(folder: Path) -> None:
            tune_teacher(replace(config, out=folder), lambda text: None)

        made = once(job.common / f"teacher-{job.seed}", make)
        config = replace(config, teacher=teacher_folder(replace(config, out=made)))
    return _tune(config)


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
        "dtype": "float32",
        "save_every": job.steps,
        "seed": job.seed,
    }


def _tune(config: TrainConfig) -> Path:
    run(config, resume=True)  # a row that was cut off goes on
    return config.out / "model"
