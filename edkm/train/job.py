"""A training run from settings to artefact: read, measure, cluster, tune, measure, write.

Contract: ``out`` holds the palettized model (or the plain one), its tokenizer, ``metrics.json``
and the checkpoints. Called again with ``resume=True`` after any interruption it goes on and ends
with the same weights.
Boundary: no printing; progress and traces come as ``TrainerCallback``s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edkm.annealing import Schedule
from edkm.export import bake, save, size_bound
from edkm.export.disk import disk_told, write_whole
from edkm.export.folders import replacing
from edkm.train.checkpoint import go_on_from, step_of
from edkm.train.config import TrainConfig
from edkm.train.measure import Measure
from edkm.train.prepare import Prepared, prepare, quiet_bars
from edkm.train.start import (
    find_allocation,
    kept_allocation,
    make_plan,
    make_teacher,
    start,
)
from edkm.train.teacher import next_pass
from edkm.train.written import repeats, written

Say = Callable[[str], None]


def run(
    config: TrainConfig,
    *,
    resume: bool = False,
    callbacks: list[Any] | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Do ``config``; returns what ``metrics.json`` holds.

    ``callbacks``: further ``TrainerCallback``s. ``say`` is told each phase. Raises ``ValueError``
    and ``DataError`` for settings and data, ``DivergedError`` if the loss is not finite,
    ``OSError`` as the disk says.
    """
    from edkm.train.trainer import ClusterTrainer

    checkpoint = go_on_from(config, resume)
    quiet_bars()
    tune_teacher(config, say)
    say("reading model and data")
    ready = prepare(config)
    measure = Measure(ready, config)
    if checkpoint is None:
        say("measuring the dense model")
        measure.add("dense", "dense", None)
    teacher = make_teacher(config, ready.model)
    if config.allocate and not config.plain and kept_allocation(config) is None:
        say("measuring what each weight may lose")
        find_allocation(config, ready)
    plan = make_plan(config, ready)
    if plan is not None and checkpoint is None:
        say("measuring the clustered model before tuning")
        start(config, ready, plan, measure)
    rows = ready.train
    if config.teacher_text:
        say(f"the teacher writes {config.teacher_text} sequences")
        extra = written(config, rows, teacher)
        rows = rows * repeats(len(rows), len(extra)) + extra
    trainer = ClusterTrainer(
        config,
        ready.model,
        rows,
        plan=plan,
        teacher=teacher,
        steps=ready.steps,
        callbacks=callbacks or [],
    )
    say(f"tuning for {ready.steps} steps")
    begun = time.perf_counter()
    if checkpoint is not None and step_of(checkpoint) == ready.steps:
        trainer.load_weights(checkpoint)  # all steps were done; the result was not written
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - begun
    say("measuring and writing")
    if plan is not None:
        plan.step(ready.steps - 1)
        measure.add("after_soft", "soft", plan.clustering)
        measure.add("after_hard", "hard", plan.clustering)
    else:
        measure.add("after", "dense", None)
    files = write(config, ready, plan)
    history = trainer.state.log_history
    return write_metrics(config, ready, measure, plan, files, seconds, history)


def tune_teacher(config: TrainConfig, say: Say) -> None:
    """Tune the dense teacher that ``config`` asks for, as far as it is not there already."""
    while (tuning := next_pass(config)) is not None:
        say(f"tuning a dense teacher: {tuning.out.name}")
        run(tuning, resume=True)


@disk_told()
def write(config: TrainConfig, ready: Prepared, plan: Schedule | None) -> dict[str, int]:
    """Write the artefact; bytes of the file, and what bits and tables alone come to."""
    folder = config.model_folder  # what is there is this run's own: see go_on_from
    if plan is None:
        with replacing(folder, force=True) as new:
            ready.model.save_pretrained(new)
            ready.tokenizer.save_pretrained(new)
        return {"file_bytes": _size(folder)}
    save(ready.model, folder, tokenizer=ready.tokenizer)
    if config.dense:
        bake(folder, config.dense_folder, force=True)
    palettes = plan.clustering.palettes()
    return {"file_bytes": _size(folder), "palette_bytes": size_bound(palettes)}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def write_metrics(
    config: TrainConfig,
    ready: Prepared,
    measure: Measure,
    plan: Schedule | None,
    files: dict[str, int],
    seconds: float,
    history: list[dict[str, float]],
) -> dict[str, Any]:
    allocation = kept_allocation(config) if plan else None
    metrics = {
        "perplexity": measure.found,
        "steps": ready.steps,
        "train_sequences": len(ready.train),
        "heldout_sequences": len(ready.heldout),
        "tuning_s": seconds,
        **files,
        "allocation": allocation.as_json() if allocation else None,
        "clustering": plan.clustering.metrics() if plan else {},
        "log": history,
        "config": config.as_json(),
    }
    text = json.dumps(metrics, indent=1) + "\n"
    write_whole(config.out / "metrics.json", text)
    return metrics
