"""A training run from settings to artefact: read, measure, cluster, tune, measure, write.

Contract: ``out`` holds the palettized model (or the plain one), its tokenizer, ``metrics.json``
and the checkpoints. Called again with ``resume=True`` after any interruption it goes on and ends
with the same weights.
Boundary: no printing; progress and traces come as ``TrainerCallback``s.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edkm.annealing import Schedule, schedule
from edkm.clustering import Clustering, cluster
from edkm.compensate import compensate
from edkm.dkm import DKMConfig
from edkm.evaluate import collate, perplexity
from edkm.export import bake, save, size_bound
from edkm.train.checkpoint import latest, step_of
from edkm.train.config import TrainConfig
from edkm.train.data import Example, Sequence, read_examples, tokenize
from edkm.train.errors import DataError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """Everything that exists before the first step."""

    model: Any
    tokenizer: Any
    train: list[Sequence]
    heldout: list[Sequence]
    steps: int  # optimizer steps of the whole run


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

    if not resume and config.checkpoints.is_dir() and any(config.checkpoints.iterdir()):
        raise ValueError(
            f"{config.checkpoints} holds checkpoints of an earlier run; go on with --resume, or "
            "give another --out"
        )
    checkpoint = latest(config.checkpoints, config.fingerprint()) if resume else None
    say("reading model and data")
    quiet_bars()
    ready = prepare(config)
    measure = Measure(ready, config)
    if checkpoint is None:
        say("measuring the dense model")
        measure.add("dense", "dense", None)
    teacher = make_teacher(config, ready.model)
    plan = make_plan(config, ready)
    if plan is not None and checkpoint is None:
        say("measuring the clustered model before tuning")
        start(config, ready, plan, measure)
    trainer = ClusterTrainer(
        config,
        ready.model,
        ready.train,
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


def quiet_bars() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]


def prepare(config: TrainConfig) -> Prepared:
    """Model, tokenizer and token sequences. Raises ``ValueError`` and ``DataError``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(config.seed)
    source = read_examples(config.data)
    other = read_examples(config.heldout) if config.heldout else None
    if not config.model.exists():
        raise ValueError(
            f"model {config.model} does not exist; give the folder of a transformers causal "
            "language model (config.json, model.safetensors, tokenizer)"
        )
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    dtype = "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=dtype)
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
    steps = config.max_steps or max(1, math.ceil(config.epochs * len(train) / per_step))
    return Prepared(model, tokenizer, train, heldout, steps)


def split(source: list[Example] | str, share: float) -> tuple[Any, Any]:
    """(first part, last part): ``share`` of rows or characters held out, at least one row."""
    kept = len(source) - max(1, round(share * len(source)))
    if kept < 1:
        raise DataError("one example cannot be split into training and held-out data; add more")
    return source[:kept], source[kept:]


def make_plan(config: TrainConfig, ready: Prepared) -> Schedule | None:
    if config.plain:
        return None
    clustering = cluster(
        ready.model,
        config.bits,
        embedding_bits=config.embedding_bits,
        include=config.include,
        exclude=config.exclude,
        config=DKMConfig(iterations=config.iterations, seed=config.seed),
        importance=config.compensate > 0,
        row_scale=config.row_scale,
    )
    return schedule(
        clustering,
        ready.steps,
        tau_start=config.tau_start,
        tau_end=config.tau_end,
        begin=config.cluster_from,
        straight=config.straight,
    )


def start(config: TrainConfig, ready: Prepared, plan: Schedule, measure: Measure | None) -> None:
    """Fit the codebooks, measure, and compensate the rounding if asked."""
    plan.clustering.start()
    if measure is not None:
        measure.add("before", "hard", plan.clustering)
    if not config.compensate:
        return
    rows = ready.train[:: max(1, len(ready.train) // config.compensate)][: config.compensate]
    batches = []
    for first in range(0, len(rows), config.eval_batch):
        inputs = collate(rows[first : first + config.eval_batch])
        inputs.pop("labels")
        batches.append({**inputs, "use_cache": False})
    compensate(plan.clustering, batches)
    if measure is not None:
        measure.add("compensated", "hard", plan.clustering)


def make_teacher(config: TrainConfig, model: Any) -> Any:
    if config.distill == 0:
        return None
    if config.teacher is None:
        teacher = copy.deepcopy(model)
    else:
        from transformers import AutoModelForCausalLM

        teacher = AutoModelForCausalLM.from_pretrained(config.teacher, dtype=model.dtype)
    if teacher.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the teacher's vocabulary has {teacher.config.vocab_size} tokens, the model's "
            f"{model.config.vocab_size}; a teacher must share the model's tokenizer"
        )
    return teacher.eval().requires_grad_(False)


class Measure:
    """Held-out perplexities, by name."""

    def __init__(self, ready: Prepared, config: TrainConfig) -> None:
        self.model, self.rows, self.batch = ready.model, ready.heldout, config.eval_batch
        self.path = config.out / "perplexity.json"  # so that a resumed run knows the first ones
        self.found: dict[str, float] = {}
        if self.path.is_file():
            self.found = json.loads(self.path.read_text(encoding="utf-8"))

    def add(self, name: str, kind: Any, clustering: Clustering | None) -> None:
        if clustering is None:
            self.found[name] = perplexity(self.model, self.rows, batch=self.batch)
        else:
            with clustering.frozen(kind):
                self.found[name] = perplexity(self.model, self.rows, batch=self.batch)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.found), encoding="utf-8")


def write(config: TrainConfig, ready: Prepared, plan: Schedule | None) -> dict[str, int]:
    """Write the artefact; bytes of the file, and what bits and tables alone come to."""
    folder = config.out / "model"
    if plan is None:
        ready.model.save_pretrained(folder)
        ready.tokenizer.save_pretrained(folder)
        return {"file_bytes": _size(folder)}
    save(ready.model, folder, tokenizer=ready.tokenizer)
    if config.dense:
        bake(folder, config.out / "dense")
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
    metrics = {
        "perplexity": measure.found,
        "steps": ready.steps,
        "train_sequences": len(ready.train),
        "heldout_sequences": len(ready.heldout),
        "tuning_s": seconds,
        **files,
        "clustering": plan.clustering.metrics() if plan else {},
        "log": history,
        "config": config.as_json(),
    }
    text = json.dumps(metrics, indent=1) + "\n"
    (config.out / "metrics.json").write_text(text, encoding="utf-8")
    return metrics
