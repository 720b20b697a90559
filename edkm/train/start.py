"""What a clustered run begins with: bits for each weight, codebooks, rounding, the teacher.

Contract: the same settings and data give the same start. The allocation of bits is kept in ``out``,
so that a resumed run clusters as it did.
Boundary: before the first step; the order of things is ``edkm.train.job``'s.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from edkm.allocation import Allocation, allocate
from edkm.annealing import Schedule, schedule
from edkm.clustering import cluster
from edkm.compensate import compensate
from edkm.dkm import DKMConfig
from edkm.evaluate import collate
from edkm.export.disk import write_whole
from edkm.export.kind import check_plain
from edkm.train.config import TrainConfig
from edkm.train.measure import Measure
from edkm.train.prepare import Prepared, read_model
from edkm.train.teacher import teacher_folder

ALLOCATION = "allocation.json"


def make_plan(config: TrainConfig, ready: Prepared) -> Schedule | None:
    """The clustering and its schedule; None for a plain run."""
    if config.plain:
        return None
    given = find_allocation(config, ready) if config.allocate else None
    clustering = cluster(
        ready.model,
        config.bits,
        embedding_bits=config.embedding_bits,
        include=config.include,
        exclude=config.exclude,
        per_module=given.per_module if given else None,
        config=DKMConfig(iterations=config.iterations, seed=config.seed, form=config.form),
        importance=config.compensate > 0,
        row_scale=config.row_scale,
        group_size=config.group_size,
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
    compensate(plan.clustering, calibration(config, ready, config.compensate))
    if measure is not None:
        measure.add("compensated", "hard", plan.clustering)


def calibration(config: TrainConfig, ready: Prepared, count: int) -> list[dict[str, Any]]:
    """The model's inputs for ``count`` sequences, evenly spread over the training data."""
    rows = ready.train[:: max(1, len(ready.train) // count)][:count]
    batches = []
    for first in range(0, len(rows), config.eval_batch):
        inputs = collate(rows[first : first + config.eval_batch])
        inputs.pop("labels")
        batches.append({**inputs, "use_cache": False})
    return batches


def find_allocation(config: TrainConfig, ready: Prepared) -> Allocation:
    """The kept allocation, or a new one, which is then kept; ``ready.model`` is not clustered."""
    kept = kept_allocation(config)
    if kept is not None:
        return kept
    found = allocate(
        ready.model,
        calibration(config, ready, config.allocate),
        config.bits,
        embedding_bits=config.embedding_bits,
        include=config.include,
        exclude=config.exclude,
    )
    config.out.mkdir(parents=True, exist_ok=True)
    kept_as = {"settings": config.fingerprint(), "allocation": found.as_json()}
    write_whole(config.out / ALLOCATION, json.dumps(kept_as, indent=1) + "\n")
    return found


def kept_allocation(config: TrainConfig) -> Allocation | None:
    """What an earlier start of this run, under the same settings, found."""
    path = config.out / ALLOCATION
    if not (config.allocate and path.is_file()):
        return None
    read = json.loads(path.read_text(encoding="utf-8"))
    same = read["settings"] == config.fingerprint()
    return Allocation.from_json(read["allocation"]) if same else None


def find_teacher(config: TrainConfig, model: Any) -> Path | None:
    """Folder of the dense teacher of ``model``; None without distillation.

    ``ValueError`` if it cannot teach.
    """
    from transformers import AutoConfig

    if config.distill == 0:
        return None
    folder = config.teacher or config.model
    if config.own_teacher is not None:
        folder = teacher_folder(config)
    check_plain("teacher", folder)
    taught, its = model.config, AutoConfig.from_pretrained(folder)
    if its.vocab_size != taught.vocab_size:
        raise ValueError(
            f"the teacher's vocabulary has {its.vocab_size} tokens, the model's "
            f"{taught.vocab_size}; a teacher must share the model's tokenizer"
        )
    if config.distill_hidden and _states(its) != _states(taught):
        raise ValueError(
            f"distill_hidden is {config.distill_hidden}, but the teacher has (layers, hidden size) "
            f"{_states(its)} and the model {_states(taught)}; give a teacher of the model's shape, "
            "or distill_hidden 0"
        )
    return folder


def _states(shape: Any) -> tuple[int, int]:
    """How many hidden states a model of this configuration has, and of what size."""
    return shape.num_hidden_layers, shape.hidden_size


def make_teacher(config: TrainConfig, model: Any) -> Any:
    """The dense teacher, fixed; ``model``, not tuned yet, may be it. None without distillation."""
    folder = find_teacher(config, model)
    if folder is None:
        return None
    return fixed(
        copy.deepcopy(model) if folder == config.model else read_model(folder, model.dtype)
    )


def fixed(teacher: Any) -> Any:
    return teacher.eval().requires_grad_(False)
